//! The slots of a pool, and calls through them: a ring of two entries, two or three slots, generations across their
//! wrap.
//!
//! Modelled: a call and its reply, its caller awake or asleep on the slot's bell; giving up at any time, with the reply
//! in the slot or in one of its own; events; allocation by two threads; the death of a worker or a caller at each of
//! its steps beside a living party, and recovery beside the living. Each participant has a table of its own, as if in a
//! process of its own. The body of a slot is a tracked cell, so a slot that two hold is a race. Not modelled: several
//! queues and the wake chain of workers, which are the layer's above (`pool_model.rs` has them).

#![cfg(busway_loom)]

use busway::region::Array;
use busway::ring::mpmc::{Ends, Ring, Snapshot, entry_at};
use busway::slots::owned::{Class, GivenUp, Handle, Header, Orphans, Progress, Reply, Start, Table};
use busway::sync::{AtomicU32, AtomicU64, FutexWord, dies_at, futex_wait, futex_wake, set_thread_number, spin_loop};
use busway_loom_tests::{Failure, Model};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};
use loom::thread::JoinHandle;
use std::sync::Arc;

const CALL: Model = Model::new("owned: a call and its reply").stepwise().bound(3);
const ASLEEP: Model = Model::new("owned: a caller asleep on its slot").stepwise().bound(5);
const GIVING_UP: Model = Model::new("owned: a call given up beside its worker").stepwise().bound(5);
const ATTACHED: Model =
    Model::new("owned: a call given up beside a worker whose reply takes a slot").stepwise().bound(5);
const EVENT: Model = Model::new("owned: two events, two workers").stepwise().bound(3);
const ALLOC: Model = Model::new("owned: two threads allocate from two slots").stepwise().bound(3);
const WORKERS: Model = Model::new("owned: two workers of two calls, three threads").stepwise().bound(3);
const STRAIGHT: Model =
    Model::new("owned: a call given up beside a worker that takes and begins in one step").stepwise().bound(5);
const LAGGING: Model = Model::new("owned: a producer finds the tail a lap behind").stepwise().bound(4);
const RECOVERY: Model = Model::new("owned: recovery of a caller beside its worker").stepwise().bound(5);

const CAPACITY: u32 = 2;
/// The second position is in cycle 2^20.
const START: u64 = (1 << 21) - 1;
const GENERATION: u32 = (1 << 28) - 2;
const QUEUE: u8 = 5;

type Body = u64;

struct Memory {
    slots: Box<[Header<Body>]>,
    bells: Box<[AtomicU32]>,
    hints: [AtomicU64; 1],
    entries: Box<[AtomicU64]>,
    ends: [Ends; 1],
    executed: AtomicBool,
}

/// A participant: its table and its end of the queue.
struct Member {
    table: Table<Body>,
    ring: Ring,
    memory: Arc<Memory>,
}

impl Memory {
    fn new(slots: u32) -> Arc<Self> {
        // Its word begins here, where nothing has happened that it could hand over.
        Arc::new(Self {
            slots: (0..slots).map(|_| Header::new(GENERATION, 0)).collect(),
            bells: (0..slots).map(|_| AtomicU32::new(0)).collect(),
            hints: [AtomicU64::new(0)],
            entries: (0..CAPACITY).map(|i| entry_at(i, CAPACITY, START)).collect(),
            ends: [Ends::new(START)],
            executed: AtomicBool::new(false),
        })
    }

    fn member(self: &Arc<Self>, me: u16) -> Member {
        let class = Class { size: 0, count: self.slots.len() as u32, payload: NonNull::dangling() };
        // SAFETY: the memory outlives its members, and is written through them alone; no payload has any bytes.
        let (table, ring) = unsafe {
            let table =
                Table::new(Array::of(&self.slots), Array::of(&self.bells), Array::of(&self.hints), &[class], me);
            (table, Ring::new(Array::of(&self.entries), Array::of(&self.ends), QUEUE))
        };
        Member { table, ring, memory: self.clone() }
    }

