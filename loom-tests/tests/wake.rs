//! Sleeping and waking over a whole link: no thread sleeps beside what it waits for.
//!
//! Modelled: receivers, one and two; a caller that waits for its reply beside a receiver of the same end; a sender that waits
//! for room; a loaner that waits for a slot; a caller that serves what is nested in its call; the end of the link. A sleep
//! by futex has no limit here, so whoever is not woken sleeps for ever, and the model fails. Not modelled: sleeping by
//! descriptor, which needs the kernel.

#![cfg(busway_loom)]

use busway::{Deadline, Error, Idle};
use busway_loom_tests::{Ends, Failure, Kept, Model, Payload, ends, on_thread};

const RECEIVER: Model = Model::new("wake: a receiver asleep");
const RECEIVERS: Model = Model::new("wake: two receivers asleep, each takes one message and leaves").bound(2);
const CALLER: Model = Model::new("wake: a caller asleep beside a receiver").bound(2);
const ROOM: Model = Model::new("wake: a sender asleep for room, events").bound(3);
const ROOM_CALLS: Model = Model::new("wake: a sender asleep for room, calls that are held").bound(3);
const CALLER_AND_SENDER: Model = Model::new("wake: a caller and a sender asleep, woken by one reply").bound(2);
const CELL: Model = Model::new("wake: a caller asleep for a cell").bound(3);
const SLOT: Model = Model::new("wake: a loaner asleep for a slot").bound(3);
const OWN_SLOT: Model = Model::new("wake: a loaner asleep for a slot that its own side holds");
const NESTED: Model = Model::new("wake: a caller asleep serves a nested call").bound(2);
const BATCH: Model = Model::new("wake: a caller asleep, its reply one of a batch").bound(3);
const BATCH_AND_RECEIVER: Model =
    Model::new("wake: a caller asleep, its reply one of a batch whose last look finds nothing").bound(2);
const AFTER_BATCHES: Model =
    Model::new("wake: a caller asleep, its reply after two batches, of which the first ended first").bound(3);
const END: Model = Model::new("wake: asleep when the other side closes").bound(3);
const TWO_CLOSE: Model = Model::new("wake: asleep when two threads of the other side close").bound(2);

fn take_one(ends: &Ends) {
    let _ = ends.plugin.recv(Deadline::NEVER).expect("a message");
}

fn receiver() {
    let ends = ends(Idle::Park);
    let receiver = on_thread(&ends, take_one);
    ends.host.try_send(1, b"").expect("room");
    receiver.join().unwrap();
}

fn receivers() {
    let ends = ends(Idle::Park);
    let receivers = [(); 2].map(|()| on_thread(&ends, take_one));
    ends.host.try_send(1, b"").expect("room");
    ends.host.try_send(2, b"").expect("room");
    receivers.into_iter().for_each(|receiver| receiver.join().unwrap());
}

fn caller() {
    let ends = ends(Idle::Park);
    let caller = on_thread(&ends, |ends| {
        ends.host.call(1, b"", Deadline::NEVER).expect("a reply");
    });
    let receiver = on_thread(&ends, |ends| {
        let _ = ends.host.recv(Deadline::NEVER).expect("a message");
    });
    let request = ends.plugin.recv(Deadline::NEVER).expect("a request");
    ends.plugin.try_send(2, b"").expect("room");
    request.reply(b"").expect("an open link");
    caller.join().unwrap();
    receiver.join().unwrap();
}

/// Entries of the smallest ring that are not kept for nested calls.
const ROOM_FOR: u32 = 7;

fn room() {
    let ends = ends(Idle::Park);
    for method in 1..=ROOM_FOR {
        ends.host.try_send(method, b"").expect("room");
    }
    let receiver = on_thread(&ends, |ends| {
        for method in 1..=2 {
            let event = ends.plugin.try_recv().expect("an open link").expect("one of the first events");
            assert_eq!(event.method(), method);
        }
    });
    for method in 1..=2 {
        ends.host.send(method, b"", Deadline::NEVER).expect("room, in the end");
    }
    receiver.join().unwrap();
}

