//! Slots of a segment that many processes write, each with the number of the one that answers for it.
//!
//! # Protocol
//!
//! The truth about a slot is its [`Word`], one 64-bit atomic; rings and bitmaps are hints. Every participant (a
//! process) has a number from 1 to 4095, and whoever dies can be found in the words: as *holder* of slots it wrote,
//! sent or worked on, as *caller* of those whose reply it awaits.
//!
//! | from | event, by | to |
//! |---|---|---|
//! | Free(g) | [`alloc`](Table::alloc), C | Owned(g, holder C) |
//! | Owned(g) | [`free`](Table::free), C | Free(g+1) |
//! | Owned(g) | [`queue`](Table::queue), C | Queued(g+1, holder C, caller C or event, ring), then the entry is installed |
//! | Queued(g) | [`unqueue`](Table::unqueue), C: the ring was full | Owned(g, holder C) |
//! | Queued(g) | [`give_up`](Table::give_up), C | Free(g+1): not executed; the stale entry is cleared later |
//! | Queued(g) | dequeued by W | Taken(g, holder W), or Executing at once; abandoned: Free(g+1) |
//! | Taken | [`start`](Table::start), W | Executing; abandoned (no caller, no event): Free(g+1), never run |
//! | Taken, Executing | [`give_up`](Table::give_up), C | the same without caller |
//! | Queued, Taken, Executing | [`sleep`](Table::sleep), C | the same, asleep |
//! | Executing(W, C) | [`reply`](Table::reply), W | Replied(g, C); if asleep, bell + 1 |
//! | Executing(W, nobody) | [`reply`](Table::reply), W | the attached slot freed, Free(g+1) |
//! | Replied, Died, Unrun | [`complete`](Table::complete), C | the attached slot freed, Free(g+1): the one completion |
//! | any of a dead participant | [`recover`](Table::recover) | see there |
//!
//! *Who writes.* A slot that is Owned, one that waits for its caller to read it, and one that executes for nobody is
//! written by one living thread alone, so those transitions are stores with release. All others are a compare-and-swap
//! of the whole word, and look again if it fails. Whoever acquires a word sees what the writer of that word did to the
//! slot before.
//!
//! *Payload of a reply*: a slot R of the replier's, Owned; it is written, named in the header of S (`ext`), becomes
//! Attached, then S becomes Replied. Whoever ends S frees R, and only if it is Attached in the generation named; so a
//! death between any two of these steps frees it once.
//!
//! *Asleep*: the flag is set by a compare-and-swap of the word that the reply swaps, so either the replier sees it, or
//! the caller sees the reply. The caller reads the bell before, sleeps while the bell has that value.
//!
//! # Allocation
//!
//! First the slot that this thread freed last, its *place*; then a bitmap of slots in use, which is right about most;
//! then one walk over the class, which finds any. A slot in a place stays free: anybody whose walk finds it may take
//! it.
//!
//! # ABA
//!
//! A generation changes when a slot is sent and when it is freed. A transition decided on an old word can succeed only
//! if the very word is back: after 2^28 changes, 2^27 calls through that one slot, while one thread stood between its
//! load and its swap, and then with the same caller, holder, ring and flags. What it then does is right for the slot as
//! it is.

mod alloc;
mod calls;
mod recover;
mod word;

pub use alloc::hint_words;
pub use calls::{GivenUp, Progress, Reply, Start, Straight};
pub use recover::{Orphans, Recovered};
pub use word::{GENERATION_BITS, Handle, MAX_PARTICIPANT, MAX_SLOTS, State, Word};

use crate::region::Array;
use crate::sync::{AtomicU32, AtomicU64, NUMBERED_THREADS, Ordering, PeerCell, crash, mutant};
use bytemuck::{AnyBitPattern, NoUninit};
use core::ptr::NonNull;
use crossbeam_utils::CachePadded;

/// A slot's header: its word, what belongs to it, and a body of the layer above. Zeroed memory is a free slot.
///
/// With a body of 48 bytes it is one cache line, so a small payload travels with its word.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Header<B> {
    /// A [`Word`]; written here alone.
    pub word: AtomicU64,
    /// A [`Handle`], of the attached slot, or 0; written here alone.
    pub ext: AtomicU64,
    /// What the layer above keeps here; written by who holds the slot.
    pub body: PeerCell<B>,
}

impl<B: NoUninit + AnyBitPattern> Header<B> {
    /// A free slot, as if it had been used `generation` times; zeroed memory is `new(0, zeroed)`.
    pub fn new(generation: u32, body: B) -> Self {
        Self { word: AtomicU64::new(Word::free(generation).bits()), ext: AtomicU64::new(0), body: PeerCell::new(body) }
    }

    /// The word as it is now. Acquires.
    #[inline(always)]
    pub fn word(&self) -> Word {
        let order = if mutant("owned: word without acquire") { Ordering::Relaxed } else { Ordering::Acquire };
        Word::from_bits(self.word.load(order))
    }

    fn store(&self, word: Word) {
        crash();
        let order = if mutant("owned: store without release") { Ordering::Relaxed } else { Ordering::Release };
        self.word.store(word.bits(), order);
    }

    fn swap(&self, from: Word, to: Word) -> Result<(), Word> {
        crash();
        let done = if mutant("owned: swap without release") { Ordering::Acquire } else { Ordering::AcqRel };
        let seen = Ordering::Acquire;
        self.word.compare_exchange(from.bits(), to.bits(), done, seen).map(drop).map_err(Word::from_bits)
    }

