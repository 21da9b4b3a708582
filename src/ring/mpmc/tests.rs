//! Rings against a plain queue, with deaths in the midst of any operation.

use super::*;
use crate::sync::Ordering::Relaxed;
use crate::sync::{AtomicU32, dies_at};
use proptest::prelude::*;
use std::collections::VecDeque;

#[test]
fn layouts_are_as_documented() {
    assert_eq!((size_of::<Cell<u64>>(), size_of::<Cell<[u64; 2]>>(), size_of::<Ends>()), (32, 32, 128));
    assert_eq!(entry_at(3, 4, 0).into_inner(), 0);
    // Zeroed memory is an empty ring.
    let zeroed: Vec<Cell<u64>> = (0..3).map(|i| Cell::new(i, 2, 0, 0, 0)).collect();
    // SAFETY: as many bytes as there are.
    let bytes = unsafe { core::slice::from_raw_parts(zeroed.as_ptr().cast::<u64>(), 3 * 2) };
    assert_eq!(bytes[..2], [0, 0]);
}

proptest! {
    #[test]
    fn cycles_compare_across_their_wraps(cycle in any::<u64>(), ahead in -3i64..4) {
        let slot = Handle { index: 65_534, generation: (1 << 28) - 1 };
        let other = cycle.wrapping_add_signed(ahead);
        prop_assert_eq!(Entry::occupied(other, slot).lead(cycle), ahead);
        prop_assert_eq!(Entry::empty(other).lead(cycle), ahead);
        prop_assert_eq!(Entry::occupied(other, slot).slot(), Some(slot));
        prop_assert_eq!(Entry::empty(other).slot(), None);
    }
}

/// Positions to begin at: the first, and shortly before a wrap of the cycles in occupied and in empty entries.
fn start() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just((1 << 20) - 3),
        Just((1 << 21) - 1),
        Just((1 << 23) - 5),
        Just((1 << 48) - 2),
        any::<u32>().prop_map(u64::from)
    ]
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(usize),
    Pop(usize),
    /// Dies before this step of a push; of a pop.
    DieAtPush(usize, u32),
    DieAtPop(usize, u32),
    Recover(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0usize..3;
    prop_oneof![
        6 => who.clone().prop_map(Step::Push),
        6 => who.clone().prop_map(Step::Pop),
        1 => (who.clone(), 0u32..6).prop_map(|(who, at)| Step::DieAtPush(who, at)),
        1 => (who.clone(), 0u32..6).prop_map(|(who, at)| Step::DieAtPop(who, at)),
        1 => who.prop_map(Step::Recover),
    ]
}

/// An element, and whether it is there for certain: one who died may or may not have pushed or popped it.
type Queued = (u64, bool);

