//! Pools by name: who may have one, what the dead leave, and members that no socket led there.
#![cfg(feature = "shm-name")]

mod common;

use busway::pool::{Member, Pool, PoolConfig};
use busway::{Config, Deadline, Error, Idle, JoinError, Link, Request, Result, SizeClass};
use common::directory::Directory;
use common::namespaces::in_namespaces;
use common::pipe::{Reports, say};
use common::trace::{self, Traced, can_trace};
use common::user::is_root;
use common::{SOON, Setup, argument, assert_err, procfs, roles, signal, skip, until, watchdog};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

roles!(hosts, forks_and_hosts, echoes, takes_two, calls_forever, steps, contends, without_shm);

fn config() -> PoolConfig {
    let classes = [(64, 32), (1024, 16)];
    PoolConfig::new(["work"]).classes(classes.map(|(size, count)| SizeClass { size, count }).into()).members(4)
}

fn open(name: &str) -> Result<Member> {
    Member::open_named(name, Idle::default())
}

/// A name that no other test has.
fn new_name() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("test-{}-{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}

/// Segment and lock file of a pool.
fn files(name: &str) -> [PathBuf; 2] {
    // SAFETY: only says who we are.
    let user = unsafe { libc::geteuid() };
    [format!("/dev/shm/busway-{user}-{name}"), format!("/dev/shm/busway-lock-{user}-{name}")].map(PathBuf::from)
}

fn nothing_is_left(name: &str) {
    assert_eq!(files(name).map(|path| fs::symlink_metadata(path).is_ok()), [false; 2], "segment, lock file");
}

/// A child in a role for a pool of this name, and its first word.
fn start(role: &str, name: &str) -> (Child, Reports) {
    let mut command = Setup::default().command_with(role, name);
    let mut reports = Reports::of(&mut command);
    let child = command.spawn().expect("spawn a child");
    assert_eq!(reports.expect(), "ready");
    (child, reports)
}

/// Kills a child that has not ended by itself.
fn kill(mut child: Child) {
    child.kill().expect("kill");
    let status = child.wait().expect("reap");
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
}

fn hosts() {
    let _pool = Pool::create_named(&argument(), &config()).expect("create");
    say("ready");
    thread::sleep(SOON);
}

fn echoes() {
    let member = open(&argument()).expect("open");
    say("ready");
    let echo = |request: Request<'_>| {
        let payload = request.to_vec();
        request.reply(&payload).expect("reply");
    };
    member.worker(["work"]).unwrap().serve(echo).expect("until closed");
}

/// Takes two calls and answers neither.
fn takes_two() {
    let member = open(&argument()).expect("open");
    say("ready");
    let worker = member.worker(["work"]).unwrap();
    let _held = [(); 2].map(|()| worker.recv(Deadline::NEVER).expect("a request"));
    say("taken");
    thread::sleep(SOON);
}

fn calls_forever() {
    let member = open(&argument()).expect("open");
    say("ready");
    let queue = member.queue("work").unwrap();
    let _loans = [40, 100].map(|len| member.loan(len, SOON).unwrap());
    loop {
        let _ = queue.call(1, &[7; 100], SOON);
    }
}

#[test]
fn processes_meet_by_name() {
    let _watchdog = watchdog();
    let name = new_name();
    assert_err!(open(&name), Error::Join(JoinError::NoHost));
    let pool = Pool::create_named(&name, &config()).unwrap();
    assert_err!(Pool::create_named(&name, &config()), Error::Join(JoinError::Taken { .. }));
    let workers = [(); 2].map(|()| start("echoes", &name).0);
    let ours = open(&name).expect("in one process too");
    assert_eq!((pool.place(), ours.place()), (1, 4));
    assert_err!(open(&name), Error::Join(JoinError::Taken { .. }));
    until("all have been noticed", || pool.members() == 3);
    for member in [&*pool, &ours] {
        for len in [0, 32, 100, 1000] {
            assert_eq!(member.queue("work").unwrap().call(1, &vec![3; len], SOON).unwrap().to_vec(), vec![3; len]);
        }
    }
    drop(ours);
    assert!(pool.wait_members(2, SOON));
    assert_err!(pool.spawn(Command::new("true")), Error::Unsupported { .. });
    assert_err!(pool.listen(new_name()), Error::Unsupported { .. });
    pool.close(SOON);
    for mut worker in workers {
        assert!(worker.wait().unwrap().success(), "a worker failed");
    }
    assert!(pool.wait_members(0, SOON), "who left is not recovered");
    assert_err!(open(&name), Error::Closed);
    assert_eq!(pool.slots_in_use(), 0);
    drop(pool);
    nothing_is_left(&name);
    assert_err!(open(&name), Error::Join(JoinError::NoHost));
}

