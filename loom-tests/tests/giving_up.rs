//! Calls that are given up while the other side answers them.
//!
//! Modelled: the late reply, seen or not seen as given up by the replier, with a payload in the request, in the reply or in
//! neither; the next call, which may get the same cell; the promise of a timeout that the call was not executed. A deadline of
//! one nanosecond has passed from the start. Not modelled: the end of the link (`wake.rs`).

#![cfg(busway_loom)]

use busway::sync::spin_loop;
use busway::{Deadline, Error, Idle, Loan, Message, Pending, Request, Violation};
use busway_loom_tests::{Ends, Failure, Model, Payload, ends, on_thread};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const INLINE: Model = Model::new("giving up: a call, then another, two servers").bound(3);
const HOSTILE: Model = Model::new("giving up: two calls that name one cell, two servers");
const REQUEST: Model = Model::new("giving up: a call with the only slot, then another").bound(3);
const REPLY: Model = Model::new("giving up: a call whose reply has the only slot, then another").bound(3);
const LOAN: Model = Model::new("giving up: waiting for the slot of a call that was given up").bound(3);
const TIMEOUT: Model = Model::new("giving up: a timeout says whether the call was taken").bound(3);

fn receive(ends: &Ends) -> Request<'_> {
    loop {
        match ends.plugin.try_recv().expect("an open link") {
            Some(request) => break request,
            None => spin_loop(),
        }
    }
}

fn wait(call: Pending<'_>) -> Message<'_> {
    while !call.is_ready() {
        spin_loop();
    }
    call.wait().expect("a reply")
}

/// Answers one call with its method, doubled.
fn serve_one(ends: &Ends) {
    let request = receive(ends);
    let answer = request.method() * 2;
    request.reply_as(&answer).expect("an open link");
}

fn check(reply: &Message<'_>, method: u32) {
    assert_eq!(reply.read::<u32>().expect("a number"), method * 2, "the reply of another call");
}

fn loan(link: &busway::Link) -> Loan<'_> {
    loop {
        match link.try_loan(Payload::LENGTH) {
            Ok(loan) => break loan,
            Err(_) => spin_loop(),
        }
    }
}

fn nothing_is_out(ends: &Ends) {
    // Sending looks for replies that came late.
    ends.host.try_send(0, b"").expect("room");
    for stats in [ends.host.stats(), ends.plugin.stats()] {
        assert_eq!((stats.calls_in_use, stats.slots_in_use, stats.violations), (0, 0, 0), "something is still out");
    }
}

fn inline() {
    let ends = ends(Idle::Park);
    let first = ends.host.submit(1, b"", Deadline::NEVER).expect("room");
    let server = on_thread(&ends, serve_one);
    drop(first);
    let second = ends.host.submit(2, b"", Deadline::NEVER).expect("room");
    serve_one(&ends);
    check(&second.wait().expect("a reply"), 2);
    server.join().unwrap();
    nothing_is_out(&ends);
}

/// As a caller that names a cell again though it is in use: the link may end, but no two threads may write the cell.
fn hostile() {
    let ends = ends(Idle::Park);
    for method in 1..=2 {
        drop(ends.host.submit(method, b"", Deadline::NEVER).expect("room"));
    }
    fn serve(ends: &Ends) {
        match ends.plugin.try_recv() {
            Ok(Some(request)) => drop(request.reply(b"")),
            Ok(None) => {}
            Err(e) => assert!(matches!(e, Error::Poisoned { reason: Violation::ReplyCell }), "{e:?}"),
        }
    }
    let server = on_thread(&ends, serve);
    serve(&ends);
    server.join().unwrap();
}

fn request() {
    let ends = ends(Idle::Park);
    let server = on_thread(&ends, |ends| {
        for round in 1..=2 {
            let request = receive(ends);
            assert_eq!(ends.to_plugin.read(), round, "another payload");
            request.reply_as(&(round as u32 * 2)).expect("an open link");
        }
    });
    let first = loan(&ends.host);
    ends.to_plugin.write(1);
    drop(ends.host.submit(1, first, Deadline::NEVER).expect("room"));
    let second = loan(&ends.host);
    ends.to_plugin.write(2);
    check(&wait(ends.host.submit(2, second, Deadline::NEVER).expect("room")), 2);
    server.join().unwrap();
    nothing_is_out(&ends);
}