fn expect_pop(model: &mut VecDeque<Queued>, popped: Option<u64>) -> Result<(), TestCaseError> {
    loop {
        match (model.front().copied(), popped) {
            (Some((value, _)), Some(popped)) if value == popped => {
                model.pop_front();
                return Ok(());
            }
            (Some((_, false)), _) => {
                model.pop_front();
            }
            (None, None) => return Ok(()),
            (front, popped) => {
                return Err(TestCaseError::fail(format!("popped {popped:?}, where the first is {front:?}")));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 512 }))]

    /// Any order of operations of three participants, who may die in the midst of them, does what a plain queue does.
    #[test]
    fn a_typed_ring_is_a_bounded_queue(
        start in start(),
        generation in prop_oneof![Just(0), Just((1 << 28) - 3)],
        bits in 0u32..5,
        steps in proptest::collection::vec(step(), 0..if cfg!(miri) { 30 } else { 200 }),
    ) {
        let capacity = 1 << bits;
        let cells: Vec<Cell<u64>> = (0..capacity + 3).map(|i| Cell::new(i, capacity, start, generation, 0)).collect();
        let ends = [Ends::new(start)];
        // SAFETY: the memory outlives the ring, which is reached through its ends alone.
        let end = |me| unsafe { TypedRing::new(Array::of(&cells), capacity, Array::of(&ends), me) };
        let mut rings = [1, 2, 3].map(end);
        let mut dead = [false; 3];
        let mut model: VecDeque<Queued> = VecDeque::new();
        for (value, step) in steps.into_iter().enumerate() {
            let value = value as u64;
            let certain = |model: &VecDeque<Queued>| model.iter().filter(|(_, certain)| *certain).count();
            match step {
                Step::Push(who) if !dead[who] => match rings[who].push(value) {
                    Ok(()) => {
                        prop_assert!(certain(&model) < capacity as usize);
                        model.push_back((value, true));
                    }
                    Err(Full) => prop_assert!(model.len() >= capacity as usize),
                },
                Step::Pop(who) if !dead[who] => {
                    let (empty, popped) = (rings[who].is_empty(), rings[who].pop());
                    prop_assert_eq!(empty, popped.is_none());
                    expect_pop(&mut model, popped)?;
                }
                Step::DieAtPush(who, at) if !dead[who] => match dies_at(at, || rings[who].push(value)) {
                    Some(Ok(())) => model.push_back((value, true)),
                    Some(Err(Full)) => {}
                    None => {
                        dead[who] = true;
                        model.push_back((value, false));
                    }
                },
                Step::DieAtPop(who, at) if !dead[who] => match dies_at(at, || rings[who].pop()) {
                    Some(popped) => expect_pop(&mut model, popped)?,
                    None => {
                        dead[who] = true;
                        // It went for the first one that was there.
                        if let Some(first) = model.iter().position(|(_, certain)| *certain) {
                            model.iter_mut().take(first + 1).for_each(|(_, certain)| *certain = false);
                        }
                    }
                },
                Step::Recover(who) if dead[who] => {
                    prop_assert!(rings[(who + 1) % 3].recover(who as u16 + 1) <= 1);
                    (rings[who], dead[who]) = (end(who as u16 + 1), false);
                }
                _ => {}
            }
        }
        let ring = end(9);
        for dead in 1..=3 {
            ring.recover(dead);
        }
        for _ in 0..=model.len() {
            expect_pop(&mut model, ring.pop())?;
        }
        for value in 0..capacity {
            prop_assert!(ring.push(value.into()).is_ok(), "a slot is lost");
        }
        prop_assert_eq!(ring.push(0), Err(Full));
    }
}

/// A plain table of slots: a word says in which generation a slot is queued, and nothing else.
struct Plain<const CLEARS: bool>(Vec<AtomicU32>);

const IDLE: u32 = u32::MAX;

impl<const C: bool> Slots for Plain<C> {
    const CLEARS: bool = C;

    fn queued(&self, slot: Handle, _ring: u8) -> bool {
        self.0.get(slot.index as usize).is_some_and(|word| word.load(Relaxed) == slot.generation)
    }

    fn take(&self, slot: Handle, _ring: u8) -> bool {
        let queued = self.queued(slot, 0);
        if queued {
            self.0[slot.index as usize].store(IDLE, Relaxed);
        }
        queued
    }
}