#[test]
fn names_out_of_bounds_are_errors() {
    for name in ["", ".", ".a", "a/b", "../a", "a b", "\u{e4}", "a\0", &"a".repeat(65)] {
        assert_err!(Pool::create_named(name, &config()), Error::Join(JoinError::InvalidName));
        assert_err!(open(name), Error::Join(JoinError::InvalidName));
    }
    let name = new_name();
    assert_err!(Pool::create_named(&name, &config().members(0)), Error::Join(JoinError::Geometry { .. }));
    nothing_is_left(&name);
    let longest = format!("{:a<64}", new_name());
    drop(Pool::create_named(&longest, &config()).expect("64 bytes"));
}

#[test]
fn a_dead_host_is_told_and_cleared() {
    let _watchdog = watchdog();
    let name = new_name();
    let (host, _) = start("hosts", &name);
    assert_err!(Pool::create_named(&name, &config()), Error::Join(JoinError::Taken { .. }));
    let member = open(&name).unwrap();
    thread::scope(|threads| {
        let queue = member.queue("work").unwrap();
        let call = threads.spawn(move || queue.call(1, b"", Deadline::NEVER).map(drop));
        until("it is sent", || member.stats().sent == 1);
        kill(host);
        assert_err!(call.join().unwrap(), Error::PeerDied { maybe_executed: false });
    });
    assert!(member.is_closed());
    assert_err!(open(&name), Error::Join(JoinError::NoHost));
    assert!(files(&name).iter().all(|path| path.exists()), "nobody has cleared it yet");
    let pool = Pool::create_named(&name, &config()).expect("a new one");
    let heir = open(&name).expect("it is open");
    drop(member);
    pool.queue("work").unwrap().send(9, b"", SOON).unwrap();
    assert_eq!(heir.worker(["work"]).unwrap().recv(SOON).unwrap().method(), 9);
    drop(pool);
    nothing_is_left(&name);
    assert!(heir.is_closed());
}

/// The forked child has the lock of its parent, and lives on.
fn forks_and_hosts() {
    let _pool = Pool::create_named(&argument(), &config()).expect("create");
    // SAFETY: the child makes two system calls and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe {
            libc::alarm(60);
            libc::pause();
            libc::_exit(0);
        }
    }
    say("ready");
    say(child);
    thread::sleep(SOON);
}

#[test]
fn a_fork_of_a_dead_host_keeps_nobody_out() {
    let _watchdog = watchdog();
    let name = new_name();
    let (host, mut reports) = start("forks_and_hosts", &name);
    let fork = reports.number() as u32;
    assert_err!(Pool::create_named(&name, &config()), Error::Join(JoinError::Taken { .. }));
    kill(host);
    assert_err!(open(&name), Error::Join(JoinError::NoHost));
    let pool = Pool::create_named(&name, &config()).expect("a new one");
    let member = open(&name).expect("it is open");
    signal(fork, libc::SIGKILL);
    until("it is noticed", || pool.members() == 1);
    assert_err!(Pool::create_named(&name, &config()), Error::Join(JoinError::Taken { .. }));
    drop((member, pool));
    nothing_is_left(&name);
}

