//! The slots of one region, allocated by its one writer.
//!
//! # Protocol
//!
//! All bookkeeping is private to the owner; shared are the payload bytes (written by the owner) and one word per slot,
//! `released[j]`, written by the peer. A slot is *free*, *loaned* (its owner writes into it), *riding* (with a call: it comes
//! back with the reply) or *lent*. A slot gets a new generation each time it leaves.
//!
//! *Release*: the peer, having read the payload, stores the generation into `released[j]` with release. The owner loads that
//! word with acquire before it reuses a lent slot, so no read of the old payload can come after the new write. A riding slot
//! needs no such word: the reply that gives it back was published with release after the payload was last read.
//!
//! *Reuse*: each class hands out slots from a window of some bytes. When the window is used up it is swept for slots that came
//! back; only if none did the class grows into slots never used. Classes of [`ROTATING`] sizes use up their window,
//! which is larger, before any slot comes round again: what is written then has left the peer's caches, which need not be
//! asked for it (measured: 4 KiB 1.01 to 0.82 x the floor, 64 KiB 0.91 to 0.64, filled in place 1.05 to 0.93 and 1.00 to
//! 0.73). Others stay as warm as can be.
//!
//! Of these, a loan that is dropped unsent is kept in the *place* of its thread, where the same thread finds it again without a lock.
//! Only the thread itself fills its place; anybody may take from it, so nothing is stranded there: a class that runs out
//! collects from all places first.

use super::{GENERATION_BITS, SlotRef};
use crate::region::Array;
use crate::sync::{AtomicU32, Mutex, MutexGuard, NUMBERED_THREADS, Ordering, PeerWord, mutant, thread_number};
use crate::wake::Marks;
use core::num::NonZeroU64;
use core::ops::RangeInclusive;
use crossbeam_utils::CachePadded;
use std::collections::VecDeque;

/// How many bytes of one class are in use before it is looked for slots that came back.
const WINDOW: u32 = 128 << 10;
/// The same of a class that rotates.
const ROTATING_WINDOW: u32 = 512 << 10;
/// Sizes of slots that rotate. Smaller ones cost no more than the lock that rotating takes; larger ones are few.
pub const ROTATING: RangeInclusive<u32> = 1 << 10..=64 << 10;

/// Slots of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeClass {
    /// Bytes of a slot: a multiple of 64.
    pub size: u32,
    /// Number of slots.
    pub count: u32,
}

#[derive(Debug)]
struct Class {
    size: u32,
    /// Number of the class's first slot among all slots.
    first: u32,
    count: u32,
    window: u32,
    rotates: bool,
}

/// What the lock guards.
#[derive(Debug)]
pub struct Stock {
    free: Box<[VecDeque<u32>]>,
    /// How many slots of each class have ever been used.
    used: Box<[u32]>,
    /// Threads that wait for a slot.
    pub marks: Marks,
}

/// What the owner knows about a slot.
#[derive(Debug, Default)]
struct Slot {
    /// Generation in the low bits, and [`LENT`].
    state: AtomicU32,
    /// The generation that the peer has named last, or will: that of the last loan to it.
    named: AtomicU32,
}

/// The owner's side of an arena.
#[derive(Debug)]
pub struct Arena {
    classes: Box<[Class]>,
    slots: Box<[Slot]>,
    released: Array<PeerWord>,
    /// For each numbered thread a line, or a few, with one place for each class.
    places: Box<[CachePadded<[AtomicU32; PLACES]>]>,
    stock: Mutex<Stock>,
}

/// Classes beyond these have no places.
const PLACES: usize = if cfg!(busway_loom) { 2 } else { 16 };
const LENT: u32 = 1 << 31;
const GENERATION: u32 = (1 << GENERATION_BITS) - 1;

/// Number of a slot among all slots of its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotId(NonZeroU64);

impl SlotId {
    #[inline(always)]
    fn new(class: u8, number: u32) -> Self {
        // One whole word, also as an `Option`: see `call::message::Data` on what a value in parts costs.
        Self(NonZeroU64::MIN.saturating_add(u64::from(class) << 32 | u64::from(number)))
    }

    /// A slot of another kind of bus, which knows it by these bits.
    #[inline(always)]
    pub fn from_bits(bits: NonZeroU64) -> Self {
        Self(bits)
    }