fn room_of_calls() {
    let ends = ends(Idle::Park);
    let call = |_| ends.host.submit(1, b"", Deadline::NEVER).expect("room");
    let calls = Kept::new((0..ROOM_FOR).map(call).collect::<Vec<_>>());
    let server = on_thread(&ends, |ends| {
        let mut held = Kept::new(Vec::new());
        for _ in 0..=ROOM_FOR {
            held.push(ends.plugin.recv(Deadline::NEVER).expect("a message"));
        }
        Kept::into_inner(held).into_iter().for_each(|request| request.reply(b"").expect("an open link"));
    });
    ends.host.send(2, b"", Deadline::NEVER).expect("room, in the end");
    server.join().unwrap();
    drop(calls);
}

/// A caller and a sender of one end, woken by one reply.
fn caller_and_sender() {
    let ends = ends(Idle::Park);
    let caller = on_thread(&ends, |ends| {
        ends.host.call(0, b"", Deadline::NEVER).expect("a reply");
    });
    let request = ends.plugin.recv(Deadline::NEVER).expect("a request");
    for method in 1..=ROOM_FOR {
        ends.host.try_send(method, b"").expect("room");
    }
    let sender = on_thread(&ends, |ends| ends.host.send(ROOM_FOR + 1, b"", Deadline::NEVER).expect("room, in the end"));
    // Room for one more, of which nobody says a word until the reply.
    let mut batch = ends.plugin.recv_batch(1, Deadline::NEVER).expect("an event");
    assert!(batch.next().is_some());
    request.reply(b"").expect("an open link");
    drop(batch);
    caller.join().unwrap();
    sender.join().unwrap();
}

fn cell() {
    let ends = ends(Idle::Park);
    let call = |_| ends.host.submit(1, b"", Deadline::NEVER).expect("room");
    let calls = Kept::new((0..ROOM_FOR).map(call).collect::<Vec<_>>());
    let first = ends.plugin.try_recv().expect("an open link").expect("a request");
    first.reply(b"").expect("an open link");
    let other = on_thread(&ends, |ends| {
        let _ = Kept::new(ends.host.submit(2, b"", Deadline::NEVER).expect("a cell, in the end"));
    });
    let mut calls = Kept::new(Kept::into_inner(calls).into_iter());
    calls.next().expect("the first call").wait().expect("a reply");
    other.join().unwrap();
}

fn slot() {
    let ends = ends(Idle::Park);
    let receiver = on_thread(&ends, |ends| {
        let message = ends.plugin.recv(Deadline::NEVER).expect("a message");
        assert_eq!(ends.to_plugin.read(), 1);
        drop(message);
    });
    let loan = ends.host.try_loan(Payload::LENGTH).expect("the first loan");
    ends.to_plugin.write(1);
    ends.host.try_send(1, loan).expect("room");
    let again = ends.host.loan(Payload::LENGTH, Deadline::NEVER).expect("the slot, in the end");
    ends.to_plugin.write(2);
    drop(again);
    receiver.join().unwrap();
}

fn own_slot() {
    let ends = ends(Idle::Park);
    let loan = ends.host.try_loan(Payload::LENGTH).expect("the first loan");
    let loaner = on_thread(&ends, |ends| {
        let loan = ends.host.loan(Payload::LENGTH, Deadline::NEVER).expect("the slot, in the end");
        ends.to_plugin.write(2);
        drop(loan);
    });
    ends.to_plugin.write(1);
    drop(loan);
    loaner.join().unwrap();
}

fn nested() {
    let ends = ends(Idle::Park);
    ends.host.set_handler(|request| drop(request.reply(b"inner"))).expect("the first handler");
    let server = on_thread(&ends, |ends| {
        let request = Kept::new(ends.plugin.recv(Deadline::NEVER).expect("a request"));
        let reply = request.call(2, b"", Deadline::NEVER).expect("a reply of the handler");
        assert_eq!(reply.to_vec(), b"inner");
        drop(reply);
        Kept::into_inner(request).reply(b"outer").expect("an open link");
    });
    let reply = ends.host.call(1, b"", Deadline::NEVER).expect("a reply");
    assert_eq!(reply.to_vec(), b"outer");
    server.join().unwrap();
}

