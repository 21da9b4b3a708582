//! What the living side sees when the other one dies, in whatever it was doing, or only stops for a while.

mod common;

use busway::{Deadline, Error, Link, Process, Request};
use common::payload::bytes;
use common::pipe::{Go, Reports, say, wait_for_go};
use common::{IDLE_MODES, SOON, Setup, argument, assert_err, attach, roles, serve, signal, until, watchdog};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

roles!(takes_four, ends_in_handler, deaf, serves, host_of_one, survivor, wrapper, reports_calls);

const CALL: u32 = 1;

/// Takes four calls and answers none.
fn takes_four() {
    let link = attach();
    let held: Vec<_> = (0..4).map(|_| link.recv(Deadline::NEVER).expect("receive")).collect();
    say("taken");
    wait_for_go();
    drop(held);
}

/// Attaches and looks at nothing.
fn deaf() {
    let _link = attach();
    wait_for_go();
}

/// Spawns a role that waits for a go which never comes.
fn spawn_waiting(setup: &Setup, role: &str) -> (Process, Reports, Go) {
    let mut command = setup.command(role);
    let (reports, go) = (Reports::of(&mut command), Go::of(&mut command));
    (setup.host().spawn(command).expect("spawn"), reports, go)
}

fn died(error: Error) -> bool {
    match error {
        Error::PeerDied { maybe_executed } => maybe_executed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_killed_plugin_ends_every_call_once_and_wakes_every_waiter() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let setup = Setup::tiny(1024, 8).idle(idle);
        let (plugin, mut reports, _go) = spawn_waiting(&setup, "takes_four");
        thread::scope(|threads| {
            let call = || died(plugin.call(CALL, &bytes(1, 100), Deadline::NEVER).expect_err("nobody answers"));
            let taken: Vec<_> = (0..4).map(|_| threads.spawn(call)).collect();
            assert_eq!(reports.expect(), "taken");
            let untaken: Vec<_> = (0..3).map(|_| threads.spawn(call)).collect();
            until("all calls are in the ring", || plugin.stats().sent == 7);

            let last_slot = plugin.try_loan(1000).expect("the eighth slot");
            let full = plugin.stats().full;
            let waiters = [
                threads.spawn(|| plugin.recv(Deadline::NEVER).expect_err("nobody sends")),
                threads.spawn(|| plugin.loan(1000, Deadline::NEVER).expect_err("no slot comes back")),
                // Seven cells are in use, and one is kept for nested calls.
                threads.spawn(|| plugin.call(CALL, b"", Deadline::NEVER).expect_err("no cell comes back")),
            ];
            until("both find nothing free", || plugin.stats().full >= full + 2);
            signal(plugin.id(), libc::SIGKILL);

            assert!(
                taken.into_iter().all(|call| call.join().unwrap()),
                "{idle}: what was taken may have been executed"
            );
            assert!(
                !untaken.into_iter().any(|call| call.join().unwrap()),
                "{idle}: what was not taken was not executed"
            );
            for waiter in waiters {
                assert!(!died(waiter.join().unwrap()), "{idle}: it was never sent");
            }
            drop(last_slot);
        });
        assert!(plugin.is_closed());
        assert_err!(plugin.call(CALL, b"", SOON), Error::PeerDied { maybe_executed: false });
        assert_err!(plugin.send(CALL, b"", SOON), Error::PeerDied { maybe_executed: false });
        assert_err!(plugin.try_recv(), Error::PeerDied { maybe_executed: false });
        assert_err!(plugin.recv(SOON), Error::PeerDied { maybe_executed: false });
        plugin.close(Deadline::NEVER);
    }
}

#[test]
fn a_sender_that_waits_for_room_wakes_when_the_plugin_is_killed() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let (plugin, _reports, _go) = spawn_waiting(&Setup::tiny(64, 1).idle(idle), "deaf");
        thread::scope(|threads| {
            let sender = threads.spawn(|| (0..100).try_for_each(|_| plugin.send(CALL, b"", Deadline::NEVER)));
            until("the ring is full", || plugin.stats().full > 0);
            signal(plugin.id(), libc::SIGKILL);
            assert_err!(sender.join().unwrap(), Error::PeerDied { maybe_executed: false });
        });
    }
}

