//! The ring of many producers and consumers, two entries large, with elements in its own cells, across the wrap of the
//! cycles (20 bits) and of the generations (28 bits).
//!
//! Modelled: producers and consumers beside each other, and the death of one at each of its steps beside a living one,
//! with recovery beside the living. Each participant has an end of its own, as if in a process of its own; values are
//! tracked cells, so one that two threads hold, or that is read before it is handed over, is a race. A ring whose
//! consumers clear their entries is modelled with the slots of a pool in `owned.rs`. Not modelled: rings longer than
//! two, and what only many laps bring (`pool_model.rs` and property tests).

#![cfg(busway_loom)]

use busway::region::Array;
use busway::ring::mpmc::{Cell, Ends, TypedRing};
use busway::sync::{AtomicU32, Ordering::SeqCst, dies_at, fence, mutant, spin_loop};
use busway_loom_tests::{Failure, Model};
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread::JoinHandle;
use std::sync::Arc;

const PAIR: Model =
    Model::new("mpmc: three elements through two entries, one producer, one consumer").stepwise().bound(3);
const PRODUCERS: Model = Model::new("mpmc: two producers, then a consumer").stepwise().bound(4);
const CONSUMERS: Model = Model::new("mpmc: two consumers of two elements").stepwise().bound(4);
const ALL: Model = Model::new("mpmc: two producers beside a consumer, three threads").stepwise().bound(3);
const FULL: Model = Model::new("mpmc: two producers of a ring with room for one").stepwise().bound(4);
const RECOVERY: Model = Model::new("mpmc: recovery of a producer beside a consumer").stepwise();

const SLEEPER: Model = Model::new("mpmc: a consumer looks again before it sleeps").stepwise();

const CAPACITY: u32 = 2;
/// One of the first three positions is the first of cycle 2^20.
const START: u64 = (1 << 21) - 1;
/// The first use of a slot sends it in generation 2^28 - 1, and frees it in 0.
const GENERATION: u32 = (1 << 28) - 2;

struct Memory {
    cells: Box<[Cell<u64>]>,
    ends: [Ends; 1],
}

impl Memory {
    fn new(cells: u32) -> Arc<Self> {
        // Its word begins here, where nothing has happened that it could hand over.
        let cells = (0..cells).map(|i| Cell::new(i, CAPACITY, START, GENERATION, 0)).collect();
        Arc::new(Self { cells, ends: [Ends::new(START)] })
    }

    /// The end of a participant.
    fn end(&self, me: u16) -> TypedRing<u64> {
        // SAFETY: the memory outlives every end of a model, and the cells are written through ends alone.
        unsafe { TypedRing::new(Array::of(&self.cells), CAPACITY, Array::of(&self.ends), me) }
    }
}

fn on_thread<R: 'static>(
    memory: &Arc<Memory>,
    me: u16,
    body: impl FnOnce(&TypedRing<u64>) -> R + 'static,
) -> JoinHandle<R> {
    let memory = memory.clone();
    loom::thread::spawn(move || body(&memory.end(me)))
}

fn pop_soon(ring: &TypedRing<u64>) -> u64 {
    loop {
        match ring.pop() {
            Some(value) => return value,
            None => spin_loop(),
        }
    }
}

fn pair() {
    let memory = Memory::new(CAPACITY);
    let producer = on_thread(&memory, 1, |ring| {
        for value in 1..=3 {
            while ring.push(value).is_err() {
                spin_loop();
            }
        }
    });
    let ring = memory.end(2);
    for value in 1..=3 {
        assert_eq!(pop_soon(&ring), value, "lost, doubled or out of order");
    }
    assert!(ring.pop().is_none() && ring.is_empty(), "an element that was never pushed");
    producer.join().unwrap();
}

