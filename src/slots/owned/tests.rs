//! A table against a plain list of what everybody has in hand, with deaths in the midst of any operation.

use super::*;
use crate::ring::mpmc::{Ends, Ring, Snapshot, entry_at};
use crate::sync::dies_at;
use proptest::prelude::*;
use std::collections::HashMap;

const COUNTS: [u32; 2] = [3, 2];
const SLOTS: u32 = 5;
const CAPACITY: u32 = 4;
const PARTICIPANTS: usize = 3;

#[test]
fn a_header_is_a_cache_line() {
    assert_eq!(size_of::<Header<[u64; 6]>>(), 64);
    assert_eq!(hint_words([64, 65, 1]), 4);
}

struct Memory {
    slots: Vec<Header<u64>>,
    bells: [AtomicU32; SLOTS as usize],
    hints: [AtomicU64; 2],
    entries: [Vec<AtomicU64>; 2],
    ends: [[Ends; 1]; 2],
    payload: Vec<u8>,
}

struct Member {
    table: Table<u64>,
    rings: [Ring; 2],
}

impl Memory {
    fn new(generation: u32, start: u64) -> Self {
        Self {
            slots: (0..SLOTS).map(|_| Header::new(generation, 0)).collect(),
            bells: [const { AtomicU32::new(0) }; SLOTS as usize],
            hints: [const { AtomicU64::new(0) }; 2],
            entries: [0, 1].map(|_| (0..CAPACITY).map(|i| entry_at(i, CAPACITY, start)).collect()),
            ends: [0, 1].map(|_| [Ends::new(start)]),
            payload: vec![0; 3 * 64 + 2 * 128],
        }
    }

    fn member(&self, me: u16) -> Member {
        let payload = |offset| NonNull::from(&self.payload[offset]);
        let classes = [
            Class { size: 64, count: COUNTS[0], payload: payload(0) },
            Class { size: 128, count: COUNTS[1], payload: payload(3 * 64) },
        ];
        // SAFETY: the memory outlives its members, and is reached through them alone.
        unsafe {
            Member {
                table: Table::new(Array::of(&self.slots), Array::of(&self.bells), Array::of(&self.hints), &classes, me),
                rings: [0, 1].map(|n| Ring::new(Array::of(&self.entries[n]), Array::of(&self.ends[n]), n as u8)),
            }
        }
    }
}

impl Member {
    fn send(&self, slot: Handle, ring: usize, event: bool) -> Option<Handle> {
        let slot = self.table.queue(slot, ring as u8, event).unwrap();
        match self.rings[ring].enqueue(&self.table, slot) {
            Ok(()) => Some(slot),
            Err(_) => {
                self.table.unqueue(slot).unwrap();
                None
            }
        }
    }

    fn take(&self, ring: usize, straight: bool) -> Option<Handle> {
        if straight { self.rings[ring].dequeue(&self.table.straight()) } else { self.rings[ring].dequeue(&self.table) }
    }

    fn reply(&self, slot: Handle, apart: bool) -> Reply {
        let payload = if apart { self.table.alloc(0) } else { None };
        self.table.reply(slot, payload).unwrap()
    }

    fn recover(&self, dead: u16, woken: &mut Vec<u32>) -> Recovered {
        let present = Snapshot::of(&self.rings);
        let present = |ring, slot, generation| present.holds(ring, slot, generation);
        self.table.recover(dead, Orphans::Execute, present, |slot| woken.push(slot))
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Alloc(u8),
    Free,
    Send {
        ring: usize,
        event: bool,
    },
    Take {
        ring: usize,
        straight: bool,
    },
    Start,
    Reply {
        apart: bool,
    },
    Sleep,
    GiveUp,
    Complete,
    /// Dies before this step of the next operation of its kind.
    Die {
        during: u8,
        at: u32,
    },
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let what = prop_oneof![
        4 => (0u8..2).prop_map(Step::Alloc),
        1 => Just(Step::Free),
        4 => (0usize..2, any::<bool>()).prop_map(|(ring, event)| Step::Send { ring, event }),
        4 => (0usize..2, any::<bool>()).prop_map(|(ring, straight)| Step::Take { ring, straight }),
        2 => Just(Step::Start),
        3 => any::<bool>().prop_map(|apart| Step::Reply { apart }),
        1 => Just(Step::Sleep),
        1 => Just(Step::GiveUp),
        2 => Just(Step::Complete),
        1 => (0u8..5, 0u32..7).prop_map(|(during, at)| Step::Die { during, at }),
    ];
    (0..PARTICIPANTS, what)
}

/// What is known of a slot that is not free, by its handle.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Owned(usize),
    /// Ring, place in its order, caller.
    Queued(usize, usize, Option<usize>),
    Taken(usize, Option<usize>),
    Executing(usize, Option<usize>),
    Ended(usize, Progress),
    /// Belongs to the slot named.
    Attached(Handle),
}