#[test]
fn a_lone_thread_that_waits_for_a_cell_wakes_when_the_plugin_is_killed() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let mut setup = Setup::tiny(64, 1).idle(idle);
        setup.geometry.entries = 64;
        let (plugin, _reports, _go) = spawn_waiting(&setup, "deaf");
        let mut pending = Vec::new();
        while let Ok(call) = plugin.try_submit(CALL, b"", Deadline::NEVER) {
            pending.push(call);
        }
        signal(plugin.id(), libc::SIGKILL);
        assert_err!(plugin.submit(CALL, b"", Deadline::NEVER), Error::PeerDied { maybe_executed: false });
        for call in pending {
            assert_err!(call.wait(), Error::PeerDied { maybe_executed: false });
        }
    }
}

#[test]
fn closing_in_order_does_not_wait_for_the_dead() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let (plugin, _reports, _go) = spawn_waiting(&Setup::default().idle(idle), "deaf");
        let pending = plugin.submit(CALL, b"", Deadline::NEVER).unwrap();
        signal(plugin.id(), libc::SIGKILL);
        plugin.close(Deadline::NEVER);
        assert_err!(pending.wait(), Error::PeerDied { maybe_executed: false });
    }
}

#[test]
fn events_sent_before_the_death_are_received_first() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn_with("ends_in_handler", "send");
        assert!(died(plugin.call(CALL, b"", SOON).expect_err("it dies")));
        for n in 0..5u64 {
            assert_eq!(plugin.recv(SOON).expect("sent before it died").read::<u64>().unwrap(), n);
        }
        assert_err!(plugin.recv(SOON), Error::PeerDied { .. });
    }
}

/// Ends in the middle of serving, in the way it is told.
fn ends_in_handler() {
    let link = attach();
    let how = argument();
    // A core dump takes its time, and room.
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads the limit passed to it.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) };
    serve(&link, |_| match how.as_str() {
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        // SAFETY: ends this process, since nothing is mapped there.
        "segfault" => drop(unsafe { std::ptr::without_provenance::<u8>(8).read_volatile() }),
        "send" => {
            (0..5u64).for_each(|n| link.send(CALL, &n.to_le_bytes(), SOON).expect("send"));
            // SAFETY: ends this process.
            unsafe { libc::_exit(1) }
        }
        other => panic!("no way to end by {other}"),
    });
}

#[test]
fn a_plugin_that_ends_in_a_handler_has_maybe_executed_the_call() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        for how in ["abort", "exit", "segfault"] {
            let plugin = Setup::default().idle(idle).spawn_with("ends_in_handler", how);
            let error = plugin.call(CALL, &bytes(1, 5000), Deadline::NEVER).expect_err("it dies");
            assert!(died(error), "{how} in {idle}");
            let status = plugin.shut_down(SOON).expect("reaped");
            assert_eq!(status.code(), (how == "exit").then_some(3), "{how} in {idle}: {status}");
        }
    }
}

/// A host between the test and a plugin, to be killed.
fn host_of_one() {
    let setup = Setup::default().idle(IDLE_MODES.into_iter().find(|mode| *mode == argument()).expect("an idle mode"));
    let mut command = setup.command("survivor");
    // The plugin reports past this process, which will be dead.
    command.stdout(Stdio::inherit());
    let plugin = setup.host().spawn(command).expect("spawn");
    let taken: Vec<Request<'_>> = vec![plugin.recv(SOON).expect("the plugin calls")];
    say("host has one");
    wait_for_go();
    drop(taken);
}

/// Says how each operation ended that it had under way when its host was killed.
fn survivor() {
    let link = attach();
    let tell = |what: &str, error: Error| match error {
        Error::PeerDied { maybe_executed } => say(format!("{what} {maybe_executed}")),
        other => say(format!("{what} {other:?}")),
    };
    thread::scope(|threads| {
        threads.spawn(|| tell("taken", link.call(CALL, b"", Deadline::NEVER).expect_err("nobody answers")));
        until("one call is sent", || link.stats().sent == 1);
        threads.spawn(|| tell("serve", link.serve(|_| ()).expect_err("not closed")));
        threads.spawn(|| tell("recv", link.recv(Deadline::NEVER).expect_err("nobody sends")));
        threads.spawn(|| tell("untaken", link.call(CALL, b"", Deadline::NEVER).expect_err("nobody answers")));
        until("both calls are sent", || link.stats().sent == 2);
        say("ready");
    });
    tell("later", link.call(CALL, b"", SOON).expect_err("the host is gone"));
    assert!(link.is_closed());
    say("done");
}

