//! Async tasks over a whole link: no task is left waiting beside what it waits for, and none beside a driver that sleeps.
//!
//! Modelled: a driver on a thread of its own, which never spins; one or two tasks on another thread, which sleeps when both are
//! pending; and the other side. A task calls, receives, waits for room or for a slot; one of two receivers is dropped when it
//! was woken; calls are held back for the driver's next turn; the link closes. Not modelled: deadlines, since time stands still;
//! the driver as a task that is woken to spin, which is up to its runtime; tasks of a pool, whose lines are these.

#![cfg(busway_loom)]

use busway::sync::{AtomicU32, FutexWord, Ordering, futex_wait, futex_wake};
use busway::tasks::{Pace, Turn};
use busway::{Deadline, Error, Idle};
use busway_loom_tests::{Ends, Failure, Kept, Model, Payload, ends_with_doorbells, on_thread};
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

const CALL: Model = Model::new("tasks: a call").bound(1);
const CALLS: Model = Model::new("tasks: two calls of one thread, of which the second is held back").bound(1);
const RECEIVER: Model = Model::new("tasks: a receiver").bound(2);
const RECEIVERS: Model = Model::new("tasks: two receivers of one thread").bound(2);
const DROPPED: Model = Model::new("tasks: two receivers, of which the first is dropped at some moment").bound(1);
const DROPPED_LATE: Model = Model::new("tasks: two receivers asleep, of which the first is dropped").bound(2);
const ROOM: Model = Model::new("tasks: a sender that waits for room").bound(1);
const SLOT: Model = Model::new("tasks: a loaner that waits for a slot").bound(1);
const END: Model = Model::new("tasks: a receiver when the other side closes").bound(1);

/// Wakes a thread that sleeps on a word.
struct Alarm(AtomicU32);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::AcqRel);
        futex_wake(&self.0, u32::MAX, true);
    }
}

fn block_on<R>(future: impl Future<Output = R>) -> R {
    let mut future = Kept::new(Box::pin(future));
    let alarm = Arc::new(Alarm(AtomicU32::new(0)));
    let waker = Waker::from(alarm.clone());
    loop {
        let seen = alarm.0.load(Ordering::Acquire);
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        futex_wait(FutexWord::private(&alarm.0, seen), None);
    }
}