#[test]
fn members_that_die_are_recovered() {
    let _watchdog = watchdog();
    let name = new_name();
    let pool = Pool::create_named(&name, &config()).unwrap();
    let queue = pool.queue("work").unwrap();
    let (doomed, mut reports) = start("takes_two", &name);
    let pending: Vec<_> = (0..4).map(|n| queue.submit(1, &[n; 50], Deadline::NEVER).unwrap()).collect();
    assert_eq!(reports.expect(), "taken");
    kill(doomed);
    let (worker, _) = start("echoes", &name);
    let mut results: Vec<_> = pending.into_iter().map(|pending| pending.wait().map(|reply| reply.to_vec())).collect();
    results.drain(..2).for_each(|result| assert_err!(result, Error::PeerDied { maybe_executed: true }));
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert!(pool.wait_members(1, SOON));
    for _ in 0..20 {
        let (caller, _) = start("calls_forever", &name);
        until("it holds loans", || pool.slots_in_use() >= 2);
        kill(caller);
        until("all of it came back", || pool.slots_in_use() == 0);
    }
    assert!(pool.wait_members(1, SOON));
    kill(worker);
    assert!(pool.wait_members(0, SOON));
    drop(pool);
    nothing_is_left(&name);
}

#[test]
fn what_is_not_such_a_pool_is_an_error() {
    let _watchdog = watchdog();
    let name = new_name();
    let (host, _) = start("hosts", &name);
    let [segment, lock] = files(&name);
    let (memory, record) =
        (File::options().read(true).write(true).open(&segment), File::options().write(true).open(&lock));
    let (memory, record) = (memory.unwrap(), record.unwrap());
    let len = memory.metadata().unwrap().len();
    // With one byte of the segment changed, and back.
    let patched = |at: u64, other: u8| {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, at).unwrap();
        memory.write_all_at(&[other], at).unwrap();
        let result = open(&name);
        memory.write_all_at(&byte, at).unwrap();
        result
    };
    assert_err!(patched(0, 1), Error::Join(JoinError::BadMagic));
    assert_err!(patched(8, 77), Error::VersionMismatch { ours: 1, theirs: 77 });
    assert_err!(patched(12, 1), Error::Join(JoinError::Geometry { .. }));
    memory.set_len(len + 4096).unwrap();
    assert_err!(open(&name), Error::Join(JoinError::Geometry { .. }));
    memory.set_len(len).unwrap();
    for path in files(&name) {
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_err!(open(&name), Error::Join(JoinError::Identity { .. }));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        // A second name, and behind a symbolic link.
        let aside = PathBuf::from(format!("{}.aside", path.display()));
        fs::hard_link(&path, &aside).unwrap();
        assert_err!(open(&name), Error::Join(JoinError::Identity { .. }));
        fs::remove_file(&path).unwrap();
        symlink(&aside, &path).unwrap();
        assert_err!(open(&name), Error::Join(JoinError::Identity { .. }));
        fs::remove_file(&path).unwrap();
        assert_err!(open(&name), Error::Join(JoinError::NoHost));
        fs::rename(&aside, &path).unwrap();
        match std::os::unix::fs::chown(&path, Some(12_345), None) {
            Ok(()) => assert_err!(open(&name), Error::Join(JoinError::Identity { .. })),
            Err(e) => skip(format!("files of other users: {e}")),
        }
        let _ = std::os::unix::fs::chown(&path, Some(0), None);
        drop(open(&name).expect("as it was"));
    }
    // The inode of a namespace.
    record.write_all_at(&[1; 8], 16).unwrap();
    assert_err!(open(&name), Error::Join(JoinError::Identity { .. }));
    assert_err!(Pool::create_named(&name, &config()), Error::Join(JoinError::Taken { .. }));
    memory.set_len(100).unwrap();
    kill(host);
    assert_err!(open(&name), Error::Join(JoinError::NoHost));
    drop(Pool::create_named(&name, &config()).expect("a new one"));
    nothing_is_left(&name);
    let (host, _) = start("hosts", &name);
    for len in [4095, 0] {
        File::options().write(true).open(&segment).unwrap().set_len(len).unwrap();
        assert_err!(open(&name), Error::Join(JoinError::Geometry { .. }));
    }
    kill(host);
    drop(Pool::create_named(&name, &config()).expect("a new one"));
    nothing_is_left(&name);
}

