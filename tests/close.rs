//! How links end in order, how calls end that are not answered with a payload, and that nothing stays behind.

mod common;

use busway::{Deadline, Error, Link, Process, reject};
use common::payload::bytes;
use common::pipe::{Go, Reports, say, wait_for_go};
use common::procfs::{descriptors, exists, regions};
use common::{
    IDLE_MODES, SOON, Setup, argument, assert_err, attach, emulated, finish, roles, serve, spawn, until, watchdog,
};
use std::thread;
use std::time::Duration;

roles!(slow, nests_late, calls, waits, leaves, ends_with, stays, answers, cycles, echo);

const SLOW: u32 = 1;
const QUICK: u32 = 2;

/// Spawns a role whose output is read and which waits for a go.
fn spawn_held(role: &str, idle: &'static str) -> (Process, Reports, Go) {
    let setup = Setup::default().idle(idle);
    let mut command = setup.command(role);
    let (reports, go) = (Reports::of(&mut command), Go::of(&mut command));
    (setup.host().spawn(command).expect("spawn"), reports, go)
}

/// Whether new requests are refused; until then, events go out that mean nothing.
fn is_closing(link: &Link) -> bool {
    matches!(link.try_send(QUICK, b""), Err(Error::Closed))
}

fn slow() {
    serve(&attach(), |request| {
        if request.method() == SLOW {
            say("taken");
            wait_for_go();
        }
        request.reply(&bytes(1, 500)).expect("answer");
    });
}

#[test]
fn closing_lets_calls_under_way_finish_and_refuses_new_ones() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let (plugin, mut reports, mut go) = spawn_held("slow", idle);
        thread::scope(|threads| {
            let under_way = threads.spawn(|| plugin.call(SLOW, b"", Deadline::NEVER).map(|reply| reply.to_vec()));
            assert_eq!(reports.expect(), "taken");
            let closing = threads.spawn(|| plugin.close(Deadline::NEVER));
            until("the link is closing", || is_closing(&plugin));
            assert_err!(plugin.call(QUICK, b"", SOON), Error::Closed);
            assert_err!(plugin.batch().send(QUICK, b"", SOON), Error::Closed);
            assert!(!plugin.is_closed(), "{idle}: not before the call is done");
            go.go();
            assert_eq!(under_way.join().unwrap().expect("it finishes"), bytes(1, 500));
            closing.join().unwrap();
        });
        assert!(plugin.is_closed());
        assert_err!(plugin.call(QUICK, b"", SOON), Error::Closed);
        assert_err!(plugin.send(QUICK, b"", SOON), Error::Closed);
        assert_err!(plugin.recv(SOON), Error::Closed);
        assert_err!(plugin.try_recv(), Error::Closed);
        assert_err!(plugin.recv_batch(4, SOON), Error::Closed);
        finish(plugin);
    }
}

#[test]
fn closing_with_a_deadline_cancels_what_does_not_finish() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let (plugin, mut reports, mut go) = spawn_held("slow", idle);
        thread::scope(|threads| {
            let under_way = threads.spawn(|| plugin.call(SLOW, b"", Deadline::NEVER).map(drop));
            let receiver = threads.spawn(|| plugin.recv(Deadline::NEVER).map(drop));
            assert_eq!(reports.expect(), "taken");
            plugin.close(Duration::from_millis(5));
            assert_err!(under_way.join().unwrap(), Error::Cancelled);
            assert_err!(receiver.join().unwrap(), Error::Closed);
        });
        // Its handler's answer comes too late, which is no reason to fail.
        go.go();
        finish(plugin);
    }
}

/// Once it is told to, calls back from within a call.
fn nests_late() {
    let link = attach();
    serve(&link, |request| {
        if request.method() != SLOW {
            return;
        }
        say("taken");
        wait_for_go();
        let reply = request.call(QUICK, b"", SOON).map(|reply| reply.to_vec());
        request.reply(&reply.unwrap_or_else(|e| e.to_string().into_bytes())).expect("answer");
    });
}

/// Waits in a call, and serves what is nested in it.
fn calls() {
    let link = attach();
    link.set_handler(|request| request.reply(b"nested").expect("answer")).expect("the first handler");
    let reply = link.call(SLOW, b"", SOON).expect("it finishes while the host closes").to_vec();
    say(String::from_utf8(reply).expect("text"));
}

