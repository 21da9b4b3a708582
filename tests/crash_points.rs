//! A process killed at each point of an operation at which it makes a difference, and one that only stands still there.
//!
//! A child does an operation, this process its tracer lets it go on an instruction at a time, counts what others can tell
//! ([`walk`]), and kills it after any number of that. Whoever survives is told, has back what is its own, has each call
//! ended once and rightly, and goes on. One that stands still loses nothing, whatever others do meanwhile.
#![cfg(target_arch = "x86_64")] // elsewhere a step between both halves of an exclusive access lets it fail, for ever

#[path = "crash_points/acts.rs"]
mod acts;
mod common;
#[path = "crash_points/joins.rs"]
mod joins;
#[path = "crash_points/recovery.rs"]
mod recovery;
#[path = "crash_points/rings.rs"]
mod rings;
#[path = "crash_points/scene.rs"]
mod scene;
#[path = "crash_points/survivor.rs"]
mod survivor;
#[path = "crash_points/sweep.rs"]
mod sweep;
#[path = "crash_points/walk.rs"]
mod walk;

use acts::OPERATIONS;
use common::figures::{duration, figure, is_long};
use common::payload::Random;
use common::trace::can_trace;
use common::{roles, skip};
use joins::joins;
use recovery::{recovers, victim};
use rings::rings;
use scene::{Fate, Place, acts, link, pool};
use std::time::{Duration, Instant};
use sweep::Sweep;

roles!(acts, rings, joins, recovers, victim);

#[test]
fn plugins() {
    links(Place::Plugin, "plugins");
}

#[test]
fn hosts() {
    links(Place::Host, "hosts");
}

fn links(place: Place, what: &'static str) {
    if !can_trace() {
        return;
    }
    let mut sweep = Sweep::begin(what);
    for operation in OPERATIONS {
        sweep.over(&format!("{place:?}: {}", operation.name), |fate, _| link(place, operation, fate));
    }
    sweep.report();
}

#[test]
fn members() {
    if !can_trace() {
        return;
    }
    let mut sweep = Sweep::begin("members of pools");
    for operation in OPERATIONS.iter().filter(|operation| !operation.only_links) {
        sweep.over(&format!("Pool: {}", operation.name), |fate, _| pool(&[(operation, fate)]));
    }
    sweep.report();
}

#[test]
fn members_of_rings() {
    if !can_trace() {
        return;
    }
    let mut sweep = Sweep::begin("members of rings");
    for what in rings::OPERATIONS {
        sweep.over(&format!("Ring: {what}"), |fate, _| rings::play(what, fate));
    }
    sweep.report();
}

/// One is killed while another stands still, in any two operations.
#[test]
fn pairs_of_members() {
    if !can_trace() {
        return;
    }
    let mut sweep = Sweep::begin("pairs");
    let points = |operation| pool(&[(operation, Fate::Walks)]).events.len() + 1;
    let fit: Vec<_> = OPERATIONS.iter().filter(|operation| operation.fits_others()).collect();
    let points: Vec<_> = fit.iter().map(|operation| points(operation)).collect();
    let mut random = Random::new(std::process::id().into());
    let (start, mut pairs) = (Instant::now(), 0);
    while start.elapsed() < duration(Duration::from_secs(2)) {
        let [one, other] = [(); 2].map(|()| random.below(fit.len()));
        if !fit[one].fits(fit[other]) {
            continue;
        }
        let fates = [Fate::Killed(random.below(points[one])), Fate::Paused(random.below(points[other]))];
        let mut crew = [(fit[one], fates[0]), (fit[other], fates[1])];
        if random.below(2) == 0 {
            crew.reverse();
        }
        let name = format!("{}: {:?}, {}", crew[0].0.name, crew[0].1, crew[1].0.name);
        sweep.play(&name, crew[1].1, |_| pool(&crew));
        pairs += 1;
    }
    figure(
        "G2",
        "one member killed while another stands still",
        format!("{pairs} pairs, {} failures", sweep.failures()),
    );
    sweep.report();
}

#[test]
fn who_joins_and_leaves() {
    if !can_trace() {
        return;
    }
    if cfg!(debug_assertions) && !is_long() {
        return skip("joining takes too many instructions where it is not optimised");
    }
    let mut sweep = Sweep::begin("joining and leaving");
    for what in joins::OPERATIONS {
        sweep.over(what, |fate, known| joins::play(what, fate, known));
    }
    sweep.report();
}

#[test]
fn a_host_that_recovers_a_member() {
    if !can_trace() {
        return;
    }
    let mut sweep = Sweep::begin("recovery in a pool");
    sweep.over("Pool: recover", |fate, _| recovery::play(fate));
    sweep.report();
}