    /// Swaps the word for what `next` makes of it, until it succeeds or `next` refuses.
    #[inline(always)]
    fn update<E>(&self, mut next: impl FnMut(Word) -> Result<Word, E>) -> Result<Word, E> {
        let mut word = self.word();
        loop {
            let to = next(word)?;
            match self.swap(word, to) {
                Ok(()) => return Ok(to),
                Err(now) => word = now,
            }
        }
    }
}

/// Slots of one size, and where their payloads lie.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// Bytes of a payload.
    pub size: u32,
    /// Number of slots.
    pub count: u32,
    /// Address of the first payload.
    pub payload: NonNull<u8>,
}

#[derive(Debug)]
struct Range {
    class: Class,
    number: usize,
    /// Number of its first slot among all.
    first: u32,
    /// Its first word of the bitmap.
    hints: u32,
}

/// One participant's view of the slots of a segment.
#[derive(Debug)]
pub struct Table<B> {
    slots: Array<Header<B>>,
    /// For each slot, what the caller sleeps on.
    bells: Array<AtomicU32>,
    /// A bit for each slot that is in use, or in a place; each class begins with a word of its own. Advice only.
    hints: Array<AtomicU64>,
    classes: Box<[Range]>,
    me: u16,
    /// For each numbered thread, the slot of each class that it freed last, plus one. No other thread touches them.
    places: Box<[CachePadded<[AtomicU32; PLACES]>]>,
}

/// Classes beyond these have no places.
const PLACES: usize = if cfg!(busway_loom) { 1 } else { 16 };

// SAFETY: addresses of shared words, and of payloads that are handed out as addresses.
unsafe impl<B: Send> Send for Table<B> {}
// SAFETY: as above; the words are atomics, the bodies `PeerCell`s.
unsafe impl<B: NoUninit + AnyBitPattern> Sync for Table<B> {}

/// The slot is not (any longer) in a state that allows this: it ended, or was never this caller's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl<B: NoUninit + AnyBitPattern> Table<B> {
    /// The view of participant `me` of these slots, whose classes are in ascending order of size.
    ///
    /// # Panics
    /// If the counts do not belong together, or `me` is not from 1 to [`MAX_PARTICIPANT`].
    ///
    /// # Safety
    /// The arrays lie in memory that outlives the table, which every process writes by the rules of this module alone,
    /// and so do the payloads. `me` is no other living process's number, and was recovered if it was somebody's before.
    pub unsafe fn new(
        slots: Array<Header<B>>,
        bells: Array<AtomicU32>,
        hints: Array<AtomicU64>,
        classes: &[Class],
        me: u16,
    ) -> Self {
        assert!((1..=MAX_PARTICIPANT).contains(&me), "participants are numbered from 1");
        let (mut first, mut words) = (0u32, 0);
        let classes: Box<[Range]> = classes
            .iter()
            .enumerate()
            .map(|(number, class)| {
                let range = Range { class: *class, number, first, hints: words };
                (first, words) = (first + class.count, words + class.count.div_ceil(64));
                range
            })
            .collect();
        assert!(first <= slots.count().min(bells.count()) && first <= MAX_SLOTS && words <= hints.count());
        let places = || CachePadded::new(core::array::from_fn(|_| AtomicU32::new(0)));
        Self { slots, bells, hints, classes, me, places: (0..NUMBERED_THREADS).map(|_| places()).collect() }
    }

    /// The number of this participant.
    pub fn participant(&self) -> u16 {
        self.me
    }

    /// Number of slots, of all classes.
    pub fn count(&self) -> u32 {
        self.classes.last().map_or(0, |range| range.first + range.class.count)
    }

    /// The class for `len` bytes.
    ///
    /// # Errors
    /// The largest size, if none is large enough.
    #[inline]
    pub fn class_for(&self, len: usize) -> Result<u8, usize> {
        match self.classes.iter().position(|range| range.class.size as usize >= len) {
            Some(class) => Ok(class as u8),
            None => Err(self.classes.last().map_or(0, |range| range.class.size as usize)),
        }
    }

    /// A slot's header, if there is a slot of this number.
    #[inline(always)]
    pub fn header(&self, index: u32) -> Option<&Header<B>> {
        (index < self.count()).then(|| self.slots.at(index))
    }

    /// What the caller of a slot sleeps on, if there is a slot of this number.
    #[inline(always)]
    pub fn bell(&self, index: u32) -> Option<&AtomicU32> {
        (index < self.count()).then(|| self.bells.at(index))
    }

    /// Where a slot's payload lies, and how many bytes it may have.
    #[inline]
    pub fn payload(&self, index: u32) -> Option<(NonNull<u8>, u32)> {
        let class = self.range_of(index)?;
        let offset = (index - class.first) as usize * class.class.size as usize;
        // SAFETY: the index lies in the class, whose payloads are one array by the contract of `new`.
        Some((unsafe { class.class.payload.add(offset) }, class.class.size))
    }

    /// The class of a slot, if there is one of this number.
    #[inline]
    pub fn class_of(&self, index: u32) -> Option<u8> {
        self.range_of(index).map(|range| range.number as u8)
    }

    fn range_of(&self, index: u32) -> Option<&Range> {
        self.classes.iter().find(|range| index.wrapping_sub(range.first) < range.class.count)
    }

    /// How many slots are not free. For tests and tools.
    pub fn in_use(&self) -> u32 {
        (0..self.count()).filter(|index| self.slots.at(*index).word().state() != State::Free).count() as u32
    }
}

#[cfg(all(test, not(busway_loom)))]
mod tests;
