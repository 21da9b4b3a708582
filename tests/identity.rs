//! Who the other process is: no other one is taken for it, though it has its process id, its socket, or its memory.
//!
//! A process id is used again here at once, by `clone3` with the id that the new process is to have, for which one has to be
//! root.

mod common;

use busway::ring::{Mpmc, Spsc};
use busway::{Deadline, Error, JoinError, Plugin};
use common::directory::Directory;
use common::figures::figure;
use common::handshake::{ACK, GO, HELLO, OFFER, packet, receive, send, seqpacket};
use common::namespaces::in_namespaces;
use common::pipe::{Go, Reports, say, wait_for_go};
use common::procfs::states;
use common::user::is_root;
use common::{
    IDLE_MODES, SOON, Setup, argument, assert_err, attach, child_config, emulated, finish, roles, serve, signal, skip,
    until, watchdog,
};
use rustix::net::{SocketAddrUnix, connect};
use std::fs;
use std::io::{self, stdin};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::time::Instant;

roles!(
    successor,
    impostor,
    admits_one,
    connects,
    claims,
    joins,
    tells_pid,
    host_inside,
    opens_ring,
    forks_first,
    names_pool,
    works_in_pool
);

const PID: u32 = 1;

// ---- one process after the other with the same id

/// Forks a child that has this process id, which must be free.
fn fork_as(pid: i32, body: impl FnOnce()) -> io::Result<()> {
    // SAFETY: zero means nothing asked for.
    let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
    how.exit_signal = libc::SIGCHLD as u64;
    how.set_tid = (&raw const pid).addr() as u64;
    how.set_tid_size = 1;
    // SAFETY: as fork; the arguments are read before it returns.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const how, size_of_val(&how)) } {
        0 => {
            // SAFETY: takes plain numbers; it must not outlive a parent that hangs.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            body();
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) }
        }
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn kill_and_reap(pid: i32) {
    signal(pid as u32, libc::SIGKILL);
    // SAFETY: waits for our own child.
    assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
}

fn pause() {
    loop {
        // SAFETY: takes nothing.
        unsafe { libc::pause() };
    }
}

/// When a process began, in ticks of the clock.
fn began(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let rest = stat.rsplit(')').next().expect("behind the name");
    rest.split_whitespace().nth(19).expect("a field").parse().expect("a number")
}

/// Has a child with the process id that it is told, which began at another time than it is told.
fn successor() {
    let argument = argument();
    let (pid, earlier) = argument.split_once(' ').expect("two numbers");
    let (pid, earlier): (i32, u64) = (pid.parse().expect("a pid"), earlier.parse().expect("ticks"));
    loop {
        match fork_as(pid, pause) {
            Ok(()) if began(pid as u32) == earlier => kill_and_reap(pid),
            Ok(()) => break say("there"),
            Err(e) => return say(e),
        }
    }
    wait_for_go();
    kill_and_reap(pid);
}

/// A process that has the id of one that died.
struct Successor(Child, Go);

impl Successor {
    /// Of a child, which it kills.
    fn of(mut child: Child) -> Self {
        let (pid, began) = (child.id(), began(child.id()));
        child.kill().expect("kill");
        child.wait().expect("reap");
        let mut command = Setup::default().command_with("successor", format!("{pid} {began}"));
        let (mut reports, go) = (Reports::of(&mut command), Go::of(&mut command));
        let parent = command.spawn().expect("spawn");
        assert_eq!(reports.expect(), "there", "nobody else has the process id");
        let successor = Self(parent, go);
        assert!(fs::exists(format!("/proc/{pid}")).expect("look"));
        successor
    }

    fn end(mut self) {
        self.1.go();
        assert!(self.0.wait().expect("wait").success());
    }
}

/// Whether process ids can be chosen here.
fn can_choose_pids() -> bool {
    let can = is_root() && !emulated();
    if !can {
        skip("needs root, to choose process ids");
    }
    can
}

/// A child in a role that has said its first word.
fn start(role: &str, argument: impl ToString, input: Option<&dyn AsFd>) -> Child {
    let mut command = Setup::default().command_with(role, argument);
    let mut reports = Reports::of(&mut command);
    if let Some(input) = input {
        command.stdin(input.as_fd().try_clone_to_owned().expect("a descriptor"));
    }
    let child = command.spawn().expect("spawn");
    assert_eq!(reports.expect(), "ready");
    child
}

fn connects() {
    let link = Plugin::connect(argument(), &child_config()).expect("connect");
    say("ready");
    serve(&link, |request| request.reply_as(&std::process::id()).expect("answer"));
}