    /// The bits it was made from.
    #[inline(always)]
    pub fn bits(self) -> u64 {
        self.0.get()
    }

    /// Size class.
    #[inline(always)]
    pub fn class(self) -> u8 {
        ((self.0.get() - 1) >> 32) as u8
    }

    #[inline(always)]
    fn number(self) -> u32 {
        (self.0.get() - 1) as u32
    }
}

impl Arena {
    /// An arena of these classes, in ascending order of size. `released` has one word per slot.
    pub fn new(classes: &[SizeClass], released: Array<PeerWord>) -> Self {
        let mut first = 0;
        let classes: Box<[Class]> = classes
            .iter()
            .map(|&SizeClass { size, count }| {
                let rotates = ROTATING.contains(&size);
                let window = if rotates { ROTATING_WINDOW } else { WINDOW } / size;
                let class = Class { size, first, count, window: window.clamp(1, count.max(1)), rotates };
                first += count;
                class
            })
            .collect();
        assert!(first <= released.count());
        Self {
            slots: (0..first).map(|_| Slot::default()).collect(),
            places: (0..NUMBERED_THREADS)
                .map(|_| CachePadded::new(core::array::from_fn(|_| AtomicU32::new(0))))
                .collect(),
            stock: Mutex::new(Stock {
                free: classes.iter().map(|c| VecDeque::with_capacity(c.count as usize)).collect(),
                used: classes.iter().map(|_| 0).collect(),
                marks: Marks::default(),
            }),
            classes,
            released,
        }
    }

    /// The class for `len` bytes, or the largest size if none is large enough.
    #[inline(always)]
    pub fn class_for(&self, len: usize) -> Result<u8, usize> {
        match self.classes.iter().position(|c| c.size as usize >= len) {
            Some(class) => Ok(class as u8),
            None => Err(self.classes.last().map_or(0, |c| c.size as usize)),
        }
    }

    /// Index of a slot in its class.
    #[inline]
    pub fn index(&self, slot: SlotId) -> u32 {
        slot.number() - self.classes[slot.class() as usize].first
    }

    /// A free slot of the class, now loaned; `None` if all are out.
    #[inline(always)]
    pub fn loan(&self, class: u8) -> Option<SlotId> {
        if let Some(place) = self.place(class) {
            let held = place.load(Ordering::Relaxed);
            // Somebody else may empty the place meanwhile, but only this thread fills it.
            if held != 0 && (mutant("arena: place not emptied") || place.swap(0, Ordering::Acquire) != 0) {
                return Some(SlotId::new(class, held - 1));
            }
        }
        self.loan_locked(class)
    }

    #[cold]
    fn loan_locked(&self, class: u8) -> Option<SlotId> {
        let c = &self.classes[class as usize];
        let mut stock = self.stock.lock();
        let used = stock.used[class as usize];
        let fresh = c.rotates && used < c.window;
        if !fresh && let Some(number) = stock.free[class as usize].pop_front() {
            return Some(SlotId::new(class, number));
        }
        if used >= c.window {
            self.sweep(class, &mut stock);
            if let Some(number) = stock.free[class as usize].pop_front() {
                return Some(SlotId::new(class, number));
            }
        }
        if used < c.count {
            stock.used[class as usize] += 1;
            return Some(SlotId::new(class, c.first + used));
        }
        self.collect(class).map(|number| SlotId::new(class, number))
    }

    /// Finds lent slots of the class that the peer has given back.
    fn sweep(&self, class: u8, stock: &mut Stock) {
        let c = &self.classes[class as usize];
        for number in c.first..c.first + stock.used[class as usize] {
            let word = &self.slots[number as usize].state;
            let state = word.load(Ordering::Relaxed);
            if state & LENT == 0 {
                continue;
            }
            let released = self.released.at(number);
            let released = if mutant("arena: release without acquire") { released.hint() } else { released.load() };
            if released == state & GENERATION || mutant("arena: reuse before release") {
                word.store(state & GENERATION, Ordering::Relaxed);
                stock.free[class as usize].push_back(number);
            }
        }
    }