#[test]
fn what_is_in_the_way_is_an_error_or_cleared() {
    let name = new_name();
    let [segment, lock] = files(&name);
    let directory = Directory::new();
    let precious = directory.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    let refused = || assert_err!(Pool::create_named(&name, &config()), Error::Join(JoinError::Identity { .. }));
    symlink(&precious, &lock).unwrap();
    refused();
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    refused();
    fs::remove_dir(&lock).unwrap();
    assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&lock).status().unwrap().success());
    refused();
    fs::remove_file(&lock).unwrap();
    fs::write(&lock, "").unwrap();
    fs::set_permissions(&lock, Permissions::from_mode(0o660)).unwrap();
    refused();
    // A dead host's file, empty or full of anything, and a segment.
    fs::set_permissions(&lock, Permissions::from_mode(0o600)).unwrap();
    fs::write(&lock, [0xff; 100]).unwrap();
    symlink(&precious, &segment).unwrap();
    let pool = Pool::create_named(&name, &config()).unwrap();
    drop(open(&name).unwrap());
    drop(pool);
    nothing_is_left(&name);
    assert_eq!(fs::read(precious).unwrap(), b"precious");
}

#[test]
fn a_host_whose_files_were_removed_removes_nobody_elses() {
    let _watchdog = watchdog();
    let name = new_name();
    let first = Pool::create_named(&name, &config()).unwrap();
    files(&name).iter().for_each(|path| fs::remove_file(path).unwrap());
    assert_err!(open(&name), Error::Join(JoinError::NoHost));
    let second = Pool::create_named(&name, &config()).unwrap();
    drop(first);
    drop(open(&name).expect("it is there"));
    drop(second);
    nothing_is_left(&name);
}

/// Nowhere to keep a pool by name: another file system is mounted where its argument says.
fn without_shm() {
    let argument = argument();
    let (at, options) = argument.split_once(' ').expect("where, and how");
    let mount = ["-t", "tmpfs", "-o", options, "none", at];
    say(Command::new("mount").args(mount).status().is_ok_and(|status| status.success()));
    let name = new_name();
    for _ in 0..2 {
        let refused = Pool::create_named(&name, &config());
        assert!(matches!(&refused, Err(Error::Io { .. })), "{refused:?}");
        assert_err!(open(&name), Error::Join(JoinError::NoHost));
    }
    nothing_is_left(&name);
    // Whoever needs no name needs no such file system.
    let pool = Pool::create(&config()).expect("a pool");
    pool.queue("work").expect("a queue").send(1, &[7; 60], SOON).expect("room");
    assert_eq!(pool.worker(["work"]).expect("a queue").recv(SOON).expect("an event").to_vec(), [7; 60]);
    let (host, plugin) = Link::pair(&Config::default()).expect("a link");
    host.send(1, &[7; 60], SOON).expect("room");
    assert_eq!(plugin.recv(SOON).expect("an event").to_vec(), [7; 60]);
    say("works");
}

#[test]
fn a_system_whose_shared_memory_is_missing_read_only_or_full_has_no_pools_by_name() {
    let _watchdog = watchdog();
    let flags: &[&str] = if is_root() { &["--mount"] } else { &["--map-root-user", "--mount"] };
    for how in ["/dev size=1m", "/dev/shm ro", "/dev/shm size=4k"] {
        let Some(mut command) = in_namespaces(flags, &Setup::default().command_with("without_shm", how)) else {
            return skip("no namespaces here");
        };
        command.stderr(Stdio::inherit());
        let mut reports = Reports::of(&mut command);
        let mut child = command.spawn().expect("a child");
        drop(command);
        if reports.expect() != "true" {
            child.wait().expect("reaped");
            return skip("may not mount here");
        }
        assert_eq!(reports.next().as_deref(), Some("works"), "{how}");
        assert!(child.wait().expect("reaped").success(), "{how}");
    }
}

// ---- killed or held up at any step

/// Stops before and after what its argument says, each time to be traced, and says how it ended.
fn steps() {
    let argument = argument();
    let (what, name) = argument.split_once(' ').expect("two words");
    trace::offer();
    let create = || Pool::create_named(name, &config());
    let (mut pool, mut member) = (None, None);
    match what {
        "end" => pool = create().ok(),
        "leave" => member = open(name).ok(),
        _ => {}
    }
    trace::stop();
    let result = match what {
        "create" => create().map(|created| pool = Some(created)),
        "open" => open(name).map(|opened| {
            assert!(opened.queue("work").is_ok(), "opened half made");
            member = Some(opened);
        }),
        _ => {
            drop((pool.take(), member.take()));
            Ok(())
        }
    };
    say(match result {
        Ok(()) => "done",
        Err(Error::Join(JoinError::Taken { .. })) => "taken",
        Err(Error::Closed | Error::Join(JoinError::NoHost)) => "no host",
        Err(e) => panic!("{e}"),
    });
    trace::stop();
}