/// Both to their end.
async fn both<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> (A, B) {
    let (mut first, mut second) = (Kept::new(Box::pin(first)), Kept::new(Box::pin(second)));
    let (mut a, mut b) = (None, None);
    poll_fn(|cx| {
        if a.is_none()
            && let Poll::Ready(result) = first.as_mut().poll(cx)
        {
            a = Some(result);
        }
        if b.is_none()
            && let Poll::Ready(result) = second.as_mut().poll(cx)
        {
            b = Some(result);
        }
        if a.is_some() && b.is_some() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    (a.expect("ready"), b.expect("ready"))
}

/// Drives the host until the link ends.
fn drive(ends: &Ends) {
    let (bus, doorbell) = ends.host.driven();
    let (mut pace, mut woken) = (Pace::default(), Vec::new());
    pace.wake(bus);
    loop {
        let turn = pace.turn(bus, &mut woken);
        woken.drain(..).for_each(Waker::wake);
        match turn {
            Turn::Over => return,
            Turn::Again => {}
            Turn::Sleep => {
                doorbell.sleep();
                bus.take_in();
                pace.wake(bus);
            }
        }
    }
}

/// Runs tasks of the host and their driver beside `plugin`.
fn beside(tasks: impl FnOnce(&Ends) + 'static, plugin: impl FnOnce(&Ends)) {
    let ends = ends_with_doorbells(Idle::Park);
    // Made by the first task natively; loom does not see how the others come to know of it.
    ends.host.driven().0.tasks();
    let driver = on_thread(&ends, drive);
    let tasks = on_thread(&ends, |ends| {
        tasks(ends);
        ends.host.close(Deadline::from_nanos(1));
    });
    plugin(&ends);
    tasks.join().unwrap();
    driver.join().unwrap();
}

fn answer(ends: &Ends) {
    let request = ends.plugin.recv(Deadline::NEVER).expect("a request");
    let _ = request.reply(b"");
}

fn call() {
    beside(|ends| drop(block_on(ends.host.call_async(1, b"", Deadline::NEVER)).expect("a reply")), answer);
}

fn calls() {
    beside(
        |ends| {
            let first = ends.host.call_async(1, b"", Deadline::NEVER);
            let second = ends.host.call_async(2, b"", Deadline::NEVER);
            let (first, second) = block_on(both(first, second));
            drop((first.expect("a reply"), second.expect("a reply")));
        },
        |ends| (0..2).for_each(|_| answer(ends)),
    );
}

fn receiver() {
    beside(
        |ends| drop(block_on(ends.host.recv_async(Deadline::NEVER)).expect("an event")),
        |ends| ends.plugin.try_send(1, b"").expect("room"),
    );
}

fn receivers() {
    beside(
        |ends| {
            let first = ends.host.recv_async(Deadline::NEVER);
            let second = ends.host.recv_async(Deadline::NEVER);
            let (first, second) = block_on(both(first, second));
            drop((first.expect("an event"), second.expect("an event")));
        },
        |ends| (1..=2).for_each(|method| ends.plugin.try_send(method, b"").expect("room")),
    );
}

fn dropped() {
    let ends = ends_with_doorbells(Idle::Park);
    ends.host.driven().0.tasks();
    // The first in line.
    let mut first = Kept::new(Box::pin(ends.host.recv_async(Deadline::NEVER)));
    assert!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let driver = on_thread(&ends, drive);
    let second = on_thread(&ends, |ends| {
        drop(block_on(ends.host.recv_async(Deadline::NEVER)).expect("the event"));
        ends.host.close(Deadline::from_nanos(1));
    });
    ends.plugin.try_send(1, b"").expect("room");
    // It may be on its way to the event by now.
    drop(first);
    second.join().unwrap();
    driver.join().unwrap();
}

fn room() {
    beside(
        |ends| {
            for method in 1..=7 {
                ends.host.try_send(method, b"").expect("room");
            }
            block_on(ends.host.send_async(8, b"", Deadline::NEVER)).expect("room");
        },
        |ends| (0..8).for_each(|_| drop(ends.plugin.recv(Deadline::NEVER).expect("an event"))),
    );
}

fn slot() {
    beside(
        |ends| {
            let loan = ends.host.try_loan(Payload::LENGTH).expect("the only slot");
            ends.host.try_send(1, loan).expect("room");
            drop(block_on(ends.host.loan_async(Payload::LENGTH, Deadline::NEVER)).expect("the slot again"));
        },
        |ends| drop(ends.plugin.recv(Deadline::NEVER).expect("an event")),
    );
}

fn end() {
    beside(
        |ends| {
            let event = block_on(ends.host.recv_async(Deadline::NEVER));
            assert!(matches!(event, Err(Error::Closed)));
        },
        |ends| ends.plugin.close(Deadline::from_nanos(1)),
    );
}

#[test]
fn a_caller_is_woken() {
    CALL.holds(call);
}

#[test]
fn a_task_fences_after_it_has_left_its_waker() {
    CALL.fails("tasks: entered without fence", Failure::Deadlock, call);
}

#[test]
fn a_driver_fences_before_it_sleeps() {
    CALL.fails("tasks: driver without fence", Failure::Deadlock, call);
}

#[test]
fn a_task_looks_again() {
    RECEIVER.fails("tasks: no second look", Failure::Deadlock, receiver);
}

#[test]
fn a_driver_asleep_is_seen() {
    CALL.fails("tasks: a driver asleep is left asleep", Failure::Deadlock, call);
}

#[test]
fn a_driver_looks_again() {
    CALL.fails("tasks: driver without a second look", Failure::Deadlock, call);
}

#[test]
fn calls_that_are_held_back_leave() {
    CALLS.holds(calls);
}

#[test]
fn calls_that_fill_a_cork_leave() {
    CALLS.holds_against("tasks: a cork holds two", calls);
}

#[test]
fn a_cork_is_pulled() {
    CALLS.fails("tasks: the cork stays", Failure::Deadlock, calls);
}

#[test]
fn a_receiver_is_woken() {
    RECEIVER.holds(receiver);
}

#[test]
fn receivers_are_woken() {
    RECEIVERS.holds(receivers);
}

#[test]
fn a_receiver_that_is_dropped_hands_on() {
    DROPPED.holds(dropped);
}

#[test]
fn handing_on_is_needed() {
    DROPPED_LATE.fails("tasks: nothing handed on", Failure::Deadlock, dropped);
}

#[test]
fn a_sender_is_woken() {
    ROOM.holds(room);
}

#[test]
fn a_loaner_is_woken() {
    SLOT.holds(slot);
}

#[test]
fn the_end_wakes() {
    END.holds(end);
}