    /// Takes a slot of the class out of some thread's place.
    fn collect(&self, class: u8) -> Option<u32> {
        let order = if mutant("arena: collect without acquire") { Ordering::Relaxed } else { Ordering::Acquire };
        let mut places = self.places.iter().filter_map(|places| places.get(usize::from(class)));
        places.find_map(|place| {
            let mut held = place.load(Ordering::Relaxed);
            // Its thread may take it first, and put another slot there: whatever it holds, one of us gets it. (A swap would
            // do; but one that finds nothing is a store, which loom may order behind the store that fills the place.)
            while held != 0 {
                match place.compare_exchange_weak(held, 0, order, Ordering::Relaxed) {
                    Ok(_) => return Some(held - 1),
                    Err(now) => held = now,
                }
            }
            None
        })
    }

    /// Gives a loaned slot back unsent, or a riding one whose reply gave it back. Returns whether somebody waits for it.
    #[inline(always)]
    pub fn give_back(&self, slot: SlotId) -> bool {
        if let Some(place) = self.place(slot.class())
            && place.load(Ordering::Relaxed) == 0
        {
            // Release: the next holder, perhaps another thread, writes after what this one did.
            let order = if mutant("arena: place without release") { Ordering::Relaxed } else { Ordering::Release };
            place.store(slot.number() + 1, order);
            return false;
        }
        self.give_back_locked(slot)
    }

    #[cold]
    fn give_back_locked(&self, slot: SlotId) -> bool {
        let mut stock = self.stock.lock();
        stock.free[slot.class() as usize].push_back(slot.number());
        stock.marks.sleepers() > 0
    }

    /// Lends a loaned slot to the peer, which gives it back by name. Before the reference is published.
    #[inline(always)]
    pub fn lend(&self, slot: SlotId) -> SlotRef {
        let reference = self.leave(slot, LENT);
        self.slots[slot.number() as usize].named.store(reference.generation(), Ordering::Relaxed);
        reference
    }

    /// Sends a loaned slot along with a call: the reply gives it back, or says that it did not, see [`detach`](Self::detach).
    #[inline(always)]
    pub fn ride(&self, slot: SlotId) -> SlotRef {
        if mutant("arena: riding slot free") {
            self.give_back(slot);
        }
        self.leave(slot, 0)
    }

    #[inline(always)]
    fn leave(&self, slot: SlotId, state: u32) -> SlotRef {
        let Slot { state: word, named } = &self.slots[slot.number() as usize];
        let mut generation = (word.load(Ordering::Relaxed) + 1) & GENERATION;
        // Slots that ride use up generations that the peer never names. The one it named last must not come round to a slot
        // that is lent: it would look given back already. (The peer's own word says which that was, but looking there would
        // take a cache line from it, and back, with every message.)
        if generation == named.load(Ordering::Relaxed) && !mutant("arena: a generation comes round") {
            generation = (generation + 1) & GENERATION;
        }
        word.store(generation | state, Ordering::Relaxed);
        SlotRef::new(slot.class(), self.index(slot), generation)
    }

    /// The reply did not give a riding slot back: the peer will by name, like any lent slot.
    pub fn detach(&self, slot: SlotId) {
        let Slot { state, named } = &self.slots[slot.number() as usize];
        let generation = state.load(Ordering::Relaxed);
        named.store(generation, Ordering::Relaxed);
        state.store(generation | LENT, Ordering::Relaxed);
    }

    /// Makes every slot as old as if it had left `generation` times, for models near the wrap.
    #[cfg(busway_loom)]
    pub fn age(&self, generation: u32) {
        self.slots.iter().for_each(|slot| slot.state.store(generation & GENERATION, Ordering::Relaxed));
    }

    /// The lock, for threads that begin or end to wait for a slot.
    pub fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock()
    }

    /// How many slots are neither free nor in a thread's place, after looking for those that came back. For tests and tools.
    pub fn outstanding(&self) -> u32 {
        let mut stock = self.stock.lock();
        (0..self.classes.len()).for_each(|class| self.sweep(class as u8, &mut stock));
        let used: u32 = stock.used.iter().sum();
        let free: usize = stock.free.iter().map(VecDeque::len).sum();
        let placed = self.places.iter().flat_map(|p| p.iter()).filter(|p| p.load(Ordering::Relaxed) != 0).count();
        used - free as u32 - placed as u32
    }

    #[inline(always)]
    fn place(&self, class: u8) -> Option<&AtomicU32> {
        let class = usize::from(class);
        if self.classes[class].rotates { None } else { self.places[thread_number()?].get(class) }
    }
}