#[test]
fn a_plugin_that_died_is_dead_though_another_process_has_its_id() {
    let _watchdog = watchdog();
    if !can_choose_pids() {
        return;
    }
    for idle in IDLE_MODES {
        let (directory, setup) = (Directory::new(), Setup::default().idle(idle));
        let listener = setup.host().listen(directory.socket()).unwrap();
        let (child, link) = std::thread::scope(|threads| {
            let child = threads.spawn(|| start("connects", directory.socket().display(), None));
            let link = listener.accept(SOON).unwrap().admit().unwrap();
            (child.join().unwrap(), link)
        });
        let pid = child.id();
        assert_eq!(link.call(PID, b"", SOON).unwrap().read::<u32>().unwrap(), pid);
        let successor = Successor::of(child);
        assert_err!(link.call(PID, b"", Deadline::NEVER), Error::PeerDied { .. });
        assert!(link.is_closed() && link.peer().pid == pid);
        successor.end();
    }
    figure("G7", "links whose dead plugin's process id was in use again: told PeerDied", IDLE_MODES.len());
}

/// Says hello by a process that dies, at the moment that it is told, and has another with its id do the rest.
fn impostor() {
    let argument = argument();
    let (path, how) = argument.split_once(' ').expect("a path and how");
    let socket = seqpacket();
    connect(&socket, &SocketAddrUnix::new(path).expect("an address")).expect("connect");
    // SAFETY: the child sends a packet and waits to be killed.
    let first = unsafe { libc::fork() };
    if first == 0 {
        // SAFETY: takes plain numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        send(&socket, &packet(HELLO, 0), &[]);
        say("hello");
        pause();
    }
    wait_for_go();
    let offer = |socket: &OwnedFd| {
        let offer = receive(socket).expect("an offer");
        assert_eq!(offer.kind, OFFER);
        offer.nonce
    };
    let nonce = if how == "after the offer" { Some(offer(&socket)) } else { None };
    if nonce.is_some() {
        say("offered");
        wait_for_go();
    }
    kill_and_reap(first);
    let acknowledge = || {
        let nonce = nonce.unwrap_or_else(|| offer(&socket));
        send(&socket, &packet(ACK, nonce), &[]);
    };
    match how {
        "after the offer" => {
            fork_as(first, || {
                acknowledge();
                say("acknowledged");
                pause();
            })
            .expect("another with its id");
        }
        "before the offer" => {
            fork_as(first, || {
                acknowledge();
                assert_eq!(receive(&socket).expect("go").kind, GO);
                pause();
            })
            .expect("another with its id");
            say("there");
        }
        "by a third" => {
            fork_as(first, pause).expect("another with its id");
            say("there");
            acknowledge();
        }
        _ => return say("there"),
    }
    wait_for_go();
    kill_and_reap(first);
}

/// Listens, and says how its one guest fared.
fn admits_one() {
    let listener = Setup::default().host().listen(argument()).expect("listen");
    say("listening");
    say(match listener.accept(SOON).and_then(|guest| guest.admit()) {
        Err(Error::Join(JoinError::HungUp)) => "HungUp".to_owned(),
        other => format!("{other:?}"),
    });
}

#[test]
fn a_process_id_used_again_during_the_handshake_deceives_nobody() {
    let _watchdog = watchdog();
    if !can_choose_pids() {
        return;
    }
    let (directory, setup) = (Directory::new(), Setup::default());
    let listener = setup.host().listen(directory.socket()).unwrap();
    let start_at = |path: &Path, how: &str| {
        let mut command = setup.command_with("impostor", format!("{} {how}", path.display()));
        let (mut reports, go) = (Reports::of(&mut command), Go::of(&mut command));
        let child = command.spawn().unwrap();
        assert_eq!(reports.expect(), "hello");
        (child, reports, go)
    };
    let start = |how| start_at(&directory.socket(), how);

    // The pidfd is that of the one who died. The host finds both at once when it looks: the acknowledgement and the death.
    let path = directory.path().join("other");
    let mut command = setup.command_with("admits_one", path.display());
    let mut said = Reports::of(&mut command);
    let mut host = command.spawn().unwrap();
    assert_eq!(said.expect(), "listening");
    let (mut child, mut reports, mut go) = start_at(&path, "after the offer");
    go.go();
    assert_eq!(reports.expect(), "offered");
    signal(host.id(), libc::SIGSTOP);
    until("it stands still", || states(host.id()).iter().all(|state| *state == 'T'));
    go.go();
    assert_eq!(reports.expect(), "acknowledged");
    signal(host.id(), libc::SIGCONT);
    assert_eq!(said.expect(), "HungUp");
    go.go();
    assert!(child.wait().unwrap().success() && host.wait().unwrap().success());

    // Nobody has the id any more when it is looked up.
    let (mut child, mut reports, mut go) = start("nobody");
    go.go();
    assert_eq!(reports.expect(), "there");
    assert_err!(listener.accept(SOON), Error::Io { .. });
    assert!(child.wait().unwrap().success());

    // Two processes, one after the other with one id: the second one is there, is looked up, and answers. It is the
    // plugin, for as long as it lives; who said hello has no part in it.
    let (mut child, mut reports, mut go) = start("before the offer");
    go.go();
    assert_eq!(reports.expect(), "there");
    let link = listener.accept(SOON).unwrap().admit().unwrap();
    assert!(!link.is_closed());
    go.go();
    assert!(child.wait().unwrap().success());
    assert_err!(link.recv(Deadline::NEVER), Error::PeerDied { .. });

    // The second one is looked up, and a third answers.
    let (mut child, mut reports, mut go) = start("by a third");
    go.go();
    assert_eq!(reports.expect(), "there");
    let guest = listener.accept(SOON).unwrap();
    assert_err!(guest.admit(), Error::Join(JoinError::Identity { .. }));
    go.go();
    assert!(child.wait().unwrap().success());
    figure("G7", "handshakes in which a process id was used again: none mistaken", 4);
}

