//! What happens when ring, reply cells or slots run out: an answer at once, or a wait that ends when there is room again.

mod common;

use busway::{Deadline, Error, Pending, Request};
use common::payload::bytes;
use common::pipe::{Go, wait_for_go};
use common::{IDLE_MODES, SOON, Setup, assert_err, attach, finish, roles, serve, until, watchdog};
use std::sync::Mutex;
use std::thread;

roles!(begins_late, holds, gathers);

const NUMBERED: u32 = 1;
const COUNT: u32 = 2;
const HOLD: u32 = 3;
const RELEASE: u32 = 4;

/// Looks at nothing before it is told to, then counts events and checks their order.
fn begins_late() {
    let link = attach();
    wait_for_go();
    let count = std::cell::Cell::new(0u64);
    serve(&link, |request| match request.method() {
        COUNT => request.reply_as(&count.get()).expect("answer"),
        _ => {
            assert_eq!(request.bytes().read::<u64>(0), Some(count.replace(count.get() + 1)), "lost or out of order");
        }
    });
}

/// As many as there is room for, all numbered.
fn send_until_full(plugin: &busway::Link, len: usize) -> u64 {
    for number in 0.. {
        match plugin.try_send(NUMBERED, &numbered(number, len)) {
            Ok(()) => {}
            Err(Error::Full) => return number,
            Err(e) => panic!("{e}"),
        }
    }
    unreachable!("there is always room")
}

fn numbered(number: u64, len: usize) -> Vec<u8> {
    [&number.to_le_bytes()[..], &bytes(number, len - 8)].concat()
}

#[test]
fn a_full_ring_is_an_answer_or_a_wait_and_nothing_is_lost() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let setup = Setup::tiny(64, 8).idle(idle);
        let mut command = setup.command("begins_late");
        let mut go = Go::of(&mut command);
        let plugin = setup.host().spawn(command).unwrap();
        let sent = send_until_full(&plugin, 8);
        assert_eq!(sent, 7, "one of eight entries is kept for nested calls");
        assert_err!(plugin.send(NUMBERED, b"", Deadline::from_nanos(1)), Error::Timeout { maybe_executed: false });
        assert!(plugin.stats().full >= 2);
        thread::scope(|threads| {
            let parks = plugin.stats().parks;
            let sender = threads.spawn(|| {
                for number in sent..sent + 100 {
                    plugin.send(NUMBERED, &number.to_le_bytes(), SOON).expect("there is room in time");
                }
            });
            until_parked(&plugin, parks, idle);
            go.go();
            sender.join().unwrap();
        });
        assert_eq!(plugin.call_as::<u64>(COUNT, &[0u8; 0], SOON).unwrap(), sent + 100, "{idle}");
        finish(plugin);
    }
}

/// Until a thread of this side sleeps where it would stay, by descriptor; `parks` is how often one had slept before.
fn until_parked(link: &busway::Link, parks: u64, idle: &str) {
    match idle {
        "spin" => {}
        "poll" => until("the thread sleeps", || link.stats().parks > parks),
        _ => until("the thread sleeps by futex and then by descriptor", || link.stats().parks > parks + 1),
    }
}

/// Keeps what it gets, slot and all, until it is told to let go of all.
fn holds() {
    let link = attach();
    let held: Mutex<Vec<Request<'static>>> = Mutex::default();
    serve(&link, |request| match request.method() {
        RELEASE => {
            let held: Vec<_> = held.lock().unwrap().drain(..).collect();
            let count = held.len() as u64;
            for request in held {
                let bytes = request.to_vec();
                request.reply(&bytes).expect("answer");
            }
            request.reply_as(&count).expect("answer");
        }
        _ => held.lock().unwrap().push(request.into_owned()),
    });
}

#[test]
fn an_exhausted_arena_is_an_answer_or_a_wait_until_slots_are_released() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::tiny(1024, 4).idle(idle).spawn("holds");
        for number in 0..4 {
            plugin.send(HOLD, &bytes(number, 1000), SOON).unwrap();
        }
        assert_err!(plugin.try_loan(100), Error::Full);
        assert_err!(plugin.try_send(HOLD, &bytes(0, 100)), Error::Full);
        assert_err!(plugin.try_submit(HOLD, &bytes(0, 100), SOON), Error::Full);
        assert_err!(plugin.loan(100, Deadline::from_nanos(1)), Error::Timeout { maybe_executed: false });
        assert_err!(
            plugin.call(HOLD, &bytes(0, 100), Deadline::from_nanos(1)),
            Error::Timeout { maybe_executed: false }
        );
        assert_eq!(plugin.stats().slots_in_use, 4);
        assert!(plugin.try_loan(32).is_ok(), "a short one takes no slot");
        thread::scope(|threads| {
            let parks = plugin.stats().parks;
            let loaner = threads.spawn(|| plugin.loan(1000, SOON).map(drop));
            until_parked(&plugin, parks, idle);
            assert_eq!(plugin.call_as::<u64>(RELEASE, &[0u8; 0], SOON).unwrap(), 4, "events without an answer");
            loaner.join().unwrap().expect("a slot in time");
        });
        until("all slots are back", || plugin.stats().slots_in_use == 0);
        finish(plugin);
    }
}

