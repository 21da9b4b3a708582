//! Whoever joins and leaves, or is joined and left, has afterwards what it had before.

#![cfg(not(busway_loom))]

mod common;

use busway::pool::{Member, Pool, PoolConfig};
use busway::{Deadline, Error, Idle, JoinError, Link, LinkSet, Plugin};
use common::directory::Directory;
use common::figures::{figure, is_long};
use common::footprint::{Footprint, Memory};
use common::pipe::{Reports, say};
use common::{SOON, Setup, argument, attach, emulated, roles, serve, signal, watchdog_of};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

roles!(host, comer, echo, lingers);

const ECHO: u32 = 1;

/// Some first rounds fill caches, of the library's as of the allocator's.
const WARM: usize = 20;
/// Resident bytes that may stay, whatever the rounds: what allocators keep.
const SLACK: usize = 12 << 20;

/// How a process is joined and left again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Link,
    Refused,
    Set,
    Tasks,
    Tokio,
    Member,
    Pools,
    Spawned,
    Killed,
}

const KINDS: [Kind; 9] = [
    Kind::Link,
    Kind::Refused,
    Kind::Set,
    Kind::Tasks,
    Kind::Tokio,
    Kind::Member,
    Kind::Pools,
    Kind::Spawned,
    Kind::Killed,
];

impl Kind {
    fn rounds(self) -> usize {
        match self {
            _ if is_long() => 10_000,
            // A process each time.
            Kind::Spawned | Kind::Killed => 30,
            _ => 100,
        }
    }

    fn of(name: &str) -> Self {
        KINDS.into_iter().find(|kind| format!("{kind:?}") == name).expect("a kind")
    }
}

/// Runs `round` so often, then `last`, and demands that this process then has what it had after the first ones.
fn rounds(what: &str, count: usize, mut round: impl FnMut(usize), last: impl FnOnce()) {
    (0..WARM).for_each(&mut round);
    let (before, memory) = (Footprint::now(), Memory::now());
    (0..count).for_each(&mut round);
    last();
    before.is_back(what);
    let after = Memory::now();
    assert!(after.mappings <= memory.mappings + 20, "{what}, {count} times: {memory:?} became {after:?}");
    // An emulator keeps what it has translated.
    assert!(
        emulated() || after.resident <= memory.resident + SLACK,
        "{what}, {count} times: {memory:?} became {after:?}"
    );
}