fn reply() {
    let ends = ends(Idle::Park);
    let server = on_thread(&ends, |ends| {
        for round in 1..=2 {
            let request = receive(ends);
            let loan = loan(&ends.plugin);
            ends.to_host.write(round);
            request.reply(loan).expect("an open link");
        }
    });
    drop(ends.host.submit(1, b"", Deadline::NEVER).expect("room"));
    let second = ends.host.submit(2, b"", Deadline::NEVER).expect("room");
    // The slot of the late reply comes back when a later send or wait comes across it.
    while !second.is_ready() {
        let _ = ends.host.stats();
        spin_loop();
    }
    let reply = wait(second);
    assert_eq!((ends.to_host.read(), reply.len()), (2, Payload::LENGTH), "another payload");
    drop(reply);
    server.join().unwrap();
    nothing_is_out(&ends);
}

fn waiting_for_the_slot() {
    let ends = ends(Idle::Park);
    let server = on_thread(&ends, |ends| {
        let request = ends.plugin.recv(Deadline::NEVER).expect("a request");
        assert_eq!(ends.to_plugin.read(), 1, "another payload");
        request.reply(b"").expect("an open link");
    });
    let first = ends.host.loan(Payload::LENGTH, Deadline::NEVER).expect("the first loan");
    ends.to_plugin.write(1);
    drop(ends.host.submit(1, first, Deadline::NEVER).expect("room"));
    let second = ends.host.loan(Payload::LENGTH, Deadline::NEVER).expect("the slot, in the end");
    ends.to_plugin.write(2);
    drop(second);
    server.join().unwrap();
    nothing_is_out(&ends);
}

fn timeout() {
    let ends = ends(Idle::Park);
    let executed = Arc::new(AtomicBool::new(false));
    let server = on_thread(&ends, {
        let executed = executed.clone();
        move |ends| {
            let request = receive(ends);
            if !request.is_event() {
                executed.store(true, Relaxed);
                drop(request);
                assert!(receive(ends).is_event());
            }
        }
    });
    let passed = Deadline::from_nanos(1);
    let result = ends.host.call(1, b"", passed);
    let maybe_executed = match result {
        Err(Error::Timeout { maybe_executed }) => maybe_executed,
        Err(Error::Rejected { .. }) => true,
        other => panic!("neither a timeout nor an answer: {other:?}"),
    };
    ends.host.try_send(2, b"").expect("room");
    server.join().unwrap();
    assert!(maybe_executed || !executed.load(Relaxed), "executed, though the caller was told that it was not");
    nothing_is_out(&ends);
}

#[test]
fn the_next_call_gets_its_own_reply() {
    INLINE.holds(inline);
}

#[test]
fn a_cell_stays_out_of_use_until_the_late_reply() {
    // The other side finds the cell named again before it has answered; elsewhere the late reply takes the wrong place.
    let named_again = Failure::Assertion("Poisoned { reason: ReplyCell }");
    INLINE.fails("call: cell free at once when given up", named_again, inline);
}

#[test]
fn a_cell_that_is_named_twice_is_written_by_one() {
    HOSTILE.holds_against("call: cell free at once when given up", hostile);
}

#[test]
fn the_slot_of_a_request_comes_back_with_the_late_reply() {
    REQUEST.holds(request);
}

#[test]
fn the_slot_of_a_late_reply_is_given_back() {
    REPLY.holds(reply);
}

#[test]
fn a_loaner_finds_the_late_reply() {
    LOAN.holds(waiting_for_the_slot);
}

#[test]
fn a_loaner_has_to_look_for_it() {
    LOAN.fails("call: late reply not looked for", Failure::Deadlock, waiting_for_the_slot);
}

#[test]
fn a_timeout_tells_the_truth() {
    TIMEOUT.holds(timeout);
}

#[test]
fn giving_up_fences() {
    let lie = Failure::Assertion("executed, though the caller was told");
    TIMEOUT.fails("call: given up without fence", lie, timeout);
}

#[test]
fn taking_fences() {
    let lie = Failure::Assertion("executed, though the caller was told");
    TIMEOUT.fails("call: taken without fence", lie, timeout);
}
