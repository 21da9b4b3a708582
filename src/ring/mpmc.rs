//! A ring of slot numbers with many producers and consumers, any of whom may be killed at any instruction.
//!
//! # Protocol
//!
//! The ring is a hint where to look; the slot's own word is the truth about who has it ([`Slots`], which for a pool is
//! `slots::owned`). A slot is queued, in its word, before its entry is installed, and it is taken, in its word, before
//! its entry is cleared. So a party that dies between two steps leaves nothing that others cannot see through, and none
//! waits for another.
//!
//! Positions count from 0 and never wrap (64 bits); the entry of position `p` is `entry[p % N]`, in cycle `p / N`.
//!
//! ```text
//! enqueue  t = tail; e = entry[t % N]
//!          e.cycle > t/N, or equal and occupied: t + 1                             step on in BOTH cases
//!          e.cycle < t/N, its slot still queued: Full
//!          else: CAS e -> (t/N, generation, slot); done
//! dequeue  h = head; e = entry[h % N]
//!          e.cycle < h/N, or e == (h/N, empty): empty
//!          e.cycle > h/N: h + 1
//!          take: CAS slot (generation, Queued, this ring) -> Taken                 the only transfer of ownership
//!          clear: CAS e -> (h/N + 1, empty); h + 1; done if taken, else step on: the slot was no longer queued
//! ```
//!
//! *Ends.* `tail` and `head` are lower bounds: every position below the tail was filled, every one below the head is
//! done with. So they may lag, and whoever finds one [`STRIDE`] positions behind moves it, with one swap that need not
//! succeed. In between parties walk, from the last position that their process knows.
//!
//! *Clearing* is a courtesy: it spares the next producer a look at the old slot. An entry whose slot is no longer
//! queued, because its consumer died or its caller gave up, is stale, and overwritten like an empty one. With
//! `Slots::CLEARS` off no consumer clears. `Full` is therefore exact: the request one lap before is still there.
//!
//! # Locked operations
//!
//! | | slot | entry | end | together |
//! |---|---|---|---|---|
//! | enqueue | 0 | 1 | 1/8 | 1.125 |
//! | dequeue | 1 | 1, or 0 if it does not clear | 1/8 | 2.125 or 1.125 |
//! | [`Ring::enqueue`] + [`Ring::dequeue`], a pool's | 1 | 2 | 1/4 | 3.25 |
//! | [`TypedRing::push`] + [`TypedRing::pop`] | 2 | 1 | 1/4 | 3.25 |
//!
//! # ABA
//!
//! An occupied entry is `{cycle: 20, generation: 28, slot + 1: 16}`; an empty one has slot 0, and a cycle of 48 bits.
//! Swaps of the ends (64 bits) and of empty entries (48 bits of laps) are safe for any time there is. A position that a
//! stopped thread holds for 2^18 laps is noticed before it is used. What remains is a thread that stops between its
//! last look at an end and its swap of an occupied entry, while that entry comes back bit for bit: the ring must go
//! round a multiple of 2^20 times, and the same slot be there in the same generation, which takes 2^27 uses of that
//! slot. (At 6 million elements a second through `k` slots, `k` times 22 seconds at one instruction, and then the exact
//! lap.) One entry is then cleared or overwritten early, whose request is in no ring until its sender gives it up or is
//! recovered. Nothing is delivered twice at any time.

mod cells;

pub use cells::{Cell, CellRing, TypedRing, Words};

pub use crate::slots::owned::Handle;

use crate::region::Array;
use crate::sync::{AtomicU64, Ordering, crash, mutant, prefetch_write};
use core::ptr::NonNull;
use crossbeam_utils::CachePadded;

/// What a ring must know of the slots that it passes on.
pub trait Slots {
    /// Whether a dequeuer clears its entry, or leaves it to the next producer to find it stale.
    const CLEARS: bool;

    /// Whether the slot is queued in this ring, in this generation. A number that names no slot is not.
    fn queued(&self, slot: Handle, ring: u8) -> bool;

    /// Takes the slot if it is queued in this ring, in this generation; if its word changes meanwhile, looks again.
    /// After `false` it never will be queued in this generation again.
    fn take(&self, slot: Handle, ring: u8) -> bool;
}