/// What is left, and that every slot is free once it is gone.
fn drain(memory: &Memory) -> Vec<u64> {
    let ring = memory.end(9);
    let left = core::iter::from_fn(|| ring.pop()).collect();
    for value in 0..CAPACITY {
        assert!(ring.push(value.into()).is_ok(), "a slot or an entry was lost");
    }
    assert!(ring.push(0).is_err(), "more room than entries");
    left
}

fn producers() {
    let memory = Memory::new(CAPACITY + 1);
    let other = on_thread(&memory, 1, |ring| ring.push(1).expect("room"));
    memory.end(2).push(2).expect("room");
    other.join().unwrap();
    let mut popped = drain(&memory);
    popped.sort_unstable();
    assert_eq!(popped, [1, 2], "lost or doubled");
}

fn consumers() {
    let memory = Memory::new(CAPACITY + 1);
    let ring = memory.end(2);
    (1..=2).for_each(|value| ring.push(value).expect("room"));
    let other = on_thread(&memory, 1, |ring| ring.pop());
    let ours = ring.pop();
    let mut popped = [ours, other.join().unwrap()];
    popped.sort_unstable();
    assert_eq!(popped, [Some(1), Some(2)], "lost or doubled");
    assert_eq!(drain(&memory), [0; 0]);
}

fn all() {
    let memory = Memory::new(CAPACITY + 1);
    let producers = [1, 2].map(|me| on_thread(&memory, me, move |ring| ring.push(me.into()).expect("room")));
    let ring = memory.end(3);
    let mut popped: Vec<_> = ring.pop().into_iter().collect();
    producers.into_iter().for_each(|producer| producer.join().unwrap());
    popped.extend(drain(&memory));
    popped.sort_unstable();
    assert_eq!(popped, [1, 2], "lost or doubled");
}

fn full() {
    let memory = Memory::new(CAPACITY + 1);
    let ring = memory.end(2);
    ring.push(1).expect("room");
    let other = on_thread(&memory, 1, |ring| ring.push(2).is_ok());
    let ours = ring.push(3).is_ok();
    assert!(ours != other.join().unwrap(), "one of the two fits");
    assert_eq!(drain(&memory), [1, if ours { 3 } else { 2 }], "lost, doubled or out of order");
}

/// Participant 1 dies before step `step` of `dying`, which returns what it popped, beside participant 2, and is
/// recovered beside what participant 2 does next. Returns whether it ever died.
fn death(name: &str, step: u32, dying: fn(&TypedRing<u64>) -> Option<u64>) -> bool {
    let died = Arc::new(AtomicBool::new(false));
    let seen = died.clone();
    let name = Box::leak(format!("{name}, step {step}").into_boxed_str());
    Model::new(name).stepwise().bound(3).holds(move || {
        let memory = Memory::new(CAPACITY + 1);
        memory.end(2).push(1).expect("room");
        let victim = on_thread(&memory, 1, move |ring| dies_at(step, || dying(ring)));
        let living = memory.end(2);
        let mut popped: Vec<_> = living.pop().into_iter().collect();
        // The victim pushes one element at most.
        while living.push(2).is_err() {
            popped.push(living.pop().expect("what fills the ring"));
        }
        let result = victim.join().unwrap();
        let dead = result.is_none();
        seen.fetch_or(dead, Relaxed);
        let recovered = on_thread(&memory, 3, |ring| ring.recover(1));
        popped.extend(living.pop());
        let freed = recovered.join().unwrap();
        popped.extend(drain(&memory));
        assert!(freed <= u32::from(dead), "who has finished holds nothing");
        assert!(popped.iter().filter(|value| **value != 7).is_sorted(), "out of order: {popped:?}");
        popped.extend(result.flatten());
        popped.sort_unstable();
        // In the hand of the dead: one element, pushed or popped.
        let lost = [1, 2, 7].iter().filter(|value| !popped.contains(value)).count() as u32;
        assert!(popped.windows(2).all(|two| two[0] != two[1]), "doubled: {popped:?}");
        assert!(
            popped.contains(&7) || lost - 1 == freed || popped.contains(&1) && popped.contains(&2),
            "lost: {popped:?}"
        );
    });
    died.load(Relaxed)
}