#[test]
fn a_handler_of_either_side_can_finish_with_nested_calls_while_the_host_closes() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        // The plugin's handler calls back to the host, whose waiting caller serves it.
        let (plugin, mut reports, mut go) = spawn_held("nests_late", idle);
        plugin.set_handler(|request| request.reply(b"nested").expect("answer")).unwrap();
        thread::scope(|threads| {
            let under_way = threads.spawn(|| plugin.call(SLOW, b"", Deadline::NEVER).map(|reply| reply.to_vec()));
            assert_eq!(reports.expect(), "taken");
            let closing = threads.spawn(|| plugin.close(Deadline::NEVER));
            until("the link is closing", || is_closing(&plugin));
            go.go();
            assert_eq!(under_way.join().unwrap().expect(idle), b"nested");
            closing.join().unwrap();
        });
        finish(plugin);

        // The host's handler calls back to the plugin.
        let (plugin, mut reports, _go) = spawn_held("calls", idle);
        thread::scope(|threads| {
            let request = plugin.recv(SOON).expect("the plugin calls");
            let closing = threads.spawn(|| plugin.close(Deadline::NEVER));
            until("the link is closing", || is_closing(&plugin));
            let nested = request.call(QUICK, b"", SOON).expect(idle).to_vec();
            request.reply(&nested).unwrap();
            assert_eq!(reports.expect(), "nested");
            closing.join().unwrap();
        });
        finish(plugin);
    }
}

/// Says how each wait ended when its host closed the link.
fn waits() {
    let link = attach();
    let tell = |what: &str, error: Error| say(format!("{what} {error:?}"));
    thread::scope(|threads| {
        threads.spawn(|| {
            link.serve(|_| ()).expect("closed in order");
            say("serve Ok");
        });
        threads.spawn(|| tell("recv", link.recv(Deadline::NEVER).expect_err("nobody sends")));
        threads.spawn(|| tell("call", link.call(SLOW, b"", Deadline::NEVER).expect_err("nobody answers")));
        threads.spawn(|| {
            let loans: Vec<_> = std::iter::from_fn(|| link.try_loan(link.max_payload()).ok()).collect();
            let error = link.loan(link.max_payload(), Deadline::NEVER).map(drop).expect_err("nobody gives back");
            tell("loan", error);
            drop(loans);
        });
        until("all of them wait", || {
            let stats = link.stats();
            stats.sent == 1 && stats.full > 0
        });
        say("ready");
    });
    say("done");
}

#[test]
fn closing_wakes_every_waiter_of_the_other_side() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let (plugin, mut reports, _go) = spawn_held("waits", idle);
        assert_eq!(reports.expect(), "ready");
        plugin.close(Duration::from_millis(1));
        let mut ends: Vec<_> = (0..4).map(|_| reports.expect()).collect();
        ends.sort();
        assert_eq!(ends, ["call Cancelled", "loan Closed", "recv Closed", "serve Ok"], "{idle}");
        assert_eq!(reports.expect(), "done");
        finish(plugin);
    }
}

/// Closes its end, in the way it is told, and goes on living.
fn leaves() {
    let link = attach();
    wait_for_go();
    match argument().as_str() {
        "close" => link.close(Duration::from_millis(1)),
        _ => drop(link),
    }
    say("left");
    wait_for_go();
}

#[test]
fn a_plugin_that_closes_or_drops_its_link_wakes_every_waiter_of_the_host() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        for how in ["close", "drop"] {
            let setup = Setup::default().idle(idle);
            let mut command = setup.command_with("leaves", how);
            let (mut reports, mut go) = (Reports::of(&mut command), Go::of(&mut command));
            let plugin = setup.host().spawn(command).unwrap();
            thread::scope(|threads| {
                let receivers = [0; 2].map(|_| threads.spawn(|| plugin.recv(Deadline::NEVER).map(drop)));
                let caller = threads.spawn(|| plugin.call(SLOW, b"", Deadline::NEVER).map(drop));
                until("the call is sent", || plugin.stats().sent == 1);
                go.go();
                assert_err!(caller.join().unwrap(), Error::Cancelled);
                for receiver in receivers {
                    assert_err!(receiver.join().unwrap(), Error::Closed);
                }
            });
            assert_eq!(reports.expect(), "left");
            assert_err!(plugin.call(SLOW, b"", SOON), Error::Closed);
            go.go();
            finish(plugin);
        }
    }
}

#[test]
fn both_sides_may_close_at_once() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        for _ in 0..10 {
            let setup = Setup::default().idle(idle);
            let mut command = setup.command_with("leaves", "close");
            let mut go = Go::of(&mut command);
            let plugin = setup.host().spawn(command).unwrap();
            go.go();
            plugin.close(Duration::from_millis(1));
            assert_err!(plugin.call(SLOW, b"", SOON), Error::Closed);
            go.go();
            finish(plugin);
        }
    }
}

fn ends_with() {
    serve(&attach(), |_| ());
    std::process::exit(argument().parse().expect("a number"));
}

#[test]
fn shutting_down_tells_the_exit_status() {
    let _watchdog = watchdog();
    for code in [0, 7] {
        let plugin = Setup::default().spawn_with("ends_with", code);
        assert_eq!(plugin.shut_down(SOON).unwrap().code(), Some(code));
    }
}

/// Does not end when its link does.
fn stays() {
    let _link = attach();
    wait_for_go();
}