fn batch() {
    let ends = ends(Idle::Park);
    let caller = on_thread(&ends, |ends| {
        ends.host.call(1, b"", Deadline::NEVER).expect("a reply");
    });
    let mut batch = ends.plugin.recv_batch(2, Deadline::NEVER).expect("a request");
    for request in batch.by_ref() {
        request.reply(b"").expect("an open link");
    }
    drop(batch);
    caller.join().unwrap();
}

/// The last look of a batch sees an event, which another receiver takes.
fn batch_beside_a_receiver() {
    let ends = ends(Idle::Park);
    let caller = on_thread(&ends, |ends| {
        ends.host.call(1, b"", Deadline::NEVER).expect("a reply");
    });
    let mut batch = ends.plugin.recv_batch(2, Deadline::NEVER).expect("a request");
    ends.host.try_send(2, b"").expect("room");
    let receiver = on_thread(&ends, |ends| drop(ends.plugin.try_recv().expect("an open link")));
    for request in batch.by_ref() {
        request.reply(b"").expect("an open link");
    }
    drop(batch);
    caller.join().unwrap();
    receiver.join().unwrap();
}

fn after_batches() {
    let ends = ends(Idle::Park);
    let batches = [(); 2].map(|()| ends.plugin.recv_batch(0, Deadline::NEVER).expect("an open link"));
    batches.into_iter().for_each(drop);
    let caller = on_thread(&ends, |ends| {
        ends.host.call(1, b"", Deadline::NEVER).expect("a reply");
    });
    let request = ends.plugin.recv(Deadline::NEVER).expect("a request");
    request.reply(b"").expect("an open link");
    caller.join().unwrap();
}

/// The other side closes while a thread waits. Dropping a link does the same.
fn close(ends: &Ends) {
    ends.plugin.close(Deadline::from_nanos(1));
}

fn receiver_at_the_end() {
    let ends = ends(Idle::Park);
    let receiver = on_thread(&ends, |ends| {
        assert!(matches!(ends.host.recv(Deadline::NEVER), Err(Error::Closed)));
    });
    close(&ends);
    receiver.join().unwrap();
}

fn receiver_at_the_end_of_two() {
    let ends = ends(Idle::Park);
    let receiver = on_thread(&ends, |ends| {
        assert!(matches!(ends.host.recv(Deadline::NEVER), Err(Error::Closed)));
    });
    let other = on_thread(&ends, close);
    close(&ends);
    receiver.join().unwrap();
    other.join().unwrap();
}

fn loaner_at_the_end() {
    let ends = ends(Idle::Park);
    core::mem::forget(ends.host.try_loan(Payload::LENGTH).expect("the only slot"));
    let loaner = on_thread(&ends, |ends| {
        assert!(matches!(ends.host.loan(Payload::LENGTH, Deadline::NEVER), Err(Error::Closed)));
    });
    close(&ends);
    loaner.join().unwrap();
}

fn caller_at_the_end() {
    let ends = ends(Idle::Park);
    let call = ends.host.submit(1, b"", Deadline::NEVER).expect("room");
    let other = on_thread(&ends, close);
    assert!(matches!(call.wait(), Err(Error::Cancelled)));
    other.join().unwrap();
}

fn sender_at_the_end() {
    let ends = ends(Idle::Park);
    for method in 1..=ROOM_FOR {
        ends.host.try_send(method, b"").expect("room");
    }
    let other = on_thread(&ends, close);
    assert!(matches!(ends.host.send(1, b"", Deadline::NEVER), Err(Error::Closed)));
    other.join().unwrap();
}

#[test]
fn a_receiver_is_woken() {
    RECEIVER.holds(receiver);
}

#[test]
fn a_sleeper_fences() {
    RECEIVER.fails("wake: sleeper without fence", Failure::Deadlock, receiver);
}