/// No room: a request of one lap ago is still queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// An end lags behind by at most about so many positions.
pub const STRIDE: u64 = 8;

/// Both ends, each on a line of its own. Zeroed memory is a ring that was never used.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Ends {
    pub head: Line,
    pub tail: Line,
}

/// A word alone on its cache line.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Line(pub AtomicU64);

impl Ends {
    /// The ends of a ring that stands at `position`.
    pub fn new(position: u64) -> Self {
        Self { head: Line(AtomicU64::new(position)), tail: Line(AtomicU64::new(position)) }
    }
}

/// What is in an entry: nothing, in a cycle, or a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    const CYCLE: u32 = 44;
    const EMPTY_BITS: u32 = 48;

    fn empty(cycle: u64) -> Self {
        // The low 20 bits where an occupied entry has its cycle, the next 28 where it has its generation.
        Self(cycle << Self::CYCLE | (cycle >> 20 & ((1 << 28) - 1)) << 16)
    }

    #[inline(always)]
    fn occupied(cycle: u64, slot: Handle) -> Self {
        Self(cycle << Self::CYCLE | slot.bits())
    }

    #[inline(always)]
    fn slot(self) -> Option<Handle> {
        Handle::from_bits(self.0)
    }

    /// How many cycles it is ahead of `cycle`.
    #[inline(always)]
    fn lead(self, cycle: u64) -> i64 {
        if self.0 & 0xffff != 0 {
            return ((self.0 >> Self::CYCLE).wrapping_sub(cycle) << Self::CYCLE) as i64 >> Self::CYCLE;
        }
        let own = self.0 >> Self::CYCLE | (self.0 >> 16 & ((1 << 28) - 1)) << 20;
        let unused = u64::BITS - Self::EMPTY_BITS;
        (own.wrapping_sub(cycle) << unused) as i64 >> unused
    }
}

/// The word of entry `index` of an empty ring of `capacity` that stands at `position`. For a position of 0 it is 0.
pub fn entry_at(index: u32, capacity: u32, position: u64) -> AtomicU64 {
    let (cycle, begun) = (position / u64::from(capacity), position % u64::from(capacity) > index.into());
    AtomicU64::new(Entry::empty(cycle + u64::from(begun)).0)
}

/// One process's view of a ring.
#[derive(Debug)]
pub struct Ring {
    entries: NonNull<u8>,
    /// Bytes from one entry to the next.
    step: usize,
    ends: Array<Ends>,
    mask: u64,
    shift: u32,
    number: u8,
    stride: u64,
    /// Where this process last was. Lower bounds like the ends themselves, which spare it the walk.
    seen_head: CachePadded<AtomicU64>,
    seen_tail: CachePadded<AtomicU64>,
}

// SAFETY: addresses of shared atomics.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

/// Where the next entry would be installed.
struct Spot {
    position: u64,
    entry: Entry,
    tail: u64,
}

impl Ring {
    /// The view of ring `number` (below 64, its name in the slot words) with these entries, a power of two up to
    /// 65,536.
    ///
    /// # Panics
    /// If the arrays do not have such counts.
    ///
    /// # Safety
    /// Both arrays lie in memory that outlives the ring, were zeroed or made by [`entry_at`] and [`Ends::new`], and
    /// every process writes them through such views alone.
    pub unsafe fn new(entries: Array<AtomicU64>, ends: Array<Ends>, number: u8) -> Self {
        // SAFETY: the caller's.
        unsafe { Self::within(entries.base().cast(), size_of::<AtomicU64>(), entries.count(), ends, number) }
    }

    /// A ring whose entries lie `step` bytes apart.
    ///
    /// # Safety
    /// As for `new`; at `entries` and `capacity - 1` times `step` bytes further on lie entries.
    unsafe fn within(entries: NonNull<u8>, step: usize, capacity: u32, ends: Array<Ends>, number: u8) -> Self {
        assert!(capacity.is_power_of_two() && capacity <= 1 << 16 && number < 64 && ends.count() > 0);
        let hint = || CachePadded::new(AtomicU64::new(0));
        Self {
            entries,
            step,
            ends,
            mask: u64::from(capacity - 1),
            shift: capacity.trailing_zeros(),
            number,
            stride: STRIDE.min(capacity.into()),
            seen_head: hint(),
            seen_tail: hint(),
        }
    }

