//! Calls over a whole link: what passes through a reply cell, a busy bit and a slot that rides with a call.
//!
//! Modelled: one and two callers, one and two servers, cells and slots that are used again. The bodies of entries and
//! replies are tracked cells, and so is what stands for the bytes of a slot. Not modelled: giving up (`giving_up.rs`) and
//! sleeping for its own sake (`wake.rs`), though every thread here parks as soon as it has to wait.

#![cfg(busway_loom)]

use busway::internals::link::{Calls, FreeCells, words};
use busway::sync::{Mutex, PeerCell, set_thread_number, spin_loop};
use busway::{Deadline, Idle, Message, Pending, Request};
use busway_loom_tests::{Ends, Failure, Model, Payload, ends, on_thread};
use std::sync::Arc;

const ONE_CALLER: Model = Model::new("calls: two calls one after the other");
const TWO_CALLERS: Model = Model::new("calls: two callers, the second gets the first one's cell");
const TWO_SERVERS: Model = Model::new("calls: two servers, the second gets the first one's cell");
const ONE_CELL: Model = Model::new("calls: two callers pass one cell through their places");
const TWO_CELLS: Model =
    Model::new("calls: two callers pass two cells through their places and among the strays").bound(3);
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
    // All cells but one are in use, or kept for nested calls.
    let others: Vec<_> = (0..6).map(|_| ends.host.submit(0, b"", Deadline::NEVER).expect("room")).collect();
    let held: Vec<_> = (0..6).map(|_| receive(&ends)).collect();
    let first = ends.host.submit(1, b"", Deadline::NEVER).expect("room");
    let second = on_thread(&ends, |ends| {
        serve_one(ends);
        // As soon as the first caller is done with its cell, this call takes it.
        let second = loop {
            match ends.host.try_submit(2, b"", Deadline::NEVER) {
                Ok(second) => break second,
                Err(_) => spin_loop(),
            }
        };
        serve_one(ends);
        check(second, 2);
    });
    check(first, 1);
    second.join().unwrap();
    held.into_iter().for_each(|request| request.reply(b"").expect("an open link"));
    drop(others);
    nothing_is_out(&ends);
}

fn two_servers() {
    let ends = ends(Idle::Park);
    // A numbered thread uses its last cell again.
    set_thread_number(0);
    let server = on_thread(&ends, serve_one);
    call(&ends, 1);
    // Perhaps before the first server has returned from its reply.
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

/// Two threads with a place each call through `cells` cells, up to `at_once` at a time. In place of the reply there is a
/// tracked value for each cell, which its holder writes.
fn passed_among_threads(cells: u32, at_once: usize, rounds: u64) {
    struct Shared {
        calls: Calls,
        free: Mutex<FreeCells>,
        replies: Vec<PeerCell<u64>>,
    }
    fn thread(shared: &Shared, number: usize, at_once: usize, rounds: u64) {
        set_thread_number(number);
        for value in 0..rounds {
            let take = |_| shared.calls.take(&mut shared.free.lock(), 0);
            let taken: Vec<_> = (0..at_once).filter_map(take).collect();
            for (cell, _) in &taken {
                // SAFETY: the cell was taken by this thread. Whether it is nobody else's is what the model checks.
                unsafe { shared.replies[*cell as usize].write(value) }
            }
            taken.into_iter().for_each(|(cell, _)| shared.calls.keep(cell));
        }
    }
    let (calls, free) = Calls::new(cells, words::CALL_GENERATION - 1);
    let replies = (0..cells).map(|_| PeerCell::new(0)).collect();
    let shared = Arc::new(Shared { calls, free: Mutex::new(free), replies });
    let other = shared.clone();
    let other = loom::thread::spawn(move || thread(&other, 1, at_once, rounds));
    thread(&shared, 0, at_once, rounds);
    other.join().unwrap();
    let mut free = shared.free.lock();
    assert_eq!(shared.calls.in_use(&mut free), 0, "a cell was lost");
    let mut all: Vec<_> = core::iter::from_fn(|| shared.calls.take(&mut free, 0)).map(|(cell, _)| cell).collect();
    all.sort_unstable();
    assert_eq!(all, Vec::from_iter(0..cells), "a cell was lost or doubled");
}

fn one_cell_among_threads() {
    passed_among_threads(1, 1, 2);
}

fn two_cells_among_threads() {
    passed_among_threads(2, 2, 2);
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
    RIDING.fails("arena: riding slot free", Failure::Race, riding);
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

#[test]
fn a_cell_has_one_holder() {
    ONE_CELL.holds(one_cell_among_threads);
}

#[test]
fn keeping_a_cell_releases() {
    ONE_CELL.fails("call: cell kept without release", Failure::Race, one_cell_among_threads);
}

#[test]
fn collecting_a_cell_acquires() {
    ONE_CELL.fails("call: cell collected without acquire", Failure::Race, one_cell_among_threads);
}

#[test]
fn each_cell_has_one_holder() {
    TWO_CELLS.holds(two_cells_among_threads);
}