    /// Every slot is free, and the queue as good as new.
    fn all_free(self: &Arc<Self>) {
        let member = self.member(9);
        assert!(member.take().is_none(), "a request was left");
        assert_eq!(member.table.in_use(), 0, "a slot is lost");
        let calls: Vec<_> =
            (0..CAPACITY.min(self.slots.len() as u32)).map(|value| member.send(value.into(), true)).collect();
        calls.into_iter().for_each(|_| assert!(member.take().is_some(), "an entry is lost"));
    }
}

impl Member {
    /// Sends a request whose body is `value`.
    fn send(&self, value: u64, event: bool) -> Handle {
        let slot = self.table.alloc(0).expect("a slot is free");
        self.write(slot, value);
        let slot = self.table.queue(slot, QUEUE, event).expect("our own slot");
        self.ring.enqueue(&self.table, slot).expect("room");
        slot
    }

    fn take(&self) -> Option<Handle> {
        self.ring.dequeue(&self.table)
    }

    /// Takes a request straight into execution.
    fn take_straight(&self) -> Option<Handle> {
        self.ring.dequeue(&self.table.straight())
    }

    fn write(&self, slot: Handle, value: u64) {
        // SAFETY: the slot is this participant's, which the model checks.
        unsafe { self.table.header(slot.index).expect("a slot").body.write(value) }
    }

    fn read(&self, slot: Handle) -> u64 {
        self.table.header(slot.index).expect("a slot").body.read()
    }

    /// Executes a taken slot: replies with twice what it says, in the slot or in one of its own.
    fn execute(&self, slot: Handle, apart: bool) -> Option<u64> {
        if self.table.start(slot).expect("taken by us") == Start::Abandoned {
            return None;
        }
        self.answer(slot, apart)
    }

    fn answer(&self, slot: Handle, apart: bool) -> Option<u64> {
        let value = self.read(slot);
        self.memory.executed.store(true, Relaxed);
        let payload = apart.then(|| self.table.alloc(0).expect("a slot for the reply"));
        self.write(payload.unwrap_or(slot), 2 * value);
        if let Reply::Wake { .. } = self.table.reply(slot, payload).expect("executed by us") {
            futex_wake(self.table.bell(slot.index).expect("a slot"), 1, false);
        }
        Some(value)
    }

    /// Takes and executes one request, if there is one.
    fn serve(&self, apart: bool) -> Option<u64> {
        self.execute(self.take()?, apart)
    }

    /// Completes a call that has ended; what it returned, if it did.
    fn complete(&self, slot: Handle, ended: Progress) -> Option<u64> {
        let value = (ended == Progress::Replied).then(|| self.read(self.table.attached(slot).unwrap_or(slot)));
        assert_eq!(self.table.complete(slot), Ok(ended), "the one completion");
        value
    }

    fn wait(&self, slot: Handle) -> Option<u64> {
        loop {
            match self.table.progress(slot).expect("our call") {
                Progress::Pending => spin_loop(),
                ended => return self.complete(slot, ended),
            }
        }
    }

    fn wait_asleep(&self, slot: Handle) -> Option<u64> {
        loop {
            match self.table.progress(slot).expect("our call") {
                Progress::Pending => {}
                ended => return self.complete(slot, ended),
            }
            if let Ok(bell) = self.table.sleep(slot).expect("our call") {
                futex_wait(FutexWord::shared(self.table.bell(slot.index).expect("a slot"), bell), None);
            }
        }
    }

    /// Gives a call up; whether it was not executed for certain.
    fn give_up(&self, slot: Handle) -> bool {
        match self.table.give_up(slot).expect("our call") {
            GivenUp::NotExecuted => true,
            GivenUp::Abandoned => false,
            GivenUp::Ended => {
                self.wait(slot);
                false
            }
        }
    }