/// A child that does something, stopped in the middle.
struct Stopped {
    child: Child,
    reports: Reports,
    traced: Traced,
}

impl Stopped {
    /// Stops it before or after one of its system calls; says whether it got there.
    fn at(what: &str, name: &str, step: u32) -> (Self, bool) {
        let mut command = Setup::default().command_with("steps", format!("{what} {name}"));
        let mut reports = Reports::of(&mut command);
        let child = command.spawn().expect("spawn");
        let traced = Traced::new(child.id(), &mut reports);
        assert_eq!(traced.wait(), libc::SIGSTOP);
        traced.bind();
        let alive = (0..=step).all(|_| traced.next_system_call());
        (Self { child, reports, traced }, alive)
    }

    fn kill(self) {
        self.traced.kill();
        kill(self.child);
    }

    /// Lets it go on until it says how it ended, and runs `check` while it has what it made.
    fn go(mut self, check: impl FnOnce(&str)) {
        self.traced.detach();
        check(&self.reports.expect());
        kill(self.child);
    }
}

/// Does it for every step, until there are no more.
fn at_every_step(what: &str, name: &str, mut check: impl FnMut(Stopped)) {
    for step in 0.. {
        let (stopped, alive) = Stopped::at(what, name, step);
        if !alive {
            stopped.kill();
            assert!(step > 5, "{what} was not traced");
            return;
        }
        check(stopped);
    }
}

#[test]
fn a_host_killed_at_any_step_leaves_nothing_that_the_next_one_does_not_clear() {
    let _watchdog = watchdog();
    if !can_trace() {
        return;
    }
    for what in ["create", "end"] {
        let name = new_name();
        let mut even = false;
        at_every_step(what, &name, |stopped| {
            stopped.kill();
            assert_err!(open(&name), Error::Join(JoinError::NoHost));
            // Every second one begins after two dead ones.
            even = !even;
            if even {
                let pool = Pool::create_named(&name, &config()).expect("create after the dead");
                drop(open(&name).expect("open"));
                drop(pool);
                nothing_is_left(&name);
            }
        });
        let pool = Pool::create_named(&name, &config()).expect("create after the dead");
        drop(pool);
        nothing_is_left(&name);
    }
}

#[test]
fn a_member_killed_at_any_step_is_recovered() {
    let _watchdog = watchdog();
    if !can_trace() {
        return;
    }
    for what in ["open", "leave"] {
        let name = new_name();
        let pool = Pool::create_named(&name, &config().members(2)).unwrap();
        at_every_step(what, &name, |stopped| {
            stopped.kill();
            let mut member = None;
            until("the one place is free", || {
                member = open(&name).ok();
                member.is_some()
            });
            drop(member);
            assert!(pool.wait_members(0, SOON), "the place is not free");
        });
    }
}

#[test]
fn a_host_held_up_at_any_step_takes_nothing_from_others() {
    let _watchdog = watchdog();
    if !can_trace() {
        return;
    }
    let name = new_name();
    let create = || match Pool::create_named(&name, &config()) {
        Ok(pool) => Some(pool),
        Err(Error::Join(JoinError::Taken { .. })) => None,
        Err(e) => panic!("{e}"),
    };
    let is_whole = || {
        let member = open(&name).expect("there is a host");
        assert!(member.queue("work").is_ok() && !member.is_closed(), "opened half made");
    };
    // While one begins, another ends, or there was none; a third begins.
    for others in [true, false] {
        let mut first = create().filter(|_| others);
        let mut whole = false;
        at_every_step("create", &name, |stopped| {
            drop(first.take());
            match open(&name) {
                Ok(member) => {
                    assert!(member.queue("work").is_ok(), "opened half made");
                    whole = true;
                }
                Err(Error::Join(JoinError::NoHost)) => assert!(!whole),
                Err(e) => panic!("{e}"),
            }
            let third = create();
            stopped.go(|end| {
                assert_eq!(end, if third.is_some() { "taken" } else { "done" });
                is_whole();
            });
            drop(third);
            first = create().filter(|_| others);
        });
        assert_eq!(whole, !others);
        drop(first);
        drop(create());
    }
    // While one ends, another begins.
    at_every_step("end", &name, |stopped| {
        let next = create();
        stopped.go(|end| assert_eq!(end, "done"));
        if next.is_some() {
            is_whole();
        }
        drop(next);
        nothing_is_left(&name);
    });
    drop(create());
    nothing_is_left(&name);
}

