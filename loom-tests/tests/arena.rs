//! The arena: slots that travel to the peer and come back, and slots that the owner's own threads pass among themselves.
//!
//! Modelled: reuse of a lent slot after the peer has released it, of a riding one that the reply did not give back, near
//! the wrap of the generations; and two threads of the owner with a place each, which loan, give back and collect from each
//! other. The payload is a tracked cell beside each slot, so a slot that two hold, or that is reused before its last reader
//! is done, is a race. Not modelled: waiting for a slot (`wake.rs`), and slots that ride with a whole call (`calls.rs`).

#![cfg(busway_loom)]

use busway::region::Array;
use busway::slots::SlotRef;
use busway::slots::arena::{Arena, SizeClass};
use busway::sync::{AtomicU32, AtomicU64, Ordering, PeerCell, PeerWord, set_thread_number, spin_loop};
use busway_loom_tests::{Failure, Model};
use std::sync::Arc;

const LENT: Model = Model::new("arena: one slot, lent, released, lent again, across the wrap");
const RIDING: Model = Model::new("arena: one slot, riding, detached, released, loaned again");
const PLACES: Model = Model::new("arena: two threads pass one slot through their places");
const TWO_SLOTS: Model = Model::new("arena: two threads pass two slots through their places");

/// An arena, and what the peer sees of it.
struct Shared {
    arena: Arena,
    released: Box<[AtomicU32]>,
    payload: Vec<PeerCell<u64>>,
    /// The reference that was sent in each round, with a mark in the top bit.
    sent: [AtomicU64; 2],
}

const SENT: u64 = 1 << 63;
const LAST_GENERATION: u32 = (1 << 24) - 1;

impl Shared {
    fn new(slots: u32) -> Arc<Self> {
        let released: Box<[AtomicU32]> = (0..slots).map(|_| AtomicU32::new(0)).collect();
        // SAFETY: the words have a fixed address on the heap and live as long as the arena; a peer's word is one of ours
        // that is only loaded.
        let seen = unsafe { Array::of(&*(core::ptr::from_ref(&*released) as *const [PeerWord])) };
        Arc::new(Self {
            arena: Arena::new(&[SizeClass { size: 64, count: slots }], seen),
            released,
            payload: (0..slots).map(|_| PeerCell::new(0)).collect(),
            sent: [AtomicU64::new(0), AtomicU64::new(0)],
        })
    }

    fn write(&self, slot: u32, value: u64) {
        // SAFETY: the slot is loaned to this thread. Whether it is nobody else's is what the models check.
        unsafe { self.payload[slot as usize].write(value) }
    }

    fn send(&self, round: usize, reference: SlotRef) {
        self.sent[round].store(reference.bits() | SENT, Ordering::Release);
    }

    /// The peer's side of one round: receives a slot, reads it, gives it back by name.
    fn receive_and_release(&self, round: usize) {
        let bits = loop {
            match self.sent[round].load(Ordering::Acquire) {
                0 => spin_loop(),
                bits => break bits & !SENT,
            }
        };
        let slot = SlotRef::from_bits(bits);
        let read = self.payload[slot.index() as usize].read();
        assert_eq!(read, round as u64 + 1, "another round's payload");
        self.released[slot.index() as usize].store(slot.generation(), Ordering::Release);
    }
}

fn lent() {
    let shared = Shared::new(1);
    shared.arena.age(LAST_GENERATION);
    let peer = shared.clone();
    let peer = loom::thread::spawn(move || {
        peer.receive_and_release(0);
        peer.receive_and_release(1);
    });
    for round in 0..2 {
        let slot = loop {
            match shared.arena.loan(0) {
                Some(slot) => break slot,
                None => spin_loop(),
            }
        };
        shared.write(0, round as u64 + 1);
        shared.send(round, shared.arena.lend(slot));
    }
    peer.join().unwrap();
    assert_eq!(shared.arena.outstanding(), 0, "a slot that came back is still out");
}

fn riding() {
    let shared = Shared::new(1);
    shared.arena.age(LAST_GENERATION);
    let Some(slot) = shared.arena.loan(0) else { unreachable!("the first loan") };
    shared.write(0, 1);
    shared.send(0, shared.arena.ride(slot));
    let peer = shared.clone();
    let peer = loom::thread::spawn(move || peer.receive_and_release(0));
    assert!(shared.arena.loan(0).is_none(), "a riding slot was loaned again");
    shared.arena.detach(slot);
    while shared.arena.loan(0).is_none() {
        spin_loop();
    }
    shared.write(0, 2);
    peer.join().unwrap();
}

/// Two threads, each with a place of its own, take up to `at_once` slots if there are any, write them, give them back.
fn passed_among_threads(slots: u32, at_once: usize, rounds: u64) {
    fn thread(shared: &Shared, number: usize, at_once: usize, rounds: u64) {
        set_thread_number(number);
        for value in 0..rounds {
            let loans: Vec<_> = (0..at_once).filter_map(|_| shared.arena.loan(0)).collect();
            loans.iter().for_each(|slot| shared.write(shared.arena.index(*slot), value));
            for slot in loans {
                let _nobody_waits = shared.arena.give_back(slot);
            }
        }
    }
    let shared = Shared::new(slots);
    let other = shared.clone();
    let other = loom::thread::spawn(move || thread(&other, 1, at_once, rounds));
    thread(&shared, 0, at_once, rounds);
    other.join().unwrap();
    assert_eq!(shared.arena.outstanding(), 0, "a slot was lost");
    for _ in 0..slots {
        assert!(shared.arena.loan(0).is_some(), "a slot was lost");
    }
    assert!(shared.arena.loan(0).is_none(), "a slot was doubled");
}

fn one_slot_among_threads() {
    passed_among_threads(1, 1, 2);
}

fn two_slots_among_threads() {
    passed_among_threads(2, 2, 2);
}

#[test]
fn a_lent_slot_is_reused_after_its_release() {
    LENT.holds(lent);
}

#[test]
fn a_release_is_acquired() {
    LENT.fails("arena: release without acquire", Failure::Race, lent);
}

#[test]
fn reuse_waits_for_the_release() {
    LENT.fails("arena: reuse before release", Failure::Race, lent);
}

#[test]
fn no_generation_comes_round() {
    LENT.fails("arena: a generation comes round", Failure::Race, lent);
}

#[test]
fn a_riding_slot_is_reused_after_its_release() {
    RIDING.holds(riding);
}

#[test]
fn a_slot_has_one_holder() {
    PLACES.holds(one_slot_among_threads);
}

#[test]
fn a_place_releases() {
    PLACES.fails("arena: place without release", Failure::Race, one_slot_among_threads);
}

#[test]
fn collecting_acquires() {
    PLACES.fails("arena: collect without acquire", Failure::Race, one_slot_among_threads);
}

#[test]
fn a_slot_leaves_its_place() {
    PLACES.fails("arena: place not emptied", Failure::Assertion("a slot was lost"), one_slot_among_threads);
}

#[test]
fn each_slot_has_one_holder() {
    TWO_SLOTS.holds(two_slots_among_threads);
}