#[test]
fn a_waker_fences() {
    RECEIVER.fails("wake: waker without fence", Failure::Deadlock, receiver);
}

#[test]
fn a_sleeper_looks_again() {
    RECEIVER.fails("wake: no second look", Failure::Deadlock, receiver);
}

#[test]
fn a_ring_changes_the_bell() {
    RECEIVER.fails("wake: bell not bumped", Failure::Deadlock, receiver);
}

#[test]
fn each_receiver_is_woken() {
    RECEIVERS.holds(receivers);
}

#[test]
fn a_receiver_hands_on() {
    RECEIVERS.fails("intake: nothing handed on", Failure::Deadlock, receivers);
}

#[test]
fn a_receiver_marks_the_sleepers_again() {
    RECEIVERS.fails("intake: sleepers not marked again", Failure::Deadlock, receivers);
}

#[test]
fn a_caller_and_a_receiver_are_woken() {
    CALLER.holds(caller);
}

#[test]
fn a_replier_fences() {
    CALLER.fails("wake: replier without fence", Failure::Deadlock, caller);
}

#[test]
fn a_sender_is_woken_by_events() {
    ROOM.holds(room);
}

#[test]
fn a_sender_is_rung_for_what_it_has_not_seen() {
    ROOM.fails("wake: a step that was seen rings", Failure::Deadlock, room);
}

#[test]
fn a_sender_is_woken_by_calls() {
    ROOM_CALLS.holds(room_of_calls);
}

#[test]
fn taking_without_replying_is_told_before_waiting() {
    ROOM_CALLS.fails("wake: nothing caught up", Failure::Deadlock, room_of_calls);
}

#[test]
fn a_caller_and_a_sender_are_woken() {
    CALLER_AND_SENDER.holds(caller_and_sender);
}

#[test]
fn a_caller_without_a_cell_looks_again() {
    CELL.leans_on_looking_again(cell);
}

#[test]
fn a_loaner_is_woken() {
    SLOT.holds(slot);
}

#[test]
fn giving_a_slot_back_rings() {
    SLOT.fails("wake: slots ring nobody", Failure::Deadlock, slot);
}

#[test]
fn a_loaner_is_woken_by_its_own_side() {
    OWN_SLOT.holds(own_slot);
}

#[test]
fn giving_a_slot_back_to_a_loaner_is_told() {
    OWN_SLOT.fails("wake: own bell not bumped", Failure::Deadlock, own_slot);
}

#[test]
fn a_caller_is_woken_for_a_nested_call() {
    NESTED.holds(nested);
}

#[test]
fn a_caller_sleeps_on_both_bells() {
    NESTED.fails("call: asleep on its reply alone", Failure::Deadlock, nested);
}

#[test]
fn a_caller_is_woken_when_a_batch_ends() {
    BATCH.holds(batch);
}

#[test]
fn a_batch_fences_when_it_ends() {
    BATCH.fails("wake: batch without fence", Failure::Deadlock, batch);
}

#[test]
fn a_batch_ends_with_a_fence_though_its_last_look_found_nothing() {
    BATCH_AND_RECEIVER.holds(batch_beside_a_receiver);
}

#[test]
fn batches_leave_nothing_behind_in_whatever_order_they_end() {
    AFTER_BATCHES.holds(after_batches);
}

#[test]
fn the_end_wakes_a_receiver() {
    END.holds(receiver_at_the_end);
}

#[test]
fn the_end_wakes_a_receiver_whoever_closes() {
    TWO_CLOSE.holds(receiver_at_the_end_of_two);
}

#[test]
fn the_end_wakes_a_loaner() {
    END.holds(loaner_at_the_end);
}

#[test]
fn the_end_wakes_a_caller() {
    END.holds(caller_at_the_end);
}

#[test]
fn the_end_wakes_a_sender() {
    END.holds(sender_at_the_end);
}

#[test]
fn the_end_changes_each_bell() {
    END.fails("wake: bell not bumped", Failure::Deadlock, caller_at_the_end);
}
