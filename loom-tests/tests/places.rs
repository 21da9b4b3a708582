//! The places of a ring's members: a dead member is recovered by one of two others, and the place given away again.
//!
//! Modelled: recovery by two processes at once, of which one then joins. What the member had in hand is a tracked
//! cell, which recovery writes and whoever has the place: two at a time are a race. Not modelled: death in the midst
//! of a recovery (a test in the crate dies at each of its steps), and what is given back (`mpmc.rs`).

#![cfg(busway_loom)]

use busway::internals::Process;
use busway::internals::ring::Place;
use busway::sync::PeerCell;
use busway_loom_tests::{Failure, Model};
use std::sync::Arc;

const PLACES: Model = Model::new("places: two processes recover a third, and one joins").stepwise();

fn process(number: u64) -> Process {
    Process::from_bits(number).expect("not 0")
}

fn is_dead(process: Process) -> bool {
    process.bits() == 1
}

fn places() {
    let shared = Arc::new((Place::new(), PeerCell::new(0u64)));
    assert!(shared.0.join(process(1)));
    let other = shared.clone();
    let write = |shared: &(Place, PeerCell<u64>), value| {
        // SAFETY: exclusive if the place is, which the model checks.
        unsafe { shared.1.write(value) }
    };
    let recover = move |shared: &(Place, PeerCell<u64>), own| {
        let recovered = shared.0.recover(process(own), is_dead, || {
            write(shared, own);
            1
        });
        recovered.is_some()
    };
    let thread = loom::thread::spawn(move || recover(&other, 2));
    let mut recovered = u32::from(recover(&shared, 3));
    let joined = shared.0.join(process(3));
    if joined {
        write(&shared, 4);
    }
    recovered += u32::from(thread.join().unwrap());
    assert_eq!(recovered, 1, "recovered once");
    assert_eq!(shared.0.join(process(2)), !joined, "the place is free");
}

#[test]
fn a_place_has_one_owner() {
    PLACES.holds(places);
}

#[test]
fn a_recoverer_looks_again() {
    PLACES.fails("place: recovery does not look again", Failure::Race, places);
}

#[test]
fn leaving_releases() {
    PLACES.fails("place: leave without release", Failure::Race, places);
}

#[test]
fn joining_acquires() {
    PLACES.fails("place: join without acquire", Failure::Race, places);
}

#[test]
fn the_next_recoverer_sees_what_the_last_one_did() {
    PLACES.fails("place: healer without acquire", Failure::Race, places);
}

#[test]
fn a_recoverer_releases() {
    PLACES.fails("place: healer without release", Failure::Race, places);
}