#[derive(Default)]
struct Plain {
    slots: HashMap<Handle, (Is, bool)>,
    asleep: Vec<Handle>,
    /// How many entries were installed, by ring.
    sent: [usize; 2],
}

impl Plain {
    fn find(&self, wanted: impl Fn(Is) -> bool) -> Option<(Handle, Is, bool)> {
        let mut found: Vec<_> = self.slots.iter().filter(|(_, (is, _))| wanted(*is)).collect();
        found.sort_unstable_by_key(|(slot, _)| (slot.index, slot.generation));
        found.first().map(|(slot, (is, event))| (**slot, *is, *event))
    }

    fn end(&mut self, slot: Handle) {
        self.slots.remove(&slot);
        self.slots.retain(|_, (is, _)| *is != Is::Attached(slot));
        self.asleep.retain(|asleep| *asleep != slot);
    }

    /// The death of a participant between operations.
    fn die(&mut self, dead: usize) {
        let slots: Vec<_> = self.slots.iter().map(|(slot, (is, event))| (*slot, *is, *event)).collect();
        for (slot, is, event) in slots {
            let mut put = |is, event| {
                self.slots.insert(slot, (is, event));
            };
            match is {
                Is::Owned(who) if who == dead => self.end(slot),
                Is::Queued(ring, order, Some(who)) if who == dead => put(Is::Queued(ring, order, None), true),
                Is::Taken(who, caller) if who == dead => match caller {
                    Some(caller) if caller != dead => {
                        put(Is::Ended(caller, Progress::Died { maybe_executed: false }), event)
                    }
                    _ => self.end(slot),
                },
                Is::Executing(who, caller) if who == dead => match caller {
                    Some(caller) if caller != dead => {
                        put(Is::Ended(caller, Progress::Died { maybe_executed: true }), event)
                    }
                    _ => self.end(slot),
                },
                Is::Taken(who, Some(caller)) if caller == dead => put(Is::Taken(who, None), true),
                Is::Executing(who, Some(caller)) if caller == dead => put(Is::Executing(who, None), event),
                Is::Ended(caller, _) if caller == dead => self.end(slot),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 1024 }))]

    /// Any order of operations of three participants, some of whom die, does what the plain list says: nothing has two
    /// holders, nothing is lost, every call ends once, and allocation fails only if all slots of a class are out.
    #[test]
    fn a_table_is_a_list_of_who_has_what(
        generation in prop_oneof![Just(0), Just((1 << 28) - 4)],
        start in prop_oneof![Just(0u64), Just((1 << 22) - 2)],
        steps in proptest::collection::vec(step(), 0..if cfg!(miri) { 30 } else { 150 }),
    ) {
        let memory = Memory::new(generation, start);
        let mut members: Vec<_> = (1..=PARTICIPANTS as u16).map(|me| memory.member(me)).collect();
        let mut plain = Plain::default();
        for (who, step) in steps {
            let me = &members[who];
            match step {
                Step::Alloc(class) => {
                    let range = if class == 0 { 0..COUNTS[0] } else { COUNTS[0]..SLOTS };
                    let out = plain.slots.keys().filter(|slot| range.contains(&slot.index)).count();
                    let slot = me.table.alloc(class);
                    prop_assert_eq!(slot.is_some(), out < range.len());
                    if let Some(slot) = slot {
                        prop_assert!(range.contains(&slot.index));
                        prop_assert!(!plain.slots.keys().any(|other| other.index == slot.index), "handed out twice");
                        plain.slots.insert(slot, (Is::Owned(who), false));
                    }
                }
                Step::Free => if let Some((slot, ..)) = plain.find(|is| is == Is::Owned(who)) {
                    me.table.free(slot).unwrap();
                    prop_assert_eq!(me.table.free(slot), Err(Gone));
                    plain.end(slot);
                },
                Step::Send { ring, event } => if let Some((slot, ..)) = plain.find(|is| is == Is::Owned(who)) {
                    // Full means that the request one lap before is still there, whatever became of others since.
                    let full = plain.slots.values().any(
                        |(is, _)| matches!(is, Is::Queued(r, order, _) if *r == ring && order + CAPACITY as usize == plain.sent[ring]),
                    );
                    let sent = me.send(slot, ring, event);
                    prop_assert_eq!(sent.is_none(), full);
                    match sent {
                        Some(sent) => {
                            plain.end(slot);
                            let caller = (!event).then_some(who);
                            plain.slots.insert(sent, (Is::Queued(ring, plain.sent[ring], caller), event));
                            plain.sent[ring] += 1;
                        }
                        None => {
                            // As it was, in the generation that it was sent in.
                            plain.end(slot);
                            let generation = (slot.generation + 1) % (1 << 28);
                            plain.slots.insert(Handle { generation, ..slot }, (Is::Owned(who), false));
                        }
                    }
                },
                Step::Take { ring, straight } => {
                    let first = plain.slots.iter()
                        .filter_map(|(slot, (is, _))| match is {
                            Is::Queued(r, order, _) if *r == ring => Some((*order, *slot)),
                            _ => None,
                        })
                        .min_by_key(|(order, _)| *order)
                        .map(|(_, slot)| slot);
                    prop_assert_eq!(me.take(ring, straight), first);
                    if let Some(slot) = first {
                        let (Is::Queued(_, _, caller), event) = plain.slots[&slot] else { unreachable!() };
                        let is = if straight { Is::Executing(who, caller) } else { Is::Taken(who, caller) };
                        plain.slots.insert(slot, (is, event));
                    }
                }
                Step::Start => if let Some((slot, Is::Taken(_, caller), event)) =
                    plain.find(|is| matches!(is, Is::Taken(holder, _) if holder == who))
                {
                    let abandoned = caller.is_none() && !event;
                    let expected = if abandoned { Start::Abandoned } else { Start::Execute };
                    prop_assert_eq!(me.table.start(slot), Ok(expected));
                    if abandoned {
                        plain.end(slot);
                    } else {
                        plain.slots.insert(slot, (Is::Executing(who, caller), event));
                    }
                },
                Step::Reply { apart } => if let Some((slot, Is::Executing(_, caller), event)) =
                    plain.find(|is| matches!(is, Is::Executing(holder, _) if holder == who))
                {
                    let reply = me.reply(slot, apart);
                    match caller {
                        None => {
                            prop_assert_eq!(reply, Reply::Nobody);
                            plain.end(slot);
                        }
                        Some(caller) => {
                            let asleep = plain.asleep.contains(&slot);
                                                        prop_assert_eq!(reply, if asleep { Reply::Wake { caller: caller as u16 + 1 } } else { Reply::Seen });
                            plain.slots.insert(slot, (Is::Ended(caller, Progress::Replied), event));
                            if let Some(payload) = me.table.attached(slot) {
                                plain.slots.insert(payload, (Is::Attached(slot), false));
                            }
                        }
                    }
                },
                Step::Sleep => if let Some((slot, is, _)) = plain.find(|is| matches!(is,
                    Is::Queued(_, _, Some(c)) | Is::Taken(_, Some(c)) | Is::Executing(_, Some(c)) | Is::Ended(c, _) if c == who))
                {
                    let asleep = me.table.sleep(slot).unwrap();
                    match is {
                        Is::Ended(_, progress) => prop_assert_eq!(asleep, Err(progress)),
                        _ => {
                            prop_assert!(asleep.is_ok());
                            plain.asleep.push(slot);
                        }
                    }
                },
                Step::GiveUp => if let Some((slot, is, event)) = plain.find(|is| matches!(is,
                    Is::Queued(_, _, Some(c)) | Is::Taken(_, Some(c)) | Is::Executing(_, Some(c)) if c == who))
                {
                    let given_up = me.table.give_up(slot);
                    match is {
                        Is::Queued(..) => {
                            prop_assert_eq!(given_up, Ok(GivenUp::NotExecuted));
                            plain.end(slot);
                        }
                        Is::Taken(worker, _) => {
                            prop_assert_eq!(given_up, Ok(GivenUp::Abandoned));
                            plain.slots.insert(slot, (Is::Taken(worker, None), event));
                        }
                        Is::Executing(worker, _) => {
                            prop_assert_eq!(given_up, Ok(GivenUp::Abandoned));
                            plain.slots.insert(slot, (Is::Executing(worker, None), event));
                        }
                        _ => unreachable!(),
                    }
                    prop_assert_eq!(me.table.give_up(slot), Err(Gone));
                },
                Step::Complete => if let Some((slot, Is::Ended(_, progress), _)) =
                    plain.find(|is| matches!(is, Is::Ended(c, _) if c == who))
                {
                    prop_assert_eq!(me.table.complete(slot), Ok(progress));
                    prop_assert_eq!(me.table.complete(slot), Err(Gone), "completed twice");
                    plain.end(slot);
                },
                Step::Die { during, at } => {
                    // It dies in the midst of something that comes to nothing for others, or between operations.
                    let _died_or_not = dies_at(at, || match during {
                        0 => me.table.alloc(0).map(|slot| me.table.free(slot)).is_some(),
                        1 => me.table.alloc(1).is_some_and(|slot| me.table.queue(slot, 0, at % 2 == 0).is_ok()),
                        _ => false,
                    });
                    let mut woken = Vec::new();
                    let other = &members[(who + 1) % PARTICIPANTS];
                    other.recover(who as u16 + 1, &mut woken);
                    plain.die(who);
                    for slot in &plain.asleep {
                        let ended = matches!(plain.slots.get(slot), Some((Is::Ended(..), _)));
                        prop_assert_eq!(ended, woken.contains(&slot.index));
                    }
                    members[who] = memory.member(who as u16 + 1);
                }
            }
            prop_assert_eq!(members[0].table.in_use() as usize, plain.slots.len());
            for (slot, (is, _)) in &plain.slots {
                if let Is::Ended(caller, progress) = is {
                    prop_assert_eq!(members[*caller].table.progress(*slot), Ok(*progress));
                }
            }
        }
    }

    /// A whole call whose caller or worker dies before any step leaves no slot behind, and ends once for a caller that
    /// lives.
    #[test]
    fn a_call_survives_a_death_anywhere(
        generation in prop_oneof![Just(0), Just((1 << 28) - 2)],
        worker_dies in any::<bool>(),
        at in 0u32..14,
        apart in any::<bool>(),
        event in any::<bool>(),
        straight in any::<bool>(),
        asleep in any::<bool>(),
    ) {
        let memory = Memory::new(generation, 0);
        let (caller, worker, other) = (memory.member(1), memory.member(2), memory.member(3));
        let steps = |dying: bool, body: &mut dyn FnMut()| {
            if dying { dies_at(at, body).is_none() } else { body(); false }
        };
        let serve = |member: &Member| {
            if let Some(slot) = member.take(0, straight)
                && (straight || member.table.start(slot) == Ok(Start::Execute))
            {
                member.reply(slot, apart);
            }
        };
        let mut sent = None;
        let dead = steps(!worker_dies, &mut || {
            let slot = caller.table.alloc(1).unwrap();
            sent = caller.send(slot, 0, event);
            if asleep && !event {
                caller.table.sleep(sent.unwrap()).unwrap().unwrap();
            }
        });
        let mut woken = Vec::new();
        if dead {
            other.recover(1, &mut woken);
        }
        if steps(worker_dies, &mut || serve(&worker)) {
            other.recover(2, &mut woken);
        }
        // What is queued still is for the living.
        serve(&other);
        if let Some(slot) = sent.filter(|_| !dead && !event) {
            let ended = caller.table.progress(slot).unwrap();
            prop_assert_ne!(ended, Progress::Pending);
            prop_assert_eq!(caller.table.complete(slot), Ok(ended));
            prop_assert_eq!(caller.table.complete(slot), Err(Gone));
        }
        prop_assert_eq!(other.table.in_use(), 0, "a slot is lost");
        prop_assert!(other.take(0, false).is_none());
    }

    /// Whatever the words say, no operation panics or reaches beyond the table.
    #[test]
    fn wild_words_do_no_harm(
        words in proptest::collection::vec(any::<u64>(), 5),
        ext in any::<u64>(),
        index in prop_oneof![0u32..6, any::<u32>()],
        me in 1u16..4096,
    ) {
        let memory = Memory::new(0, 0);
        for (slot, word) in memory.slots.iter().zip(&words) {
            slot.word.store(*word, Ordering::Relaxed);
            slot.ext.store(ext, Ordering::Relaxed);
        }
        let member = memory.member(me);
        let generation = (words[(index % 5) as usize] >> 36) as u32;
        let slot = Handle { index, generation };
        let _anything = (
            member.table.progress(slot),
            member.table.sleep(slot),
            member.table.attached(slot),
            member.table.give_up(slot),
            member.table.start(slot),
            member.table.reply(slot, Some(Handle { index: 1, generation })),
            member.table.complete(slot),
            member.table.unqueue(slot),
            member.table.queue(slot, 255, true),
        );
        prop_assert_eq!(member.table.payload(index).is_some(), index < SLOTS);
        member.recover(me, &mut Vec::new());
        prop_assert!(member.table.alloc(7).is_none());
    }
}

