//! What a pool adds to the models that came with the design, explored state by state, before and beside the code.
//!
//! Two machines, both sequentially consistent, in both of which any party may die before any of its steps, and a
//! supervisor then recovers beside the survivors. One step is one load, store or compare-and-swap of shared memory.
//!
//! `Ring` is the index ring of `busway::ring::mpmc` over slots that several processes own: positions walked instead of
//! written, entries that are overwritten once they are stale, requests that are given up or marked while queued.
//!
//! `Calls` is the life of calls and events above such rings (here: plain queues with stale entries): two queues among
//! which the slots move, callers that sleep on their slot, workers that sleep on their place under parked bits, the
//! wake chain.
//!
//! Checked: no state from which the survivors cannot finish, no slot lost, nothing delivered or executed twice, every
//! call completed exactly once, nobody asleep beside what it waits for. Bounds: two entries a ring, two or three slots,
//! one or two deaths. Not modelled: weak memory (the loom models), the wrap of tags, out-of-line replies
//! (`call_model.py`).
//!
//! It needs no `busway_loom`, and is quick when optimised: `cargo test --release -p busway-loom-tests --test
//! pool_model`.

mod calls;
mod ring;
mod search;

use calls::{Calls, Op};
use ring::Ring;
use search::{fails, holds};

const RING: Ring = Ring { producers: 2, consumers: 1, rounds: 1, stride: 1, clears: true, minds: false, mutant: "" };

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes unless it is optimised")]
fn the_ring_survives_a_death_anywhere() {
    holds(&RING, "2 producers, 1 consumer");
    holds(&Ring { stride: 2, ..RING }, "2 producers, 1 consumer, ends moved in steps of 2");
    holds(&Ring { stride: 2, clears: false, ..RING }, "2 producers, 1 consumer, entries left stale");
    holds(&Ring { minds: true, stride: 2, ..RING }, "2 producers that mark and give up, 1 consumer");
    let longer = Ring { producers: 1, consumers: 1, rounds: 4, stride: 2, minds: true, ..RING };
    holds(&longer, "1 producer, 1 consumer, 4 rounds");
    holds(&Ring { clears: false, ..longer }, "1 producer, 1 consumer, 4 rounds, entries left stale");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes unless it is optimised")]
fn the_ring_survives_more_parties() {
    holds(&Ring { consumers: 2, stride: 2, ..RING }, "2 producers, 2 consumers");
    holds(&Ring { consumers: 2, stride: 2, clears: false, ..RING }, "2 producers, 2 consumers, entries left stale");
    holds(&Ring { producers: 1, consumers: 2, rounds: 3, ..RING }, "1 producer, 2 consumers, 3 rounds");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes unless it is optimised")]
fn mutants_of_the_ring_fail() {
    let rounds = Ring { rounds: 3, producers: 1, consumers: 2, stride: 2, ..RING };
    let mutant = |mutant, how, ring: &Ring| fails(&Ring { mutant, ..*ring }, mutant, how);
    mutant("tail not helped over an occupied entry", "cannot finish", &Ring { stride: 2, ..RING });
    mutant("tail not helped once the entry's cycle is ahead", "cannot finish", &RING);
    mutant("entry cleared before the slot is taken", "not found", &RING);
    mutant("entry overwritten before its slot is looked at", "not found", &rounds);
    mutant("a take that fails is not looked at again", "not found", &Ring { minds: true, ..RING });
    mutant("recovery stores", "", &RING);
    mutant("queued slot freed by recovery", "a request was dropped", &RING);
}

const CALLS: Calls =
    Calls { callers: &[&[Op::Call(0), Op::Event(1)]], workers: &[0b11, 0b11], deaths: 1, serve: true, mutant: "" };

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes unless it is optimised")]
fn calls_and_events_survive_a_death_anywhere() {
    let moving = Calls { callers: &[&[Op::Event(0), Op::Call(1), Op::Call(0)]], workers: &[0b11], ..CALLS };
    holds(&moving, "an event and two calls among 2 queues, 1 worker, 1 death");
    let split = Calls { callers: &[&[Op::Call(0), Op::Call(1)]], workers: &[0b01, 0b10], ..CALLS };
    holds(&split, "two calls, 2 workers of one queue each, 1 death");
    holds(&Calls { callers: &[&[Op::Call(0)]], deaths: 2, ..split }, "one call, 2 workers of one queue each, 2 deaths");
    let one = Calls { callers: &[&[Op::Call(0)]], workers: &[0b01, 0b01], deaths: 2, ..CALLS };
    holds(&one, "one call, 2 workers of 1 queue, 2 deaths");
    holds(&Calls { serve: false, ..one }, "the same, what a dead caller left is dropped");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes unless it is optimised")]
fn bursts_survive_a_death_anywhere() {
    let burst = Calls { callers: &[&[Op::Quiet(0), Op::Event(0)]], workers: &[0b01, 0b01], ..CALLS };
    holds(&burst, "a burst of 2 events, 2 workers of 1 queue, 1 death");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes unless it is optimised")]
fn two_queues_survive_a_death_anywhere() {
    let both = Calls { callers: &[&[Op::Event(0), Op::Event(1)]], ..CALLS };
    holds(&Calls { deaths: 0, ..both }, "two events, 2 workers of 2 queues, no death");
    holds(&both, "two events, 2 workers of 2 queues, 1 death");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes unless it is optimised")]
fn two_callers_survive_a_death_anywhere() {
    let two = Calls { callers: &[&[Op::Call(0)], &[Op::Event(0)]], workers: &[0b01], ..CALLS };
    holds(&two, "a call and an event of 2 callers, 1 worker, 1 death");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "takes minutes unless it is optimised")]
fn mutants_of_the_calls_fail() {
    let mutant = |mutant, how, calls: &Calls| fails(&Calls { mutant, ..*calls }, mutant, how);
    let alone = Calls { callers: &[&[Op::Call(0)]], workers: &[0b01], ..CALLS };
    let burst = Calls { callers: &[&[Op::Quiet(0), Op::Event(0)]], workers: &[0b01, 0b01], ..CALLS };
    let both = Calls { callers: &[&[Op::Event(0), Op::Event(1)]], ..CALLS };
    let single = Calls { callers: &[&[Op::Event(0)]], workers: &[0b01, 0b01], ..CALLS };
    mutant("W set without looking again", "a caller sleeps beside its reply", &Calls { deaths: 0, ..alone });
    mutant("reply does not look at W", "a caller sleeps beside its reply", &Calls { deaths: 0, ..alone });
    mutant("parked without looking again", "a request waits beside a sleeping worker", &alone);
    mutant("recovery does not ring", "beside", &burst);
    mutant("recovery does not ring", "a caller sleeps beside its reply", &alone);
    mutant("recovery rings a sleeper of each queue only", "a request waits beside a sleeping worker", &both);
    mutant("dequeue does not hand on", "a request waits beside a sleeping worker", &Calls { deaths: 0, ..burst });
    mutant(
        "dequeue hands on its own queue only",
        "a request waits beside a sleeping worker",
        &Calls { deaths: 0, ..both },
    );
    mutant("event freed as abandoned", "an event was dropped", &Calls { deaths: 0, ..burst });
    mutant("an event forgets its sender", "a slot is queued nowhere", &burst);
    mutant("bits not cleared", "a request waits beside a sleeping worker", &single);
    mutant("executing slot freed by recovery", "lost its slot", &alone);
}