/// Takes the producer of the ring that it has as standard input.
fn claims() {
    let file = stdin().as_fd().try_clone_to_owned().expect("a descriptor");
    let _producer = Spsc::<u64>::open(file).expect("open").producer().expect("nobody has it");
    say("ready");
    pause();
}

/// Joins the ring that it has as standard input.
fn joins() {
    let file = stdin().as_fd().try_clone_to_owned().expect("a descriptor");
    let member = Mpmc::<u64>::open(file).expect("open").join().expect("join");
    member.push(7).expect("room");
    say("ready");
    pause();
}

#[test]
fn a_dead_member_of_a_ring_is_not_mistaken_for_who_has_its_process_id() {
    let _watchdog = watchdog();
    if !can_choose_pids() {
        return;
    }
    let ring = Spsc::<u64>::create(8).unwrap();
    let consumer = ring.consumer().unwrap();
    let child = start("claims", "", Some(&ring));
    assert!(!consumer.is_abandoned(), "it lives");
    let successor = Successor::of(child);
    assert!(consumer.is_abandoned(), "it is dead");
    successor.end();

    let ring = Mpmc::<u64>::create(8, 4).unwrap();
    let member = ring.join().unwrap();
    let child = start("joins", "", Some(&ring));
    assert_eq!(member.recover_dead().unwrap().members, 0, "it lives");
    let successor = Successor::of(child);
    assert_eq!(member.recover_dead().unwrap().members, 1, "it is dead");
    assert_eq!(member.pop().unwrap(), Some(7));
    successor.end();
    figure("G7", "members of rings whose process id was in use again: found dead", 2);
}

#[cfg(not(feature = "shm-name"))]
fn names_pool() {}
#[cfg(not(feature = "shm-name"))]
fn works_in_pool() {}
#[cfg(feature = "shm-name")]
use named::{names_pool, works_in_pool};

#[cfg(feature = "shm-name")]
mod named {
    use super::*;
    use busway::Idle;
    use busway::pool::{Member, Pool, PoolConfig};

    pub fn names_pool() {
        let _pool = Pool::create_named(&argument(), &PoolConfig::new(["work"])).expect("create");
        say("ready");
        pause();
    }

    pub fn works_in_pool() {
        let _member = Member::open_named(&argument(), Idle::default()).expect("open");
        say("ready");
        pause();
    }

    #[test]
    fn a_dead_host_or_member_of_a_pool_by_name_is_not_mistaken_for_who_has_its_process_id() {
        let _watchdog = watchdog();
        if !can_choose_pids() {
            return;
        }
        let name = format!("identity-{}", std::process::id());
        let successor = Successor::of(start("names_pool", &name, None));
        assert_err!(Member::open_named(&name, Idle::default()), Error::Join(JoinError::NoHost));
        let pool = Pool::create_named(&name, &PoolConfig::new(["work"])).expect("its host is dead");
        successor.end();

        let child = start("works_in_pool", &name, None);
        until("it has been noticed", || pool.members() == 1);
        let successor = Successor::of(child);
        assert!(pool.wait_members(0, SOON), "it is dead");
        successor.end();
        figure("G7", "hosts and members of pools by name whose process id was in use again: found dead", 2);
    }
}

// ---- pid namespaces

fn tells_pid() {
    serve(&attach(), |request| request.reply_as(&std::process::id()).expect("answer"));
}