    fn recover(&self, dead: u16) {
        let present = Snapshot::of([&self.ring]);
        let wake = |index| futex_wake(self.table.bell(index).expect("a slot"), 1, false);
        self.table.recover(
            dead,
            Orphans::Execute,
            |ring, slot, generation| present.holds(ring, slot, generation),
            wake,
        );
    }
}

fn on_thread<R: 'static>(memory: &Arc<Memory>, me: u16, body: impl FnOnce(&Member) -> R + 'static) -> JoinHandle<R> {
    let memory = memory.clone();
    loom::thread::spawn(move || body(&memory.member(me)))
}

fn serve_one(member: &Member) {
    while member.serve(false).is_none() {
        spin_loop();
    }
}

fn call() {
    let memory = Memory::new(1);
    let worker = on_thread(&memory, 2, serve_one);
    let caller = memory.member(1);
    let slot = caller.send(4, false);
    assert_eq!(caller.wait(slot), Some(8));
    worker.join().unwrap();
    memory.all_free();
}

fn asleep() {
    let memory = Memory::new(1);
    let caller = memory.member(1);
    let slot = caller.send(4, false);
    let worker = on_thread(&memory, 2, |worker| worker.serve(false));
    assert_eq!(caller.wait_asleep(slot), Some(8));
    worker.join().unwrap();
    memory.all_free();
}

fn given_up(apart: bool) {
    let memory = Memory::new(if apart { 2 } else { 1 });
    let caller = memory.member(1);
    let slot = caller.send(4, false);
    let worker = on_thread(&memory, 2, move |worker| worker.serve(apart));
    let not_executed = caller.give_up(slot);
    let executed = worker.join().unwrap().is_some();
    assert!(!(not_executed && executed), "executed, though given up while queued");
    memory.all_free();
}

fn giving_up() {
    given_up(false);
}

fn straight() {
    let memory = Memory::new(1);
    let caller = memory.member(1);
    let slot = caller.send(4, false);
    let worker = on_thread(&memory, 2, |worker| worker.answer(worker.take_straight()?, false));
    let not_executed = caller.give_up(slot);
    let executed = worker.join().unwrap().is_some();
    assert!(not_executed != executed, "either it was executed, or that was prevented");
    memory.all_free();
}

/// The first producer need not move the tail, and a consumer clears its entry: the next one finds the entry a cycle
/// ahead.
fn lagging() {
    let memory = Memory::new(2);
    let first = on_thread(&memory, 1, |producer| producer.send(1, true));
    let worker = memory.member(2);
    let early = worker.serve(false);
    memory.member(3).send(2, true);
    first.join().unwrap();
    let mut executed = [early, worker.serve(false), worker.serve(false)];
    executed.sort_unstable();
    assert_eq!(executed, [None, Some(1), Some(2)], "an event was lost or doubled");
    memory.all_free();
}

fn attached() {
    given_up(true);
}

fn events() {
    let memory = Memory::new(2);
    let sender = memory.member(1);
    sender.send(1, true);
    let other = on_thread(&memory, 2, |worker| worker.serve(false));
    sender.send(2, true);
    let ours = memory.member(3).serve(false);
    let mut executed = [ours, other.join().unwrap(), memory.member(4).serve(false)];
    executed.sort_unstable();
    assert_eq!(executed, [None, Some(1), Some(2)], "an event was lost or doubled");
    memory.all_free();
}

fn alloc() {
    fn thread(member: &Member, number: usize) {
        set_thread_number(number);
        for _ in 0..2 {
            let slot = member.table.alloc(0).expect("a slot is there for each");
            member.write(slot, number as u64);
            assert_eq!(member.read(slot), number as u64);
            member.table.free(slot).expect("our own slot");
        }
    }
    let memory = Memory::new(2);
    let other = on_thread(&memory, 2, |member| thread(member, 1));
    thread(&memory.member(1), 0);
    other.join().unwrap();
    memory.all_free();
}

