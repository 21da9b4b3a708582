//! The ring with one producer and one consumer, two entries large, across the wrap of its positions.
//!
//! Modelled: publication, taking, and reuse of an entry, by two threads that poll. The value is a tracked cell, so a read
//! that is too early or a write that is too late is a race that loom reports. Not modelled: sleeping (`wake.rs`), and a peer
//! that lies (a property test in the crate).

#![cfg(busway_loom)]

use busway::ring::spsc::{Consumer, Entry, Message, Producer};
use busway::sync::{AtomicU32, Ordering, PeerWord, spin_loop};
use busway_loom_tests::{Failure, Model};
use core::ptr::NonNull;
use std::sync::Arc;

const SINGLY: Model = Model::new("ring: four messages through two entries, across the wrap");
const TOGETHER: Model = Model::new("ring: two batches of two messages through two entries, across the wrap");

const CAPACITY: u32 = 2;
const MESSAGES: u32 = 4;
/// The second message has position 2^32 - 1, whose word has the low half 0.
const START: u32 = u32::MAX - 1;

struct Shared {
    entries: Vec<Entry<u64>>,
    pos: AtomicU32,
}

/// Sends the messages, `together` at a time.
fn ring(together: u32) {
    let entries = (0..CAPACITY).map(|i| Entry::new(i, CAPACITY, START, 0)).collect();
    let shared = Arc::new(Shared { entries, pos: AtomicU32::new(START) });
    let at: NonNull<Entry<u64>> = NonNull::from(&shared.entries[..]).cast();
    // SAFETY: each end is used by one thread, and both threads keep the entries and the word alive.
    let (mut tx, mut rx) = unsafe {
        let pos = NonNull::from(PeerWord::of(&shared.pos));
        (Producer::new(at, pos, CAPACITY, START), Consumer::new(at, CAPACITY, START))
    };
    let alive = shared.clone();
    let sender = loom::thread::spawn(move || {
        for first in (0..MESSAGES).step_by(together as usize) {
            while tx.room(together).expect("the consumer does not lie") < together {
                spin_loop();
            }
            match together {
                1 => tx.publish(first, value(first)),
                _ => tx.publish_all(&[first, first + 1].map(message)),
            }
        }
        drop(alive);
    });
    for number in 0..MESSAGES {
        let taken = loop {
            if let Some(taken) = rx.take() {
                break taken;
            }
            spin_loop();
        };
        assert_eq!(taken, message(number), "lost, doubled or out of order");
        shared.pos.store(rx.next(), Ordering::Release);
    }
    assert!(!rx.ready() && rx.peek().is_none(), "a message that was never sent");
    sender.join().unwrap();
}

fn singly() {
    ring(1);
}

fn together() {
    ring(2);
}

fn value(number: u32) -> u64 {
    u64::from(number) + 100
}

fn message(number: u32) -> Message<u64> {
    Message { tag: number, value: value(number) }
}

#[test]
fn messages_arrive_whole_and_in_order() {
    SINGLY.holds(singly);
}

#[test]
fn publishing_releases() {
    SINGLY.fails("spsc: publish without release", Failure::Race, singly);
}

#[test]
fn taking_acquires() {
    SINGLY.fails("spsc: take without acquire", Failure::Race, singly);
}

#[test]
fn room_is_acquired() {
    SINGLY.fails("spsc: pos without acquire", Failure::Race, singly);
}

#[test]
fn batches_arrive_whole_and_in_order() {
    TOGETHER.holds(together);
}

#[test]
fn publishing_a_batch_releases() {
    TOGETHER.fails("spsc: publish without release", Failure::Race, together);
}

#[test]
fn room_for_a_batch_is_acquired() {
    TOGETHER.fails("spsc: pos without acquire", Failure::Race, together);
}
