//! A process killed at each point of an operation at which it makes a difference, and one that only stands still there.
//!
//! A child does an operation, this process its tracer lets it go on an instruction at a time, counts what others can tell
//! ([`walk`]), and kills it after any number of that. Whoever survives is told, has back what is its own, has each call
//! ended once and rightly, and goes on. One that stands still loses nothing, whatever others do meanwhile.
#![cfg(target_arch = "x86_64")] // elsewhere a step between both halves of an exclusive access lets it fail, for ever

mod common;
#[path = "crash_points/acts.rs"]
mod acts;
#[path = "crash_points/scene.rs"]
mod scene;
#[path = "crash_points/survivor.rs"]
mod survivor;
#[path = "crash_points/sweep.rs"]
mod sweep;
#[path = "crash_points/walk.rs"]
mod walk;

use acts::OPERATIONS;
use common::trace::can_trace;
use common::{roles, watchdog_of};
use scene::{Place, acts, link, pool};
use sweep::Sweep;

roles!(acts);

#[test]
fn plugins() {
    links(Place::Plugin);
}

#[test]
fn hosts() {
    links(Place::Host);
}

fn links(place: Place) {
    if !can_trace() {
        return;
    }
    let _watchdog = watchdog_of(600);
    let mut sweep = Sweep::begin();
    for operation in OPERATIONS {
        sweep.over(&format!("{place:?}: {}", operation.name), |fate| link(place, operation, fate));
    }
    sweep.report();
}

#[test]
fn members() {
    if !can_trace() {
        return;
    }
    let _watchdog = watchdog_of(600);
    let mut sweep = Sweep::begin();
    for operation in OPERATIONS.iter().filter(|operation| !operation.only_links) {
        sweep.over(&format!("Pool: {}", operation.name), |fate| pool(&[(operation, fate)]));
    }
    sweep.report();
}
