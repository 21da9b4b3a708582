//! Deadlines, and what becomes of calls that are given up.

mod common;

use busway::{Deadline, Error, Link, Process};
use common::payload::bytes;
use common::pipe::{Go, wait_for_go};
use common::{IDLE_MODES, SOON, Setup, assert_err, attach, finish, roles, serve, until, watchdog};
use std::cell::Cell;
use std::time::Duration;

roles!(begins_late, waits, tells_deadlines);

const RUN: u32 = 1;
const COUNT: u32 = 2;
const WAIT: u32 = 3;
const GO: u32 = 4;

/// Short, but a fact only in that it passes: nothing here asks how long anything took.
const SHORT: Duration = Duration::from_millis(5);

/// Spawns a role that waits for a go.
fn spawn_held(role: &str, idle: &'static str) -> (Process, Go) {
    let setup = Setup::default().idle(idle);
    let mut command = setup.command(role);
    let go = Go::of(&mut command);
    (setup.host().spawn(command).expect("spawn"), go)
}

/// Serves only once it is told to, and counts what it executes.
fn begins_late() {
    let link = attach();
    wait_for_go();
    let executed = Cell::new(0u64);
    serve(&link, |request| match request.method() {
        COUNT => request.reply_as(&executed.get()).expect("answer"),
        _ => {
            executed.set(executed.get() + 1);
            request.reply(&bytes(1, 500)).expect("answer");
        }
    });
}

/// Until everything that calls have taken is free again.
fn until_nothing_is_in_use(link: &Link) {
    until("cells and slots are back", || {
        let stats = link.stats();
        (stats.calls_in_use, stats.slots_in_use) == (0, 0)
    });
}

#[test]
fn a_call_that_nobody_took_in_time_is_never_executed() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let (plugin, mut go) = spawn_held("begins_late", idle);
        for len in [0, 32, 500] {
            assert_err!(plugin.call(RUN, &bytes(1, len), SHORT), Error::Timeout { maybe_executed: false });
        }
        let submitted = plugin.submit(RUN, &bytes(1, 500), SHORT).unwrap();
        until("the deadline passes", || submitted.is_ready());
        assert_err!(submitted.wait(), Error::Timeout { maybe_executed: false });
        // They keep what they have: the plugin may take them at any time.
        assert_eq!((plugin.stats().calls_in_use, plugin.stats().slots_in_use), (4, 2));
        go.go();
        assert_eq!(plugin.call_as::<u64>(COUNT, &[0u8; 0], SOON).unwrap(), 0, "{idle}: executed after all");
        until_nothing_is_in_use(&plugin);
        finish(plugin);
    }
}

#[test]
fn a_pending_call_that_is_dropped_gives_back_what_it_had() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let (plugin, mut go) = spawn_held("begins_late", idle);
        for n in 0..5 {
            drop(plugin.submit(RUN, &bytes(n, 500), SOON).unwrap());
        }
        assert_eq!((plugin.stats().calls_in_use, plugin.stats().slots_in_use), (5, 5));
        go.go();
        assert_eq!(plugin.call_as::<u64>(COUNT, &[0u8; 0], SOON).unwrap(), 0, "given up before they were taken");
        // One whose reply has come and is not wanted: it releases the reply's slot.
        let answered = plugin.submit(RUN, b"", SOON).unwrap();
        until("the reply is there", || answered.is_ready());
        drop(answered);
        until_nothing_is_in_use(&plugin);
        finish(plugin);
    }
}

/// Serves one call for as long as another tells it to, which comes through a pipe.
fn waits() {
    let link = attach();
    serve(&link, |request| match request.method() {
        WAIT => {
            wait_for_go();
            request.reply(&bytes(2, 2000)).expect("an answer to a call that was given up is no error");
        }
        _ => request.reply_as(&link.stats().slots_in_use).expect("answer"),
    });
}

#[test]
fn a_slow_handler_makes_a_call_time_out_as_maybe_executed_and_its_late_reply_is_discarded() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let (plugin, mut go) = spawn_held("waits", idle);
        // However slow this machine is, the last of these was taken in time.
        let mut slow = SHORT;
        loop {
            match plugin.call(WAIT, &bytes(1, 500), slow) {
                Err(Error::Timeout { maybe_executed: true }) => break,
                Err(Error::Timeout { maybe_executed: false }) => slow *= 2,
                // A call before was void, and left its go to this one.
                Ok(_) => continue,
                other => panic!("{idle}: {other:?}"),
            }
            // It may have been taken in between, or be void.
            go.go();
            until_nothing_is_in_use(&plugin);
        }
        assert_eq!((plugin.stats().calls_in_use, plugin.stats().slots_in_use), (1, 1), "in use until it is answered");
        go.go();
        until_nothing_is_in_use(&plugin);
        let slots: u64 = plugin.call_as(GO, &[0u8; 0], SOON).unwrap();
        assert_eq!(slots, 0, "the plugin has its slot back");
        finish(plugin);
    }
}

#[test]
fn other_calls_go_on_beside_one_that_timed_out() {
    let _watchdog = watchdog();
    let (plugin, mut go) = spawn_held("begins_late", "adaptive");
    assert_err!(plugin.call(RUN, b"", SHORT), Error::Timeout { .. });
    go.go();
    for _ in 0..200 {
        assert_eq!(plugin.call(RUN, b"", SOON).unwrap().to_vec(), bytes(1, 500));
    }
    assert_eq!(plugin.call_as::<u64>(COUNT, &[0u8; 0], SOON).unwrap(), 200);
    finish(plugin);
}

#[test]
fn a_deadline_that_has_passed_already_still_sends_nothing_that_runs() {
    let _watchdog = watchdog();
    let (plugin, mut go) = spawn_held("begins_late", "adaptive");
    go.go();
    for _ in 0..100 {
        // Whether the plugin is quick enough is open; if it is not executed it never will be.
        match plugin.call(RUN, b"", Deadline::from_nanos(1)) {
            Ok(_) | Err(Error::Timeout { maybe_executed: true }) => {}
            Err(Error::Timeout { maybe_executed: false }) => {}
            Err(e) => panic!("{e}"),
        }
    }
    until_nothing_is_in_use(&plugin);
    finish(plugin);
}

fn tells_deadlines() {
    let link = attach();
    serve(&link, |request| {
        let deadline = request.deadline().as_nanos();
        request.reply_as(&deadline).expect("answer");
    });
}

#[test]
fn the_plugin_sees_the_deadline_of_a_call() {
    let _watchdog = watchdog();
    let plugin = Setup::default().spawn("tells_deadlines");
    for deadline in [Deadline::NEVER, Deadline::after(SOON), Deadline::from_nanos(u64::MAX)] {
        assert_eq!(plugin.call_as::<u64>(RUN, &[0u8; 0], deadline).unwrap(), deadline.as_nanos());
    }
    finish(plugin);
}

#[test]
fn a_receiver_waits_until_its_deadline() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::default().idle(idle).spawn("tells_deadlines");
        let deadline = Deadline::after(SHORT);
        assert_err!(plugin.recv(deadline), Error::Timeout { maybe_executed: false });
        assert!(deadline.has_passed(), "{idle}");
        assert_err!(plugin.recv(Deadline::from_nanos(1)), Error::Timeout { .. });
        assert!(plugin.try_recv().unwrap().is_none());
        finish(plugin);
    }
}