fn an_index_ring<const C: bool>(start: u64, bits: u32, steps: &[(u8, usize)]) -> Result<(), TestCaseError> {
    let capacity = 1 << bits;
    let entries: Vec<AtomicU64> = (0..capacity).map(|i| entry_at(i, capacity, start)).collect();
    let ends = [Ends::new(start)];
    // SAFETY: the memory outlives the ring, which is reached through its views alone.
    let rings = [0, 1].map(|_| unsafe { Ring::new(Array::of(&entries), Array::of(&ends), 0) });
    let slots = Plain::<C>((0..64).map(|_| AtomicU32::new(IDLE)).collect());
    let mut model: VecDeque<Handle> = VecDeque::new();
    for (turn, (what, number)) in steps.iter().enumerate() {
        let ring = &rings[turn % 2];
        match what {
            0 | 1 => {
                let Some(free) = slots.0.iter().position(|word| word.load(Relaxed) == IDLE) else { continue };
                let slot = Handle { index: free as u32, generation: turn as u32 };
                slots.0[free].store(slot.generation, Relaxed);
                match ring.enqueue(&slots, slot) {
                    Ok(()) => model.push_back(slot),
                    Err(Full) => {
                        slots.0[free].store(IDLE, Relaxed);
                        prop_assert!(model.len() >= capacity as usize, "full with {} of {capacity}", model.len());
                    }
                }
            }
            2 | 3 => {
                while model.front().is_some_and(|slot| !slots.queued(*slot, 0)) {
                    model.pop_front();
                }
                prop_assert_eq!(ring.is_empty(&slots), model.is_empty());
                prop_assert_eq!(ring.dequeue(&slots), model.pop_front());
            }
            // Given up: its entry stays behind.
            _ => {
                if let Some(slot) = model.get(*number) {
                    slots.0[slot.index as usize].store(IDLE, Relaxed);
                }
            }
        }
        prop_assert!(ring.len() <= ring.capacity());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 512 }))]

    /// Any order of enqueues, dequeues and requests that are given up does what a plain queue does.
    #[test]
    fn an_index_ring_is_a_bounded_queue(
        start in start(),
        bits in 0u32..5,
        steps in proptest::collection::vec((0u8..5, 0usize..16), 0..if cfg!(miri) { 30 } else { 200 }),
    ) {
        an_index_ring::<true>(start, bits, &steps)?;
        an_index_ring::<false>(start, bits, &steps)?;
    }

    /// Whatever the words of a ring say, it answers, and names no slot that does not exist.
    #[test]
    fn wild_words_do_no_harm(
        words in proptest::collection::vec((0u64..40, any::<u64>()), 4),
        head in prop_oneof![0u64..64, Just(u64::MAX)],
        tail in prop_oneof![0u64..64, Just(u64::MAX)],
    ) {
        // Cycles near the ends, or the walk is long.
        let word = |(cycle, rest): &(u64, u64)| match rest & 0xffff {
            0 => Entry::empty(*cycle).0,
            _ => cycle << 44 | rest >> 20,
        };
        let entries: Vec<AtomicU64> = words.iter().map(|it| AtomicU64::new(word(it))).collect();
        let ends = [Ends { head: Line(AtomicU64::new(head)), tail: Line(AtomicU64::new(tail)) }];
        // SAFETY: the memory outlives the ring.
        let ring = unsafe { Ring::new(Array::of(&entries), Array::of(&ends), 0) };
        let slots = Plain::<true>((0..2).map(|_| AtomicU32::new(0)).collect());
        let _anything = (ring.enqueue(&slots, Handle { index: 0, generation: 0 }), ring.len());
        prop_assert!(ring.dequeue(&slots).is_none_or(|slot| slot.index < 2));
        ring.is_empty(&slots);
    }
}