fn deaths(name: &str, dying: fn(&TypedRing<u64>) -> Option<u64>) {
    let steps = (0..).take_while(|step| death(name, *step, dying)).count();
    assert!(steps >= 3, "a death at {steps} steps only");
}

fn recovery() {
    let memory = Memory::new(CAPACITY + 1);
    memory.end(1).push(1).expect("room");
    // It died, and what it had pushed stays.
    let recovered = on_thread(&memory, 3, |ring| ring.recover(1));
    let popped = memory.end(2).pop();
    let freed = recovered.join().unwrap();
    assert_eq!((popped, freed), (Some(1), 0), "lost");
    assert_eq!(drain(&memory), [0; 0], "doubled");
}

/// What the sleepers above rely on: a consumer that marks itself, fences and finds the ring empty is seen by the
/// producer.
fn sleeper() {
    let memory = Memory::new(CAPACITY);
    let parked = Arc::new(AtomicU32::new(0));
    let seen = parked.clone();
    let fence = || {
        if !mutant("mpmc: no fence around the mark") {
            fence(SeqCst);
        }
    };
    let producer = on_thread(&memory, 1, move |ring| {
        ring.push(1).expect("room");
        fence();
        seen.load(Relaxed) == 1
    });
    let ring = memory.end(2);
    parked.store(1, Relaxed);
    fence();
    let sleeps = ring.is_empty();
    let rings = producer.join().unwrap();
    assert!(!sleeps || rings, "asleep beside an element");
}

#[test]
fn a_consumer_looks_again_before_it_sleeps() {
    SLEEPER.holds(sleeper);
}

#[test]
fn a_mark_is_fenced() {
    SLEEPER.fails("mpmc: no fence around the mark", Failure::Assertion("asleep beside an element"), sleeper);
}

#[test]
fn elements_arrive_whole_and_in_order() {
    PAIR.holds(pair);
}

#[test]
fn an_entry_releases() {
    PAIR.fails("mpmc: entry without release", Failure::Race, pair);
}

#[test]
fn an_entry_is_acquired() {
    PAIR.fails("mpmc: entry without acquire", Failure::Race, pair);
}

#[test]
fn a_slot_releases() {
    PAIR.fails("mpmc: slot without release", Failure::Race, pair);
}

#[test]
fn an_entry_is_overwritten_once_its_slot_is_gone() {
    FULL.fails("mpmc: entry overwritten before its slot is looked at", Failure::Assertion("one of the two fits"), full);
}

#[test]
fn two_producers_share_the_entries() {
    PRODUCERS.holds(producers);
}

#[test]
fn two_consumers_share_the_elements() {
    CONSUMERS.holds(consumers);
}

#[test]
fn a_take_is_a_swap() {
    CONSUMERS.fails("mpmc: taken without a swap", Failure::Assertion("lost or doubled"), consumers);
}

#[test]
fn producers_and_a_consumer() {
    ALL.holds(all);
}

#[test]
fn one_of_two_finds_the_ring_full() {
    FULL.holds(full);
}

#[test]
fn a_producer_dies_anywhere() {
    deaths("mpmc: a producer dies", |ring| {
        let _full = ring.push(7);
        None
    });
}

#[test]
fn a_consumer_dies_anywhere() {
    deaths("mpmc: a consumer dies", |ring| ring.pop());
}

#[test]
fn recovery_beside_a_consumer() {
    RECOVERY.holds(recovery);
}

#[test]
fn a_take_looks_again() {
    RECOVERY.fails("mpmc: take does not look again", Failure::Assertion("lost"), recovery);
}

#[test]
fn recovery_keeps_what_was_pushed() {
    RECOVERY.fails("mpmc: pushed slot freed", Failure::Assertion("lost"), recovery);
}