#[cfg(all(test, not(busway_loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const CLASSES: [SizeClass; 2] = [SizeClass { size: 64, count: 3 }, SizeClass { size: 128 << 10, count: 2 }];
    const SLOTS: usize = 5;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Loan(u8),
        GiveBack(usize),
        Lend(usize),
        Release(usize),
        Ride(usize),
        ComeBack(usize),
        Detach(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let any = 0..SLOTS;
        prop_oneof![
            4 => (0u8..2).prop_map(Step::Loan),
            1 => any.clone().prop_map(Step::GiveBack),
            2 => any.clone().prop_map(Step::Lend),
            2 => any.clone().prop_map(Step::Release),
            2 => any.clone().prop_map(Step::Ride),
            1 => any.clone().prop_map(Step::ComeBack),
            1 => any.prop_map(Step::Detach),
        ]
    }

    /// Where a slot is that is not free.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Held {
        Loaned,
        Lent(SlotRef),
        Riding(SlotRef),
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 512 }))]

        /// Any order of loans, sends and releases does what a plain set of free slots does: no slot is handed out twice, none
        /// is lost, and a loan fails only when every slot of its class is out.
        #[test]
        fn an_arena_is_a_free_list(steps in proptest::collection::vec(step(), 0..if cfg!(miri) { 12 } else { 120 })) {
            let words: Vec<AtomicU32> = (0..SLOTS).map(|_| AtomicU32::new(0)).collect();
            // SAFETY: a peer word is a word; they outlive the arena.
            let released = unsafe { Array::of(core::slice::from_raw_parts(words.as_ptr().cast::<PeerWord>(), SLOTS)) };
            let arena = Arena::new(&CLASSES, released);
            let mut held: HashMap<u32, (SlotId, Held)> = HashMap::new();
            for step in steps {
                let at = |n: usize| n as u32;
                match step {
                    Step::Loan(class) => {
                        let out = held.values().filter(|(slot, _)| slot.class() == class).count();
                        let loan = arena.loan(class);
                        prop_assert_eq!(loan.is_some(), out < CLASSES[class as usize].count as usize);
                        if let Some(slot) = loan {
                            prop_assert_eq!(slot.class(), class);
                            prop_assert!(held.insert(slot.number(), (slot, Held::Loaned)).is_none(), "handed out twice");
                        }
                    }
                    Step::GiveBack(n) => {
                        if let Some((slot, Held::Loaned)) = held.get(&at(n)).copied() {
                            arena.give_back(slot);
                            held.remove(&at(n));
                        }
                    }
                    Step::Lend(n) => {
                        if let Some((slot, state @ Held::Loaned)) = held.get_mut(&at(n)).map(|(s, h)| (*s, h)) {
                            *state = Held::Lent(arena.lend(slot));
                        }
                    }
                    Step::Ride(n) => {
                        if let Some((slot, state @ Held::Loaned)) = held.get_mut(&at(n)).map(|(s, h)| (*s, h)) {
                            *state = Held::Riding(arena.ride(slot));
                        }
                    }
                    Step::Release(n) => {
                        if let Some((_, Held::Lent(reference))) = held.get(&at(n)).copied() {
                            words[n].store(reference.generation(), Ordering::Release);
                            held.remove(&at(n));
                        }
                    }
                    Step::ComeBack(n) => {
                        if let Some((slot, Held::Riding(_))) = held.get(&at(n)).copied() {
                            arena.give_back(slot);
                            held.remove(&at(n));
                        }
                    }
                    Step::Detach(n) => {
                        if let Some((slot, state)) = held.get_mut(&at(n)).map(|(s, h)| (*s, h))
                            && let Held::Riding(reference) = *state
                        {
                            arena.detach(slot);
                            *state = Held::Lent(reference);
                        }
                    }
                }
                prop_assert_eq!(arena.outstanding() as usize, held.len());
            }
        }
    }
}