/// The side that listens, and says so when it is done.
fn host() {
    let kind = Kind::of(&argument());
    let (setup, directory) = (Setup::tiny(1024, 8), Directory::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (set, pool) = (LinkSet::new().expect("a set"), pool());
    let listener = setup.host().listen(directory.socket()).expect("listen");
    let pool_path = directory.path().join("pool");
    let door = pool.listen(&pool_path).expect("listen");
    let mut comer = match kind {
        Kind::Pools | Kind::Spawned | Kind::Killed => None,
        Kind::Member => Some(setup.command_with("comer", format!("{kind:?} {}", pool_path.display()))),
        _ => Some(setup.command_with("comer", format!("{kind:?} {}", directory.socket().display()))),
    }
    .map(|mut command| command.spawn().expect("a child"));
    let accept = || listener.accept(SOON).expect("somebody comes");
    let last = || {
        if let Some(comer) = &mut comer {
            assert!(comer.wait().expect("reaped").success());
        }
    };
    let round = |_| match kind {
        Kind::Link => {
            let link = accept().admit().expect("admitted");
            answer(&link);
            assert!(matches!(link.recv(SOON).map(drop), Err(Error::Closed)));
        }
        Kind::Refused => accept().refuse(),
        Kind::Set => {
            let link = accept().admit().expect("admitted");
            let token = set.insert(&link).expect("its first set");
            let (from, request) = set.recv(SOON).expect("a request");
            assert_eq!(from, token);
            request.expect("a request").reply(b"").expect("answer");
            assert!(matches!(set.recv(SOON).expect("its end").1, Err(Error::Closed)));
        }
        Kind::Tasks => {
            let link = accept().admit().expect("admitted");
            smol::block_on(asynchronous(&link));
        }
        Kind::Tokio => {
            let link = accept().admit().expect("admitted");
            runtime.block_on(async {
                link.drive_on_tokio().expect("the first driver");
                asynchronous(&link).await;
                drop(link);
                // Its driver ends with it.
                while runtime.metrics().num_alive_tasks() > 0 {
                    tokio::task::yield_now().await;
                }
            });
        }
        Kind::Member => {
            door.accept(SOON).expect("somebody comes").admit().expect("admitted");
            pool.worker(["work"]).expect("a queue").recv(SOON).expect("a call").reply(b"").expect("answer");
            assert!(pool.wait_members(0, SOON));
        }
        Kind::Pools => {
            let pool = self::pool();
            let worker = pool.worker(["work"]).expect("a queue");
            pool.descriptor().expect("a descriptor");
            thread::scope(|threads| {
                threads.spawn(|| worker.recv(SOON).expect("a call").reply(b"").expect("answer"));
                pool.queue("work").expect("a queue").call(ECHO, b"", SOON).expect("a reply");
            });
            pool.close(SOON);
        }
        Kind::Spawned => drop(setup.spawn("echo").call(ECHO, b"", SOON).expect("a reply")),
        Kind::Killed => {
            let plugin = setup.spawn("lingers");
            signal(plugin.id(), libc::SIGKILL);
            assert!(matches!(plugin.call(ECHO, b"", SOON), Err(Error::PeerDied { .. })));
        }
    };
    rounds(&format!("{kind:?}, host"), kind.rounds(), round, last);
    say("clean");
}

fn pool() -> Pool {
    let classes = vec![busway::SizeClass { size: 256, count: 8 }];
    Pool::create(&PoolConfig::new(["work"]).classes(classes).members(4).idle(Idle::Park)).expect("a pool")
}

fn answer(link: &Link) {
    link.recv(SOON).expect("a request").reply(b"").expect("answer");
}

async fn asynchronous(link: &Link) {
    // The other side waits for this, so it is waited for: threads that stay are begun in the first round.
    let nothing = link.recv_async(Duration::from_millis(1)).await;
    assert!(matches!(nothing, Err(Error::Timeout { .. })), "{nothing:?}");
    link.send_async(ECHO, b"", SOON).await.expect("room");
    link.recv_async(SOON).await.expect("a request").reply(b"").expect("answer");
    assert!(matches!(link.recv_async(SOON).await.map(drop), Err(Error::Closed)));
}

/// The side that comes, as often as the other one waits for it.
fn comer() {
    let argument = argument();
    let (kind, path) = argument.split_once(' ').expect("a kind and a path");
    let (kind, path) = (Kind::of(kind), Path::new(path));
    let config = common::child_config();
    let round = |round| match kind {
        Kind::Refused => {
            let refused = Plugin::connect(path, &config).map(drop);
            assert!(matches!(refused, Err(Error::Join(JoinError::Refused { .. }))), "{refused:?}");
        }
        Kind::Member => {
            let member = Member::connect(path, Idle::Park).expect("connect");
            drop(member.queue("work").expect("a queue").call(ECHO, b"", SOON).expect("a reply"));
        }
        _ => {
            let link = Plugin::connect(path, &config).expect("connect");
            if matches!(kind, Kind::Tasks | Kind::Tokio) {
                drop(link.recv(SOON).expect("it may begin"));
            }
            drop(link.call(ECHO, &[7; 500], SOON).expect("a reply"));
            // In every way to leave.
            if round % 2 == 0 {
                link.close(Deadline::NEVER);
            }
        }
    };
    rounds(&format!("{kind:?}, comer"), kind.rounds(), round, || {});
}

fn echo() {
    serve(&attach(), |request| {
        let bytes = request.to_vec();
        request.reply(&bytes).expect("answer");
    });
}

fn lingers() {
    let link = attach();
    let _ = link.recv(Deadline::NEVER).map(std::mem::forget);
    let _ = link.recv(Deadline::NEVER).map(drop);
}

#[test]
fn joins_and_leaves_leave_nothing_behind() {
    let _watchdog = watchdog_of(if is_long() { 900 } else { 120 });
    for kind in KINDS {
        let mut command: Command = Setup::default().idle("park").command_with("host", format!("{kind:?}"));
        // Heaps of threads, and stacks of those that have ended, are kept; how many says the scheduler.
        command.env("MALLOC_ARENA_MAX", "1").env("GLIBC_TUNABLES", "glibc.pthread.stack_cache_size=0");
        let mut reports = Reports::of(&mut command);
        let mut host = command.spawn().expect("a child");
        drop(command);
        assert_eq!(reports.next().as_deref(), Some("clean"), "{kind:?}");
        assert!(host.wait().expect("reaped").success());
        figure("G2", &format!("joins and leaves that left nothing behind, {kind:?}"), kind.rounds());
    }
}