fn workers() {
    let memory = Memory::new(2);
    let caller = memory.member(1);
    let slots = [4, 5].map(|value| caller.send(value, false));
    let threads = [2, 3].map(|me| on_thread(&memory, me, |worker| worker.serve(false)));
    let mut executed = threads.map(|worker| worker.join().unwrap());
    executed.sort_unstable();
    assert_eq!(executed, [Some(4), Some(5)], "a call was lost or doubled");
    assert_eq!(slots.map(|slot| caller.wait(slot)), [Some(8), Some(10)]);
    memory.all_free();
}

fn recovery() {
    let memory = Memory::new(1);
    memory.member(1).send(4, false);
    let recoverer = on_thread(&memory, 3, |member| member.recover(1));
    let executed = memory.member(2).serve(false);
    recoverer.join().unwrap();
    let later = memory.member(2).serve(false);
    assert_eq!(executed.or(later), Some(4), "what a dead caller had sent was dropped");
    memory.all_free();
}

/// A worker dies before its step `step`; another goes on, and a caller sleeps until its call ends. Returns whether it
/// died.
fn worker_dies(step: u32, apart: bool) -> bool {
    let died = Arc::new(AtomicBool::new(false));
    let seen = died.clone();
    let name = Box::leak(format!("owned: a worker dies, reply apart: {apart}, step {step}").into_boxed_str());
    Model::new(name).stepwise().bound(3).holds(worker_death(step, apart, seen));
    died.load(Relaxed)
}

fn worker_death(step: u32, apart: bool, seen: Arc<AtomicBool>) -> impl Fn() {
    move || {
        let memory = Memory::new(2);
        let caller = memory.member(1);
        let slot = caller.send(4, false);
        let seen = seen.clone();
        let others = on_thread(&memory, 3, move |member| {
            let victim = member.memory.member(2);
            let dead = dies_at(step, || victim.serve(apart)).is_none();
            seen.fetch_or(dead, Relaxed);
            if dead {
                member.recover(2);
            }
            // If the call is queued still, it is for the living.
            member.serve(false);
        });
        let result = caller.wait_asleep(slot);
        others.join().unwrap();
        assert!(result.is_none_or(|value| value == 8), "another reply");
        memory.all_free();
    }
}

/// A caller dies before its step `step`, beside a worker, and is recovered beside it. Returns whether it died.
fn caller_dies(step: u32) -> bool {
    let died = Arc::new(AtomicBool::new(false));
    let seen = died.clone();
    let name = Box::leak(format!("owned: a caller dies, step {step}").into_boxed_str());
    Model::new(name).stepwise().bound(3).holds(move || {
        let memory = Memory::new(2);
        let seen = seen.clone();
        let victim = on_thread(&memory, 3, move |member| {
            let caller = member.memory.member(1);
            let dead = dies_at(step, || {
                let slot = caller.send(4, false);
                if caller.table.progress(slot) == Ok(Progress::Pending) {
                    caller.give_up(slot);
                } else {
                    caller.wait(slot);
                }
            });
            if dead.is_none() {
                seen.store(true, Relaxed);
                member.recover(1);
            }
        });
        let worker = memory.member(2);
        worker.serve(true);
        victim.join().unwrap();
        worker.serve(true);
        memory.all_free();
    });
    died.load(Relaxed)
}

#[test]
fn a_call_is_answered() {
    CALL.holds(call);
}

#[test]
fn a_reply_releases() {
    CALL.fails("owned: swap without release", Failure::Race, call);
}

#[test]
fn a_reply_is_acquired() {
    CALL.fails("owned: word without acquire", Failure::Race, call);
}

#[test]
fn freeing_releases() {
    ALLOC.fails("owned: store without release", Failure::Race, alloc);
}

#[test]
fn a_caller_asleep_is_woken() {
    ASLEEP.holds(asleep);
}

#[test]
fn a_sleeper_looks_again() {
    ASLEEP.fails("owned: W set without looking again", Failure::Deadlock, asleep);
}

#[test]
fn a_reply_looks_for_a_sleeper() {
    ASLEEP.fails("owned: reply does not look at W", Failure::Deadlock, asleep);
}