#[test]
fn a_killed_host_ends_everything_in_its_plugin() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let mut command = Setup::default().command_with("host_of_one", idle);
        let (mut reports, _go) = (Reports::of(&mut command), Go::of(&mut command));
        let mut host = command.spawn().expect("spawn a host");
        drop(command);
        let mut begun = [reports.expect(), reports.expect()];
        begun.sort();
        assert_eq!(begun, ["host has one", "ready"], "{idle}");
        host.kill().unwrap();
        let mut ends: Vec<_> = (0..5).map(|_| reports.expect()).collect();
        ends.sort();
        assert_eq!(ends, ["later false", "recv false", "serve false", "taken true", "untaken false"], "{idle}");
        assert_eq!(reports.expect(), "done");
        assert_eq!(reports.next(), None, "nobody is left");
        host.wait().unwrap();
    }
}

fn serves() {
    serve(&attach(), |request| request.reply_as(&std::process::id()).expect("answer"));
}

/// A process that is stopped until this is dropped.
struct Stopped(u32);

impl Stopped {
    fn stop(pid: u32) -> Self {
        signal(pid, libc::SIGSTOP);
        until("it has stopped", || common::procfs::states(pid).iter().all(|state| *state == 'T'));
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, libc::SIGCONT);
    }
}

fn in_use(link: &Link) -> (u64, u64) {
    (link.stats().calls_in_use, link.stats().slots_in_use)
}

#[test]
fn a_stopped_plugin_is_slow_and_not_dead() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("serves");
        plugin.call(CALL, b"", SOON).expect("it serves");
        let stopped = Stopped::stop(plugin.id());
        let patience = Duration::from_millis(20);
        assert_err!(plugin.call(CALL, &bytes(1, 500), patience), Error::Timeout { maybe_executed: false });
        assert_err!(plugin.recv(patience), Error::Timeout { .. });
        assert!(!plugin.is_closed());
        assert_eq!(in_use(&plugin), (1, 1), "{idle}: it may read the payload at any time");
        drop(stopped);
        let pid: u32 = plugin.call_as(CALL, &[0u8; 0], SOON).expect("it goes on where it was");
        assert_eq!(pid, plugin.peer().pid);
        until("the late call is taken and discarded", || in_use(&plugin) == (0, 0));
        common::finish(plugin);
    }
}

#[test]
fn a_stopped_plugin_can_be_killed() {
    let _watchdog = watchdog();
    let plugin = Setup::default().spawn("serves");
    let stopped = Stopped::stop(plugin.id());
    let pending = plugin.submit(CALL, b"", Deadline::NEVER).unwrap();
    signal(plugin.id(), libc::SIGKILL);
    assert_err!(pending.wait(), Error::PeerDied { maybe_executed: false });
    std::mem::forget(stopped);
}

/// Starts the plugin and waits, as a shell would.
fn wrapper() {
    let mut command = Setup::default().command("reports_calls");
    command.stdout(Stdio::inherit()).stdin(Stdio::inherit());
    let status = command.status().expect("run the plugin");
    assert!(status.success());
}

fn reports_calls() {
    let link = attach();
    say("attached");
    let ended = link.serve(|request| {
        say("executed");
        request.reply(b"").expect("answer");
    });
    say(if ended.is_ok() { "closed" } else { "ended" });
}

#[test]
fn when_a_wrapper_dies_no_call_runs_that_was_reported_as_not_executed() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let setup = Setup::default().idle(idle);
        let (plugin, mut reports, _go) = spawn_waiting(&setup, "wrapper");
        assert_eq!(reports.expect(), "attached");
        let pid = plugin.peer().pid;
        assert_ne!(pid, plugin.id(), "the plugin is a child of the wrapper");
        let stopped = Stopped::stop(pid);
        let pending = plugin.submit(CALL, b"", Deadline::NEVER).unwrap();
        signal(plugin.id(), libc::SIGKILL);
        let told = pending.wait().expect_err("the link is retired");
        drop(stopped);
        let mut executed = false;
        while let Some(report) = reports.next() {
            executed |= report == "executed";
        }
        assert!(plugin.is_closed());
        let denied = matches!(told, Error::PeerDied { maybe_executed: false });
        assert!(!(denied && executed), "{idle}: executed after the host was told that it was not");
    }
}