#[test]
fn a_plugin_in_a_namespace_within_the_hosts_is_known_by_its_process_id_here() {
    let _watchdog = watchdog();
    let setup = Setup::default();
    let within: [&[&str]; 3] = [
        &["--pid", "--fork"],
        &["--pid", "--fork", "--mount-proc", "--ipc", "--uts", "--net"],
        &["--pid", "--fork", "unshare", "--pid", "--fork"],
    ];
    let mut done = 0;
    for flags in within {
        let Some(command) = in_namespaces(flags, &setup.command("tells_pid")) else {
            skip(format!("no namespaces here: {flags:?}"));
            continue;
        };
        let plugin = setup.host().spawn(command).expect("spawn");
        let there: u32 = plugin.call(PID, b"", SOON).unwrap().read().unwrap();
        assert_eq!(there, 1, "the first process in its namespace");
        assert!(plugin.peer().pid > 1 && plugin.peer().pid != plugin.id(), "{:?}", plugin.peer());
        signal(plugin.peer().pid, libc::SIGKILL);
        assert_err!(plugin.call(PID, b"", Deadline::NEVER), Error::PeerDied { .. });
        drop(plugin);

        let plugin = setup.host().spawn(in_namespaces(flags, &setup.command("tells_pid")).unwrap()).expect("spawn");
        finish(plugin);
        done += 1;
    }
    figure("G7", "kinds of pid namespaces within the host's from which a plugin joined, and was seen to die", done);
}

/// Listens, says how each guest fared; last spawns a plugin of its own.
fn host_inside() {
    let setup = Setup::default();
    let listener = setup.host().listen(argument()).expect("listen");
    say("listening");
    say(match listener.accept(SOON) {
        Err(Error::Join(JoinError::Identity { .. })) => "Identity".to_owned(),
        other => format!("{other:?}"),
    });
    let plugin = setup.spawn("tells_pid");
    say(plugin.call(PID, b"", SOON).expect("call").read::<u32>().unwrap() == plugin.peer().pid);
    finish(plugin);
}

#[test]
fn a_host_that_cannot_see_a_process_does_not_admit_it() {
    let _watchdog = watchdog();
    let (directory, setup) = (Directory::new(), Setup::default());
    let command = setup.command_with("host_inside", directory.socket().display());
    let Some(mut command) = in_namespaces(&["--pid", "--fork"], &command) else {
        return skip("no namespaces here");
    };
    let mut reports = Reports::of(&mut command);
    let mut host = command.spawn().unwrap();
    assert_eq!(reports.expect(), "listening");
    let outside = Plugin::connect(directory.socket(), &child_config_of_tests());
    assert_err!(outside, Error::Join(JoinError::Refused { .. }));
    assert_eq!(reports.expect(), "Identity");
    assert_eq!(reports.expect(), "true", "it goes on");
    assert!(host.wait().unwrap().success());
    figure("G7", "a plugin that its host cannot see, in an outer pid namespace", "refused");
}

fn child_config_of_tests() -> busway::Config {
    Setup::default().config()
}

fn opens_ring() {
    let file = stdin().as_fd().try_clone_to_owned().expect("a descriptor");
    say(matches!(Mpmc::<u64>::open(file), Err(Error::Join(JoinError::Identity { .. }))));
}

#[test]
fn a_ring_of_another_pid_namespace_is_refused() {
    let _watchdog = watchdog();
    let ring = Mpmc::<u64>::create(8, 4).unwrap();
    let Some(mut command) =
        in_namespaces(&["--pid", "--fork", "--mount-proc"], &Setup::default().command("opens_ring"))
    else {
        return skip("no namespaces here");
    };
    let mut reports = Reports::of(&mut command);
    let mut child = command.stdin(ring.as_fd().try_clone_to_owned().unwrap()).spawn().unwrap();
    assert_eq!(reports.expect(), "true");
    assert!(child.wait().unwrap().success());
}

// ---- forks

/// Forks a child that keeps everything open, and serves.
fn forks_first() {
    let link = attach();
    // SAFETY: the child only waits to be killed.
    let child = unsafe { libc::fork() };
    if child == 0 {
        pause();
    }
    serve(&link, |request| request.reply_as(&child).expect("answer"));
}

#[test]
fn a_plugin_that_forked_before_it_died_is_dead_at_once() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("forks_first");
        let fork = plugin.call(PID, b"", SOON).unwrap().read::<i32>().unwrap();
        let began = Instant::now();
        signal(plugin.peer().pid, libc::SIGKILL);
        assert_err!(plugin.recv(Deadline::NEVER), Error::PeerDied { .. });
        let took = began.elapsed();
        assert!(common::procfs::exists(fork as u32), "its fork, which has its sockets, lives");
        signal(fork as u32, libc::SIGKILL);
        figure("G7", &format!("from death to notice, of a plugin whose fork lives ({idle})"), format!("{took:.1?}"));
    }
}