/// Threads push and pop what they can; everything comes out once, in the order of each producer.
#[test]
fn threads_lose_and_double_nothing() {
    const EACH: u64 = if cfg!(miri) { 40 } else { 20_000 };
    let (capacity, start) = (8, (1 << 23) - 20);
    let cells: Vec<Cell<u64>> = (0..capacity + 4).map(|i| Cell::new(i, capacity, start, (1 << 28) - 9, 0)).collect();
    let ends = [Ends::new(start)];
    // SAFETY: the memory outlives the threads, which are joined.
    let end = |me| unsafe { TypedRing::new(Array::of(&cells), capacity, Array::of(&ends), me) };
    let popped: Vec<Vec<u64>> = std::thread::scope(|scope| {
        for me in [1, 2] {
            let ring = end(me);
            scope.spawn(move || {
                for value in 0..EACH {
                    while ring.push(u64::from(me) << 32 | value).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let consumers = [3, 4].map(|me| {
            let ring = end(me);
            scope.spawn(move || {
                let mut popped = Vec::new();
                while popped.len() < EACH as usize {
                    match ring.pop() {
                        Some(value) => popped.push(value),
                        None => std::thread::yield_now(),
                    }
                }
                popped
            })
        });
        consumers.into_iter().map(|consumer| consumer.join().unwrap()).collect()
    });
    for popped in &popped {
        for me in [1, 2] {
            assert!(popped.iter().filter(|value| **value >> 32 == me).is_sorted(), "out of order");
        }
    }
    let mut all = popped.concat();
    all.sort_unstable();
    let expected: Vec<_> = [1, 2].into_iter().flat_map(|me| (0..EACH).map(move |value| me << 32 | value)).collect();
    assert!(all == expected, "lost or doubled");
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Threads die in the midst of operations all the time, and are recovered and replaced beside the others: nothing comes out
/// twice, and what is missing was in the hand of one who died.
#[test]
fn threads_die_anywhere() {
    const EACH: u64 = if cfg!(miri) { 40 } else { 20_000 };
    let (capacity, start) = (8, (1 << 23) - 20);
    let cells: Vec<Cell<u64>> = (0..capacity + 4).map(|i| Cell::new(i, capacity, start, (1 << 28) - 9, 0)).collect();
    let ends = [Ends::new(start)];
    // SAFETY: the memory outlives the threads, which are joined.
    let end = |me| unsafe { TypedRing::new(Array::of(&cells), capacity, Array::of(&ends), me) };
    let producing = AtomicU32::new(2);
    let (mut pushed, mut unsure, mut popped, mut in_hand) = (Vec::new(), Vec::new(), Vec::new(), 0);
    std::thread::scope(|scope| {
        let producers = [1, 2].map(|me| {
            let (mut ring, mut dice, producing) = (end(me), Dice(me.into()), &producing);
            scope.spawn(move || {
                let (mut pushed, mut unsure) = (Vec::new(), Vec::new());
                for value in 0..EACH {
                    let value = u64::from(me) << 32 | value;
                    let result = match dice.below(20) {
                        0 => dies_at(dice.below(6) as u32, || ring.push(value)),
                        _ => Some(ring.push(value)),
                    };
                    match result {
                        Some(Ok(())) => pushed.push(value),
                        Some(Err(Full)) => std::thread::yield_now(),
                        None => {
                            unsure.push(value);
                            ring.recover(me);
                            ring = end(me);
                        }
                    }
                }
                producing.fetch_sub(1, Ordering::Release);
                (pushed, unsure)
            })
        });
        let consumers = [3, 4].map(|me| {
            let (mut ring, mut dice, producing) = (end(me), Dice(me.into()), &producing);
            scope.spawn(move || {
                let (mut popped, mut in_hand) = (Vec::new(), 0);
                loop {
                    let last = producing.load(Ordering::Acquire) == 0;
                    let result = match dice.below(20) {
                        0 => dies_at(dice.below(6) as u32, || ring.pop()),
                        _ => Some(ring.pop()),
                    };
                    match result {
                        Some(Some(value)) => popped.push(value),
                        Some(None) if last => break (popped, in_hand),
                        Some(None) => std::thread::yield_now(),
                        None => {
                            in_hand += ring.recover(me) as usize;
                            ring = end(me);
                        }
                    }
                }
            })
        });
        for producer in producers {
            let (more_pushed, more_unsure) = producer.join().unwrap();
            pushed.extend(more_pushed);
            unsure.extend(more_unsure);
        }
        for consumer in consumers {
            let (more_popped, more_in_hand) = consumer.join().unwrap();
            popped.extend(more_popped);
            in_hand += more_in_hand;
        }
    });
    popped.sort_unstable();
    pushed.sort_unstable();
    assert!(popped.windows(2).all(|two| two[0] != two[1]), "doubled");
    let known = |value: &u64| pushed.binary_search(value).is_ok() || unsure.contains(value);
    assert!(popped.iter().all(known), "never pushed");
    let lost = pushed.iter().filter(|value| popped.binary_search(value).is_err()).count();
    assert!(lost <= in_hand, "{lost} lost, {in_hand} in the hands of the dead");
    let ring = end(9);
    assert!((0..capacity).all(|value| ring.push(value.into()).is_ok()), "a slot is lost");
    assert_eq!(ring.push(0), Err(Full));
}