#[test]
fn a_plugin_that_stays_after_its_link_has_closed_is_killed() {
    let _watchdog = watchdog();
    use std::os::unix::process::ExitStatusExt;
    let (plugin, _reports, _go) = spawn_held("stays", "adaptive");
    assert_eq!(plugin.shut_down(Duration::from_millis(1)).unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn a_dropped_plugin_is_gone_when_the_drop_returns() {
    let _watchdog = watchdog();
    for role in ["echo", "stays"] {
        let (plugin, _reports, _go) = spawn_held(role, "adaptive");
        let pid = plugin.id();
        assert!(exists(pid));
        drop(plugin);
        assert!(!exists(pid), "{role}: neither running nor a zombie");
    }
}

fn echo() {
    serve(&attach(), |request| {
        let bytes = request.to_vec();
        request.reply(&bytes).expect("answer");
    });
}

const PANICS: u32 = 10;
const DROPS: u32 = 11;
const REJECTS: u32 = 12;
const LOANS_AND_DROPS: u32 = 13;
const FAILS_TO_REPLY: u32 = 14;

fn answers() {
    // The panics of this role are meant, and their messages only confuse.
    std::panic::set_hook(Box::new(|_| ()));
    let link = attach();
    serve(&link, |request| match request.method() {
        PANICS => panic!("on purpose"),
        DROPS => drop(request),
        REJECTS => request.reject(77).expect("answer"),
        LOANS_AND_DROPS => drop(request.loan(500).expect("a slot")),
        FAILS_TO_REPLY => {
            let error = request.reply(&bytes(1, link.max_payload() + 1)).expect_err("too large");
            assert!(matches!(error, Error::TooLarge { .. }));
        }
        QUICK => request.reply_as(&link.stats().slots_in_use).expect("answer"),
        _ => request.no_such_method().expect("answer"),
    });
}

#[test]
fn every_way_not_to_reply_has_its_error_and_serving_goes_on() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("answers");
        for len in [10, 1000] {
            let payload = bytes(1, len);
            assert_err!(plugin.call(PANICS, &payload, SOON), Error::HandlerPanicked);
            let unanswered = Error::Rejected { code: reject::UNANSWERED, maybe_executed: true };
            for method in [DROPS, LOANS_AND_DROPS] {
                let error = plugin.call(method, &payload, SOON).expect_err("no answer");
                assert_eq!(format!("{error:?}"), format!("{unanswered:?}"));
            }
            assert_err!(plugin.call(REJECTS, &payload, SOON), Error::Rejected { code: 77, maybe_executed: true });
            assert_err!(plugin.call(99, &payload, SOON), Error::NoSuchMethod { method: 99 });
            let call = plugin.call(FAILS_TO_REPLY, &payload, SOON);
            assert_err!(call, Error::Rejected { code: reject::NO_SLOT, maybe_executed: true });
        }
        // Events that panic or are not understood concern nobody.
        for method in [PANICS, DROPS, REJECTS, 99] {
            plugin.send(method, &bytes(1, 1000), SOON).unwrap();
        }
        assert_eq!(plugin.call_as::<u64>(QUICK, &[0u8; 0], SOON).unwrap(), 0, "the loans of the plugin are back");
        until("all is back", || {
            let stats = plugin.stats();
            (stats.calls_in_use, stats.slots_in_use) == (0, 0)
        });
        finish(plugin);
    }
}

#[test]
fn a_panic_in_one_thread_disturbs_no_other_call() {
    let _watchdog = watchdog();
    let plugin = spawn("answers");
    thread::scope(|threads| {
        for method in [PANICS, REJECTS, PANICS, DROPS] {
            let plugin = &plugin;
            threads.spawn(move || (0..100).for_each(|_| assert!(plugin.call(method, b"", SOON).is_err())));
        }
        (0..100).for_each(|_| drop(plugin.call(QUICK, b"", SOON).expect("it goes on")));
    });
    finish(plugin);
}

/// A host with nothing else in its process, which counts what it has open.
fn cycles() {
    let setup = Setup::default();
    let cycle = |how: usize| {
        let plugin = setup.spawn("echo");
        assert_eq!(plugin.call(QUICK, &bytes(1, 5000), SOON).expect("call").len(), 5000);
        match how % 3 {
            0 => finish(plugin),
            1 => drop(plugin),
            _ => {
                common::signal(plugin.id(), libc::SIGKILL);
                assert!(plugin.call(QUICK, b"", Deadline::NEVER).is_err());
            }
        }
    };
    // What is opened once, on first use, is not a leak.
    (0..3).for_each(cycle);
    let before = (descriptors(), regions().len());
    (0..argument().parse().expect("a number")).for_each(cycle);
    say(format!("{before:?}"));
    say(format!("{:?}", (descriptors(), regions().len())));
}

#[test]
fn no_descriptor_and_no_mapping_is_left_after_many_links() {
    let _watchdog = watchdog();
    let mut command = Setup::default().command_with("cycles", if emulated() { 20 } else { 200 });
    let mut reports = Reports::of(&mut command);
    let mut host = command.spawn().expect("spawn a host");
    drop(command);
    let before = reports.expect();
    assert_eq!(before, reports.expect(), "descriptors, regions");
    assert!(before.ends_with(", 0)"), "all regions are unmapped: {before}");
    assert!(host.wait().unwrap().success());
}