    /// The number of the ring.
    pub fn number(&self) -> u8 {
        self.number
    }

    /// How many entries it has.
    pub fn capacity(&self) -> u32 {
        self.mask as u32 + 1
    }

    #[inline(always)]
    fn entry(&self, position: u64) -> &AtomicU64 {
        let offset = (position & self.mask) as usize * self.step;
        // SAFETY: in bounds by the mask; valid by the contract of `within`.
        unsafe { self.entries.add(offset).cast().as_ref() }
    }

    #[inline(always)]
    fn load(&self, position: u64) -> Entry {
        // Meets the release of `swap`: whoever sees an entry sees its slot queued, and what the slot holds.
        let order = if mutant("mpmc: entry without acquire") { Ordering::Relaxed } else { Ordering::Acquire };
        Entry(self.entry(position).load(order))
    }

    fn swap(&self, position: u64, from: Entry, to: Entry) -> bool {
        crash();
        let order = if mutant("mpmc: entry without release") { Ordering::Relaxed } else { Ordering::Release };
        self.entry(position).compare_exchange(from.0, to.0, order, Ordering::Relaxed).is_ok()
    }

    /// Where an end stands in memory, and where this process knows that it is at least.
    ///
    /// Acquires, so that the entry there is seen at least as it was when the end came to it: a lap ago, not two.
    #[inline(always)]
    fn end(&self, end: &Line, seen: &AtomicU64) -> (u64, u64) {
        let end = end.0.load(Ordering::Acquire);
        (end, end.max(seen.load(Ordering::Acquire)))
    }