#[test]
fn a_call_is_given_up_at_any_time() {
    GIVING_UP.holds(giving_up);
}

#[test]
fn a_reply_looks_again() {
    GIVING_UP.fails("owned: reply does not look again", Failure::Assertion("a slot is lost"), giving_up);
}

#[test]
fn a_call_with_an_attached_reply_is_given_up_at_any_time() {
    ATTACHED.holds(attached);
}

#[test]
fn events_are_executed() {
    EVENT.holds(events);
}

#[test]
fn an_event_is_not_abandoned() {
    EVENT.fails("owned: event freed as abandoned", Failure::Assertion("an event was lost"), events);
}

#[test]
fn a_slot_has_one_holder() {
    ALLOC.holds(alloc);
}

#[test]
fn a_used_slot_is_not_claimed() {
    ALLOC.fails("owned: claimed whatever its state", Failure::Assertion("an entry is lost"), alloc);
}

#[test]
fn hints_are_not_believed() {
    ALLOC.fails("owned: hints believed", Failure::Assertion("a slot"), alloc);
}

#[test]
fn a_call_taken_straight_is_given_up_at_any_time() {
    STRAIGHT.holds(straight);
}

#[test]
fn a_tail_that_lags_is_helped() {
    LAGGING.holds(lagging);
}

#[test]
fn a_tail_is_helped_over_an_entry_that_is_ahead() {
    // It would look for ever.
    let endless = Failure::Assertion("exceeded maximum number of branches");
    LAGGING.fails("mpmc: tail not helped once the entry's cycle is ahead", endless, lagging);
}

#[test]
fn two_workers_share_the_calls() {
    WORKERS.holds(workers);
}

#[test]
fn a_cleared_entry_was_taken() {
    // A worker that dies before it takes has cleared.
    let death = || worker_death(1, false, Arc::default());
    let model = Model::new("owned: a worker dies before it takes").stepwise().bound(3);
    model.holds(death());
    model.fails("mpmc: entry cleared before the slot is taken", Failure::Deadlock, death());
}

#[test]
fn recovery_beside_a_worker() {
    RECOVERY.holds(recovery);
}

#[test]
fn recovery_keeps_what_was_sent() {
    RECOVERY.fails("owned: queued slot freed", Failure::Assertion("was dropped"), recovery);
}

#[test]
fn recovery_swaps() {
    RECOVERY.fails("owned: recovery stores", Failure::Assertion("a slot is lost"), recovery);
}

#[test]
fn recovery_frees_attached_slots() {
    // A caller that has given up will not.
    fn model() {
        for step in 0..9 {
            let memory = Memory::new(2);
            let caller = memory.member(1);
            let slot = caller.send(4, false);
            let dead = dies_at(step, || memory.member(2).serve(true)).is_none();
            caller.give_up(slot);
            if dead {
                memory.member(3).recover(2);
            }
            memory.all_free();
        }
    }
    let abandoned = Model::new("owned: a worker of an abandoned call dies, its reply takes a slot").stepwise();
    abandoned.holds(model);
    abandoned.fails("owned: ext not freed by recovery", Failure::Assertion("a slot is lost"), model);
}

#[test]
fn a_worker_dies_anywhere() {
    for apart in [false, true] {
        let steps = (0..).take_while(|step| worker_dies(*step, apart)).count();
        assert!(steps >= 4, "a death at {steps} steps only");
    }
}

#[test]
fn a_caller_dies_anywhere() {
    let steps = (0..).take_while(|step| caller_dies(*step)).count();
    assert!(steps >= 4, "a death at {steps} steps only");
}

#[test]
fn recovery_tells_the_caller() {
    let model = Model::new("owned: a worker dies while it executes").stepwise().bound(3);
    // Taking, clearing and starting are its first three steps.
    let death = || worker_death(3, false, Arc::default());
    model.holds(death());
    model.fails("owned: executing slot freed by recovery", Failure::Deadlock, death());
    model.fails("owned: recovery does not ring", Failure::Deadlock, death());
}
