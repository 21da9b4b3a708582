//! Calls over a whole link: what passes through a reply cell, a busy bit and a slot that rides with a call.
//!
//! Modelled: one and two callers, one and two servers, cells and slots that are used again. The bodies of entries and
//! replies are tracked cells, and so is what stands for the bytes of a slot. Not modelled: giving up (`giving_up.rs`) and
//! sleeping for its own sake (`wake.rs`), though every thread here parks as soon as it has to wait.

#![cfg(busway_loom)]

use busway::sync::spin_loop;
use busway::{Deadline, Idle, Message, Pending, Request};
use busway_loom_tests::{Ends, Failure, Model, Payload, ends, on_thread};

const ONE_CALLER: Model = Model::new("calls: two calls one after the other");
const TWO_CALLERS: Model = Model::new("calls: two callers, the second may get the first one's cell");
const TWO_SERVERS: Model = Model::new("calls: two servers, the second gets the first one's cell");
const PLACES: Model = Model::new("calls: two callers pass two cells through their places");
const RIDING: Model = Model::new("calls: two calls with the only slot");
const REPLIED: Model = Model::new("calls: two replies with the only slot");

/// Answers one call with its method, doubled.
fn serve_one(ends: &Ends) {
    let request = receive(ends);
    let answer = request.method() * 2;
    request.reply_as(&answer).expect("an open link");
}

/// Calls `method` and checks that the reply is its own.
fn call(ends: &Ends, method: u32) {
    check(ends.host.submit(method, b"", Deadline::NEVER).expect("room"), method);
}

fn check(call: Pending<'_>, method: u32) {
    let reply: u32 = wait(call).read().expect("a number");
    assert_eq!(reply, method * 2, "the reply of another call");
}

/// Receives by polling.
fn receive(ends: &Ends) -> Request<'_> {
    loop {
        match ends.plugin.try_recv().expect("an open link") {
            Some(request) => break request,
            None => spin_loop(),
        }
    }
}

/// Waits for a reply by polling.
fn wait(call: Pending<'_>) -> Message<'_> {
    while !call.is_ready() {
        spin_loop();
    }
    call.wait().expect("a reply")
}

fn nothing_is_out(ends: &Ends) {
    // Sending looks for replies that came late.
    ends.host.try_send(0, b"").expect("room");
    for stats in [ends.host.stats(), ends.plugin.stats()] {
        assert_eq!((stats.calls_in_use, stats.slots_in_use, stats.violations), (0, 0, 0), "something is still out");
    }
}

fn one_caller() {
    let ends = ends(Idle::Park);
    let server = on_thread(&ends, |ends| {
        serve_one(ends);
        serve_one(ends);
    });
    call(&ends, 1);
    call(&ends, 2);
    server.join().unwrap();
    nothing_is_out(&ends);
}

fn two_callers() {
    let ends = ends(Idle::Park);
    let first = ends.host.submit(1, b"", Deadline::NEVER).expect("room");
    let others = on_thread(&ends, |ends| {
        serve_one(ends);
        // As soon as the first caller is done with its cell, this call may take it.
        let second = ends.host.submit(2, b"", Deadline::NEVER).expect("room");
        serve_one(ends);
        check(second, 2);
    });
    check(first, 1);
    others.join().unwrap();
    nothing_is_out(&ends);
}

fn two_servers() {
    let ends = ends(Idle::Park);
    let server = on_thread(&ends, serve_one);
    call(&ends, 1);
    // The cell is free again, perhaps before the first server has returned from its reply.
    let second = ends.host.submit(2, b"", Deadline::NEVER).expect("room");
    serve_one(&ends);
    check(second, 2);
    server.join().unwrap();
    nothing_is_out(&ends);
}

fn riding() {
    let ends = ends(Idle::Park);
    let server = on_thread(&ends, |ends| {
        for round in 1..=2 {
            let request = receive(ends);
            assert_eq!(ends.to_plugin.read(), round, "another payload");
            request.reply(b"").expect("an open link");
        }
    });
    for round in 1..=2 {
        let loan = ends.host.try_loan(Payload::LENGTH).expect("the slot came back with the reply");
        ends.to_plugin.write(round);
        let call = ends.host.submit(1, loan, Deadline::NEVER).expect("room");
        if ends.host.try_loan(Payload::LENGTH).is_ok() {
            ends.to_plugin.write(0);
        }
        wait(call);
    }
    server.join().unwrap();
    nothing_is_out(&ends);
}

fn replied() {
    let ends = ends(Idle::Park);
    let server = on_thread(&ends, |ends| {
        for round in 1..=2 {
            let request = receive(ends);
            let loan = loop {
                match ends.plugin.try_loan(Payload::LENGTH) {
                    Ok(loan) => break loan,
                    Err(_) => spin_loop(),
                }
            };
            ends.to_host.write(round);
            request.reply(loan).expect("an open link");
        }
    });
    let calls = [1, 2].map(|method| ends.host.submit(method, b"", Deadline::NEVER).expect("room"));
    for (call, round) in calls.into_iter().zip(1..) {
        let reply = wait(call);
        assert_eq!((ends.to_host.read(), reply.len()), (round, Payload::LENGTH), "another payload");
    }
    server.join().unwrap();
    nothing_is_out(&ends);
}

#[test]
fn a_reply_arrives_whole() {
    ONE_CALLER.holds(one_caller);
}

#[test]
fn a_reply_is_released() {
    ONE_CALLER.fails("call: reply without release", Failure::Race, one_caller);
}

#[test]
fn a_reply_is_acquired() {
    ONE_CALLER.fails("call: reply without acquire", Failure::Race, one_caller);
}

#[test]
fn each_caller_gets_its_reply() {
    TWO_CALLERS.holds(two_callers);
}

#[test]
fn a_cell_is_free_once_its_reply_is_read() {
    TWO_CALLERS.fails("call: cell free before its reply is read", Failure::Race, two_callers);
}

#[test]
fn two_servers_take_turns() {
    TWO_SERVERS.holds(two_servers);
}

#[test]
fn a_cell_is_not_busy_once_its_reply_is_out() {
    let poisoned = Failure::Assertion("an open link: Poisoned { reason: ReplyCell }");
    TWO_SERVERS.fails("call: busy until after its reply", poisoned, two_servers);
}

#[test]
fn a_slot_rides_and_comes_back() {
    RIDING.holds(riding);
}

#[test]
fn a_riding_slot_is_not_free() {
    RIDING.fails("call: slot free while it rides", Failure::Race, riding);
}

#[test]
fn a_slot_of_a_reply_comes_back() {
    REPLIED.holds(replied);
}

#[test]
fn a_slot_is_given_back_with_release() {
    REPLIED.fails("call: slot given back without release", Failure::Race, replied);
}

#[test]
fn a_slot_is_reused_once_given_back() {
    REPLIED.fails("arena: reuse before release", Failure::Race, replied);
}