    #[inline(always)]
    fn move_end(&self, end: &Line, from: u64, to: u64) {
        crash();
        let _moved_by_another = end.0.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed);
    }

    /// Whether the ring has gone round so often since `position` was current that 20 bits of a cycle mislead.
    #[inline(always)]
    fn outdated(&self, end: &Line, position: u64) -> bool {
        // No model comes near it, and each load is one more to explore.
        !cfg!(busway_loom) && end.0.load(Ordering::Relaxed).wrapping_sub(position) as i64 > (self.mask as i64 + 1) << 18
    }

    /// Finds where the next entry goes.
    #[inline(always)]
    fn find<S: Slots>(&self, slots: &S) -> Result<Spot, Full> {
        let end = &self.ends.tail;
        'again: loop {
            let (tail, mut position) = self.end(end, &self.seen_tail);
            loop {
                let entry = self.load(position);
                let cycle = position >> self.shift;
                let lead = entry.lead(cycle);
                let slot = entry.slot();
                if lead > 0 && mutant("mpmc: tail not helped once the entry's cycle is ahead") {
                    continue 'again;
                }
                if lead > 0 || lead == 0 && slot.is_some() {
                    position = position.wrapping_add(1);
                    if position.wrapping_sub(tail) >= 2 * self.stride {
                        self.move_end(end, tail, position);
                        continue 'again;
                    }
                    continue;
                }
                if self.outdated(end, position) {
                    continue 'again;
                }
                if lead < 0
                    && let Some(slot) = slot
                    && slots.queued(slot, self.number)
                    && !mutant("mpmc: entry overwritten before its slot is looked at")
                {
                    return Err(Full);
                }
                return Ok(Spot { position, entry, tail });
            }
        }
    }

    /// Asks for the entry that will be filled next, as far as this process knows.
    #[inline(always)]
    pub fn prefetch(&self) {
        prefetch_write(self.entry(self.seen_tail.load(Ordering::Relaxed)));
    }

    /// Installs a slot where there was room; `false` if another was quicker.
    #[inline(always)]
    fn install(&self, spot: &Spot, slot: Handle) -> bool {
        if !self.swap(spot.position, spot.entry, Entry::occupied(spot.position >> self.shift, slot)) {
            return false;
        }
        let next = spot.position.wrapping_add(1);
        self.seen_tail.store(next, Ordering::Release);
        if next.wrapping_sub(spot.tail) >= self.stride {
            self.move_end(&self.ends.tail, spot.tail, next);
        }
        true
    }

    /// Puts a slot into the ring, which is queued for it already, in its word.
    ///
    /// # Errors
    /// [`Full`]: the slot is still queued, in no ring.
    #[inline]
    pub fn enqueue<S: Slots>(&self, slots: &S, slot: Handle) -> Result<(), Full> {
        while !self.install(&self.find(slots)?, slot) {}
        Ok(())
    }

    /// Takes the slot that is first in the ring.
    #[inline]
    pub fn dequeue<S: Slots>(&self, slots: &S) -> Option<Handle> {
        let end = &self.ends.head;
        'again: loop {
            let (mut head, mut position) = self.end(end, &self.seen_head);
            loop {
                let entry = self.load(position);
                let cycle = position >> self.shift;
                let lead = entry.lead(cycle);
                let slot = entry.slot().filter(|_| lead == 0);
                if lead <= 0 && self.outdated(end, position) {
                    continue 'again;
                }
                let Some(slot) = slot else {
                    if lead <= 0 {
                        self.seen_head.store(position, Ordering::Release);
                        return None;
                    }
                    position = position.wrapping_add(1);
                    if position.wrapping_sub(head) >= 2 * self.stride {
                        self.move_end(end, head, position);
                        continue 'again;
                    }
                    continue;
                };
                if S::CLEARS {
                    prefetch_write(self.entry(position));
                }
                if mutant("mpmc: entry cleared before the slot is taken") {
                    self.swap(position, entry, Entry::empty(cycle + 1));
                }
                let taken = slots.take(slot, self.number);
                if S::CLEARS {
                    self.swap(position, entry, Entry::empty(cycle + 1));
                }
                position = position.wrapping_add(1);
                if position.wrapping_sub(head) >= self.stride {
                    self.move_end(end, head, position);
                    head = position;
                }
                if taken {
                    self.seen_head.store(position, Ordering::Release);
                    return Some(slot);
                }
            }
        }
    }

    /// Whether nothing was queued at some moment during the call. After a `SeqCst` fence it sees what was installed
    /// before the fence of an enqueuer that did not see the caller's mark: what a thread looks at before it sleeps.
    pub fn is_empty<S: Slots>(&self, slots: &S) -> bool {
        let end = &self.ends.head;
        'again: loop {
            let (_, mut position) = self.end(end, &self.seen_head);
            loop {
                let entry = self.load(position);
                let lead = entry.lead(position >> self.shift);
                let slot = entry.slot();
                if lead <= 0 && self.outdated(end, position) {
                    continue 'again;
                }
                match slot {
                    _ if lead < 0 => return true,
                    None if lead == 0 => return true,
                    Some(slot) if lead == 0 && slots.queued(slot, self.number) => return false,
                    _ => position = position.wrapping_add(1),
                }
            }
        }
    }

    /// About how many entries are in use: a hint, old as soon as it is read, and off by some [`STRIDE`].
    #[allow(clippy::len_without_is_empty, reason = "it asks for the slots")]
    pub fn len(&self) -> u32 {
        let (_, head) = self.end(&self.ends.head, &self.seen_head);
        let (_, tail) = self.end(&self.ends.tail, &self.seen_tail);
        tail.saturating_sub(head).min(self.mask + 1) as u32
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        (0..=self.mask).map(|index| self.load(index))
    }
}

/// What rings held at one time, for recovery.
#[derive(Debug, Default)]
pub struct Snapshot(Vec<u64>);

impl Snapshot {
    /// Looks at each entry once. Everything that a party installed which died before is seen, if it is still there.
    pub fn of<'a>(rings: impl IntoIterator<Item = &'a Ring>) -> Self {
        let mut seen = Vec::new();
        for ring in rings {
            let slots = ring.entries().filter_map(Entry::slot);
            seen.extend(slots.map(|slot| Self::key(ring.number, slot)));
        }
        seen.sort_unstable();
        Self(seen)
    }

    /// Whether the ring had an entry for the slot in this generation.
    pub fn holds(&self, ring: u8, index: u32, generation: u32) -> bool {
        self.0.binary_search(&Self::key(ring, Handle { index, generation })).is_ok()
    }

    fn key(ring: u8, slot: Handle) -> u64 {
        u64::from(ring) << 44 | slot.bits()
    }
}

#[cfg(all(test, not(busway_loom)))]
mod tests;