#[test]
fn a_member_held_up_at_any_step_joins_one_host_or_none() {
    let _watchdog = watchdog();
    if !can_trace() {
        return;
    }
    let name = new_name();
    // How far the next host is when it is stopped: the segment is empty, or there is nothing in it, or it is as good as ready.
    for half_made in [None, Some(56), Some(66), Some(120)] {
        let mut host = start("hosts", &name).0;
        at_every_step("open", &name, |stopped| {
            kill(std::mem::replace(&mut host, Command::new("sleep").arg("600").spawn().unwrap()));
            let maker = half_made.map(|step| Stopped::at("create", &name, step).0);
            let pool = Pool::create_named(&name, &config()).ok();
            assert_eq!(pool.is_none(), half_made.is_some());
            // It may have joined before the first host died.
            stopped.go(|end| assert!(["done", "no host"].contains(&end), "{end}"));
            maker.into_iter().for_each(Stopped::kill);
            drop(pool);
            kill(std::mem::replace(&mut host, start("hosts", &name).0));
        });
        kill(host);
    }
    drop(Pool::create_named(&name, &config()).expect("create after the dead"));
    nothing_is_left(&name);
}

/// Becomes the host again and again. Who is host says so in a file, in which nobody else who lives may stand then.
fn contends() {
    // SAFETY: takes plain numbers. It must not outlive a parent that fails.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let argument = argument();
    let (oracle, name) = argument.split_once(' ').expect("two words");
    let oracle = File::options().read(true).write(true).open(oracle).unwrap();
    let host = || {
        let mut pid = [0; 4];
        oracle.read_exact_at(&mut pid, 0).unwrap();
        u32::from_ne_bytes(pid)
    };
    let set_host = |pid: u32| oracle.write_all_at(&pid.to_ne_bytes(), 0).unwrap();
    say("ready");
    loop {
        match Pool::create_named(name, &config().members(16)) {
            Ok(pool) => {
                let last = host();
                // Who is killed loses its locks a little sooner than its life.
                until("the last host is dead", || {
                    assert_eq!(host(), last, "two hosts at once");
                    last == 0 || !procfs::exists(last)
                });
                set_host(std::process::id());
                // Others may have all places for a moment.
                if let Ok(member) = open(name) {
                    pool.queue("work").unwrap().send(1, b"", SOON).unwrap();
                    assert_eq!(member.worker(["work"]).unwrap().recv(SOON).unwrap().method(), 1);
                }
                assert_eq!(host(), std::process::id(), "two hosts at once");
                set_host(0);
            }
            Err(Error::Join(JoinError::Taken { .. })) => thread::yield_now(),
            Err(e) => panic!("{e}"),
        }
        match open(name) {
            Ok(_) | Err(Error::Closed | Error::Join(JoinError::NoHost | JoinError::Taken { .. })) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn of_many_that_are_killed_at_any_time_one_is_host() {
    let _watchdog = watchdog();
    let (name, directory) = (new_name(), Directory::new());
    let oracle = directory.path().join("oracle");
    fs::write(&oracle, 0u32.to_ne_bytes()).unwrap();
    let argument = format!("{} {name}", oracle.display());
    let mut children: Vec<_> = (0..4).map(|_| start("contends", &argument)).collect();
    let began = Instant::now();
    let mut turn = 0;
    while began.elapsed() < Duration::from_secs(3) {
        turn += 1;
        thread::sleep(Duration::from_micros(turn * 7919 % 20_000));
        let next = start("contends", &argument);
        kill(std::mem::replace(&mut children[turn as usize % 4], next).0);
    }
    children.into_iter().for_each(|(child, _)| kill(child));
    drop(Pool::create_named(&name, &config()).expect("create after the dead"));
    nothing_is_left(&name);
}