#[test]
fn a_loan_that_is_dropped_makes_room_for_a_waiting_one() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let plugin = Setup::tiny(1024, 2).idle(idle).spawn("holds");
        let loans = [0; 2].map(|_| plugin.loan(1000, SOON).unwrap());
        thread::scope(|threads| {
            let parks = plugin.stats().parks;
            let loaner = threads.spawn(|| plugin.loan(1000, SOON).map(drop));
            until_parked(&plugin, parks, idle);
            drop(loans);
            loaner.join().unwrap().expect("a slot in time");
        });
        assert_eq!(plugin.stats().slots_in_use, 0);
        finish(plugin);
    }
}

fn submit_until_full(plugin: &busway::Link) -> Vec<Pending<'_>> {
    let mut pending = Vec::new();
    loop {
        match plugin.try_submit(HOLD, b"held", Deadline::NEVER) {
            Ok(call) => pending.push(call),
            Err(Error::Full) => return pending,
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn exhausted_reply_cells_are_an_answer_or_a_wait_until_replies_come() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let mut setup = Setup::tiny(64, 8).idle(idle);
        setup.geometry.entries = 64;
        let plugin = setup.spawn("holds");
        let pending = submit_until_full(&plugin);
        assert_eq!(pending.len(), 7, "one of eight cells is kept for nested calls");
        assert_eq!(plugin.stats().calls_in_use, 7);
        assert_err!(plugin.submit(HOLD, b"", Deadline::from_nanos(1)), Error::Timeout { maybe_executed: false });
        thread::scope(|threads| {
            let full = plugin.stats().full;
            let caller = threads.spawn(|| plugin.call(RELEASE, b"", SOON).map(|count| count.read::<u64>()));
            until("the caller waits", || plugin.stats().full > full);
            plugin.send(RELEASE, b"", SOON).expect("an event takes no cell");
            for held in pending {
                assert_eq!(held.wait().unwrap().to_vec(), b"held");
            }
            assert_eq!(caller.join().unwrap().expect("a cell in time").unwrap(), 0, "{idle}");
        });
        until("all cells are back", || plugin.stats().calls_in_use == 0);
        finish(plugin);
    }
}

/// Answers nothing before it has 20 calls, which is more than the ring takes.
fn gathers() {
    let link = attach();
    wait_for_go();
    let held: Vec<_> = (0..20).map(|_| link.recv(Deadline::NEVER).expect("receive").into_owned()).collect();
    for request in held {
        request.reply(b"").expect("answer");
    }
    serve(&link, |_| ());
}

#[test]
fn a_sender_goes_on_when_calls_are_taken_though_none_is_answered() {
    let _watchdog = watchdog();
    for idle in IDLE_MODES {
        let mut setup = Setup::tiny(64, 8).idle(idle);
        setup.geometry.cells = 64;
        let mut command = setup.command("gathers");
        let mut go = Go::of(&mut command);
        let plugin = setup.host().spawn(command).unwrap();
        thread::scope(|threads| {
            let sender = threads.spawn(|| {
                let pending: Vec<_> = (0..20).map(|_| plugin.submit(HOLD, b"", SOON)).collect();
                pending.into_iter().try_for_each(|call| call?.wait().map(drop))
            });
            until_parked(&plugin, 0, idle);
            go.go();
            sender.join().unwrap().expect(idle);
        });
        finish(plugin);
    }
}

#[test]
fn a_payload_larger_than_every_slot_is_too_large() {
    let _watchdog = watchdog();
    let plugin = Setup::tiny(1024, 2).spawn("holds");
    assert_eq!(plugin.max_payload(), 1024);
    let large = bytes(1, 1025);
    assert_err!(plugin.loan(1025, SOON), Error::TooLarge { len: 1025, max: 1024 });
    assert_err!(plugin.try_loan(usize::MAX), Error::TooLarge { len: usize::MAX, max: 1024 });
    assert_err!(plugin.send(NUMBERED, &large, SOON), Error::TooLarge { .. });
    assert_err!(plugin.call(NUMBERED, &large, SOON), Error::TooLarge { .. });
    assert_err!(plugin.batch().send(NUMBERED, &large, SOON), Error::TooLarge { .. });
    plugin.send(HOLD, &large[..1024], SOON).expect("the largest payload there is");
    finish(plugin);
}

#[test]
fn a_loan_of_another_link_is_refused() {
    let _watchdog = watchdog();
    let (one, other) = (Setup::default().spawn("holds"), Setup::default().spawn("holds"));
    let loan = one.loan(1000, SOON).unwrap();
    assert_err!(other.send(NUMBERED, loan, SOON), Error::Unsupported { .. });
    assert_eq!(one.stats().slots_in_use, 0, "the loan went back where it came from");
    finish(one);
    finish(other);
}