/// Callers and workers die in the midst of operations all the time, and are recovered and replaced beside the others: every call
/// of a caller that lives ends once, nothing is executed twice, and no slot is lost.
#[test]
fn threads_die_anywhere() {
    const EACH: u64 = if cfg!(miri) { 20 } else { 10_000 };
    let memory = Memory::new((1 << 28) - 9, (1 << 22) - 7);
    let calling = AtomicU32::new(2);
    let dice = |seed: u64| {
        let mut state = seed;
        move |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % bound
        }
    };
    let steps = |die: bool, at: u64, body: &mut dyn FnMut()| {
        if die {
            dies_at(at as u32, body).is_none()
        } else {
            body();
            false
        }
    };
    let mut executed: Vec<u64> = Vec::new();
    let mut unrun: Vec<u64> = Vec::new();
    std::thread::scope(|scope| {
        let callers = [1u16, 2].map(|me| {
            let (memory, calling) = (&memory, &calling);
            scope.spawn(move || {
                let (mut dice, mut caller, mut unrun) = (dice(me.into()), memory.member(me), Vec::new());
                for value in 0..EACH {
                    let value = u64::from(me) << 32 | value;
                    let ring = dice(2) as usize;
                    let (die, at, give_up, event) = (dice(20) == 0, dice(12), dice(10) == 0, dice(4) == 0);
                    let dead = steps(die, at, &mut || {
                        let Some(slot) = caller.table.alloc(1) else { return std::thread::yield_now() };
                        // SAFETY: the slot is this thread's.
                        unsafe { caller.table.header(slot.index).unwrap().body.write(value) };
                        let Some(slot) = caller.send(slot, ring, event) else {
                            // It is Owned in the generation that it was sent in.
                            let generation = (slot.generation + 1) % (1 << 28);
                            return caller.table.free(Handle { generation, ..slot }).unwrap();
                        };
                        if event {
                            return;
                        }
                        if give_up {
                            match caller.table.give_up(slot).unwrap() {
                                GivenUp::NotExecuted => return unrun.push(value),
                                GivenUp::Abandoned => return,
                                GivenUp::Ended => {}
                            }
                        }
                        let ended = loop {
                            match caller.table.progress(slot).unwrap() {
                                Progress::Pending => std::thread::yield_now(),
                                ended => break ended,
                            }
                        };
                        let payload = caller.table.attached(slot).unwrap_or(slot);
                        let reply = caller.table.header(payload.index).unwrap().body.read();
                        assert!(ended != Progress::Replied || reply == !value, "another reply");
                        assert_eq!(caller.table.complete(slot), Ok(ended));
                        if ended == (Progress::Died { maybe_executed: false }) {
                            unrun.push(value);
                        }
                    });
                    if dead {
                        caller.recover(me, &mut Vec::new());
                        caller = memory.member(me);
                    }
                }
                calling.fetch_sub(1, Ordering::Release);
                unrun
            })
        });
        let workers = [3u16, 4].map(|me| {
            let (memory, calling) = (&memory, &calling);
            scope.spawn(move || {
                let (mut dice, mut worker, mut executed) = (dice(me.into()), memory.member(me), Vec::new());
                loop {
                    let last = calling.load(Ordering::Acquire) == 0;
                    let (die, at, apart) = (dice(20) == 0, dice(12), dice(3) == 0);
                    let mut idle = false;
                    let dead = steps(die, at, &mut || {
                        let Some(slot) = worker.take(0, false).or_else(|| worker.take(1, false)) else {
                            idle = true;
                            return;
                        };
                        if worker.table.start(slot) == Ok(Start::Abandoned) {
                            return;
                        }
                        let body = |slot: Handle| &worker.table.header(slot.index).unwrap().body;
                        let value = body(slot).read();
                        executed.push(value);
                        let payload = if apart { worker.table.alloc(0) } else { None };
                        // SAFETY: both are this thread's.
                        unsafe { body(payload.unwrap_or(slot)).write(!value) };
                        worker.table.reply(slot, payload).unwrap();
                    });
                    if dead {
                        worker.recover(me, &mut Vec::new());
                        worker = memory.member(me);
                    } else if idle && last {
                        break executed;
                    } else if idle {
                        std::thread::yield_now();
                    }
                }
            })
        });
        callers.into_iter().for_each(|caller| unrun.extend(caller.join().unwrap()));
        workers.into_iter().for_each(|worker| executed.extend(worker.join().unwrap()));
    });
    executed.sort_unstable();
    assert!(executed.windows(2).all(|two| two[0] != two[1]), "executed twice");
    assert!(unrun.iter().all(|value| executed.binary_search(value).is_err()), "executed, though it was said not to be");
    assert!(!executed.is_empty());
    let last = memory.member(9);
    assert!(last.take(0, false).is_none() && last.take(1, false).is_none());
    assert_eq!(last.table.in_use(), 0, "a slot is lost");
}
