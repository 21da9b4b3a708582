//! A ring of values: the slots lie in the ring's own cells.

use super::{Ends, Full, Handle, Ring, Slots, Snapshot, entry_at};
use crate::region::Array;
use crate::slots::owned::{MAX_PARTICIPANT, MAX_SLOTS, State, Word};
use crate::sync::{AtomicU64, Ordering, PeerCell, crash, mutant, prefetch_write, spin_loop};
use bytemuck::{AnyBitPattern, NoUninit};
use core::marker::PhantomData;
use core::mem::offset_of;
use core::ptr::NonNull;

/// An entry of the ring, and beside it a slot: its word and its value. Zeroed memory is an empty entry and a free slot.
///
/// The entry of a position and the slot of the same number are used together as long as nobody is slow, so that an
/// element moves one cache line. Elements of up to 16 bytes make cells of 32.
#[derive(Debug)]
#[repr(C, align(32))]
pub struct Cell<T> {
    pub words: Words,
    pub value: PeerCell<T>,
}

/// What is in a cell whatever its value is.
#[derive(Debug)]
#[repr(C)]
pub struct Words {
    /// Written by the ring alone.
    pub entry: AtomicU64,
    /// A [`Word`]; written here alone.
    pub word: AtomicU64,
}

impl<T: NoUninit + AnyBitPattern> Cell<T> {
    /// The cell `index` of an empty ring of `capacity` entries that stands at `position`, its slot as if it had been
    /// used `generation` times. Zeroed memory is `new(i, n, 0, 0, zeroed)`.
    pub fn new(index: u32, capacity: u32, position: u64, generation: u32, value: T) -> Self {
        let word = AtomicU64::new(Word::free(generation).bits());
        Self { words: Words { entry: entry_at(index, capacity, position), word }, value: PeerCell::new(value) }
    }
}

impl Words {
    #[inline(always)]
    fn store(&self, word: Word) {
        crash();
        let order = if mutant("mpmc: slot without release") { Ordering::Relaxed } else { Ordering::Release };
        self.word.store(word.bits(), order);
    }

    #[inline(always)]
    fn word(&self) -> Word {
        Word::from_bits(self.word.load(Ordering::Acquire))
    }

    #[inline(always)]
    fn swap(&self, from: Word, to: Word) -> bool {
        crash();
        self.word.compare_exchange(from.bits(), to.bits(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// One process's end of a bounded ring of plain values in shared memory, into which any process may push and from which
/// any may pop, on any number of threads.
///
/// It survives a kill at any instruction: nobody waits for a process that is dead or slow, and what a dead process had
/// pushed is still popped. What it was about to pop, or to push, is lost with it; its slot comes back by
/// [`recover`](Self::recover). There is one more slot than entries for each thread that may be stopped, or dead and not
/// recovered, in the midst of a push or pop; beyond that the ring looks full.
///
/// # Protocol
///
/// Push: a slot Free(g) becomes Queued(g+1) by this process; the value is written; the entry is installed. Pop: the
/// slot becomes Taken, the value is read, the slot becomes Free(g+2). No entry is cleared: the next producer finds it
/// stale, on the cache line that it writes anyway. That makes two locked operations a push, one a pop, and an eighth
/// each for the ends.
#[derive(Debug)]
pub struct CellRing {
    ring: Ring,
    /// Cells, of which there are more than entries.
    count: u32,
    me: u16,
}

/// How often a producer looks at the slot it prefers while a consumer reads it.
const LOOKS: u32 = if cfg!(busway_loom) { 1 } else { 32 };

impl CellRing {
    /// The end of participant `me` of a ring of `capacity` elements, a power of two up to 32,768, with `count` cells `step` bytes
    /// apart. There are more cells than elements: one for each thread that may be in the midst of an operation.
    ///
    /// # Panics
    /// If the counts do not fit.
    ///
    /// # Safety
    /// At each `step` bytes from `cells` on lie [`Words`], and behind them room for a value. The memory outlives the ring, was zeroed or made
    /// by [`Cell::new`] and [`Ends::new`], and every process writes it through such ends alone. `me`, from 1 to 4095, is no other
    /// living process's number, and was recovered if it was somebody's before.
    pub unsafe fn new(cells: NonNull<u8>, step: usize, count: u32, capacity: u32, ends: Array<Ends>, me: u16) -> Self {
        assert!(count >= capacity && count <= MAX_SLOTS && (1..=MAX_PARTICIPANT).contains(&me));
        // SAFETY: the entry is the first field of each cell.
        let ring = unsafe { Ring::within(cells, step, capacity, ends, 0) };
        Self { ring, count, me }
    }

    /// How many elements fit.
    pub fn capacity(&self) -> u32 {
        self.ring.capacity()
    }

    /// About how many elements there are.
    pub fn len(&self) -> u32 {
        self.ring.len()
    }

    /// Whether the ring was empty at some moment during the call.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty(self)
    }

    /// Asks for the cell `ahead` positions after the last one that this process knows to be filled.
    #[inline(always)]
    pub fn prefetch_ahead(&self, ahead: u64) {
        let position = self.ring.seen_tail.load(Ordering::Relaxed).wrapping_add(ahead);
        prefetch_write(self.ring.entry(position));
    }

    /// The address of a cell.
    #[inline(always)]
    fn place(&self, index: u32) -> NonNull<u8> {
        assert!(index < self.count);
        // SAFETY: in bounds.
        unsafe { self.ring.entries.add(index as usize * self.ring.step) }
    }

    #[inline(always)]
    fn at(&self, index: u32) -> &Words {
        // SAFETY: valid by the contract of `new`.
        unsafe { self.place(index).cast().as_ref() }
    }

    /// Appends a value, which `write` writes, given the address of its cell. It is run once at most.
    ///
    /// # Errors
    /// [`Full`] if there is no room.
    #[inline(always)]
    pub fn push_with(&self, write: impl FnOnce(NonNull<u8>)) -> Result<(), Full> {
        let mut spot = self.ring.find(self)?;
        let slot = self.claim((spot.position & self.ring.mask) as u32).ok_or(Full)?;
        let cell = self.place(slot.index);
        // The slot was free, and is this thread's until its entry is installed.
        write(cell);
        while !self.ring.install(&spot, slot) {
            match self.ring.find(self) {
                Ok(next) => spot = next,
                Err(Full) => {
                    // SAFETY: valid by the contract of `new`. It was never installed, so nobody else can have it.
                    unsafe { cell.cast::<Words>().as_ref() }.store(Word::free(slot.generation).freed());
                    return Err(Full);
                }
            }
        }
        Ok(())
    }

    /// Takes the first value, which `read` reads, given the address of its cell.
    #[inline(always)]
    pub fn pop_with<R>(&self, read: impl FnOnce(NonNull<u8>) -> R) -> Option<R> {
        let slot = self.ring.dequeue(self)?;
        let cell = self.place(slot.index);
        let value = read(cell);
        // SAFETY: valid by the contract of `new`. Release: the next producer writes after this read.
        unsafe { cell.cast::<Words>().as_ref() }.store(Word::free(slot.generation).freed());
        Some(value)
    }

    /// Gives back what the participant `dead` had in hand. What it had pushed stays. Returns how many slots came back.
    ///
    /// It need not stop the others; one thread of all processes recovers one participant.
    pub fn recover(&self, dead: u16) -> u32 {
        // Of its queued slots, those with an entry now were pushed; the others never will be.
        let pushed = Snapshot::of([&self.ring]);
        let mut freed = 0;
        for index in 0..self.count {
            let cell = self.at(index);
            loop {
                let word = cell.word();
                if word.state() == State::Free || word.holder() != dead {
                    break;
                }
                let pushed = word.state() == State::Queued && pushed.holds(0, index, word.generation());
                let next = if pushed && !mutant("mpmc: pushed slot freed") { word.held_by(0) } else { word.freed() };
                if cell.swap(word, next) {
                    freed += u32::from(next.state() == State::Free);
                    break;
                }
            }
        }
        freed
    }

    /// Makes a free slot a queued one of this participant: the preferred one, or one of those beyond the entries, or
    /// any.
    #[inline(always)]
    fn claim(&self, preferred: u32) -> Option<Handle> {
        for _ in 0..LOOKS {
            let word = self.at(preferred).word();
            match word.state() {
                State::Free => match self.claim_at(preferred, word) {
                    None => break,
                    slot => return slot,
                },
                State::Taken => spin_loop(),
                _ => break,
            }
        }
        self.claim_any()
    }

    #[cold]
    fn claim_any(&self) -> Option<Handle> {
        let (capacity, count) = (self.capacity(), self.count);
        (capacity..count).chain(0..capacity).find_map(|index| self.claim_at(index, self.at(index).word()))
    }

    #[inline(always)]
    fn claim_at(&self, index: u32, word: Word) -> Option<Handle> {
        let sent = word.sent(self.me, 0, true);
        let claimed = word.state() == State::Free && self.at(index).swap(word, sent);
        claimed.then_some(Handle { index, generation: sent.generation() })
    }

    #[inline(always)]
    fn cell(&self, slot: Handle) -> Option<&Words> {
        (slot.index < self.count).then(|| self.at(slot.index))
    }
}

impl Slots for CellRing {
    const CLEARS: bool = false;

    #[inline(always)]
    fn queued(&self, slot: Handle, ring: u8) -> bool {
        self.cell(slot).is_some_and(|cell| cell.word().queued(slot.generation, ring))
    }

    #[inline(always)]
    fn take(&self, slot: Handle, ring: u8) -> bool {
        let Some(cell) = self.cell(slot) else { return false };
        loop {
            let word = cell.word();
            if !word.queued(slot.generation, ring) {
                return false;
            }
            if mutant("mpmc: taken without a swap") {
                cell.store(word.with(State::Taken).held_by(self.me));
                return true;
            }
            if cell.swap(word, word.with(State::Taken).held_by(self.me)) {
                return true;
            }
            if mutant("mpmc: take does not look again") {
                return false;
            }
        }
    }
}

/// A [`CellRing`] whose cells are [`Cell`]s of `T`s.
#[derive(Debug)]
#[repr(transparent)]
pub struct TypedRing<T> {
    cells: CellRing,
    _values: PhantomData<fn() -> T>,
}

impl<T> core::ops::Deref for TypedRing<T> {
    type Target = CellRing;

    fn deref(&self) -> &CellRing {
        &self.cells
    }
}

impl<T: NoUninit + AnyBitPattern> TypedRing<T> {
    /// As [`CellRing::new`].
    ///
    /// # Panics
    /// If the counts do not fit.
    ///
    /// # Safety
    /// As of [`CellRing::new`].
    pub unsafe fn new(cells: Array<Cell<T>>, capacity: u32, ends: Array<Ends>, me: u16) -> Self {
        let (base, step, count) = (cells.base().cast(), size_of::<Cell<T>>(), cells.count());
        // SAFETY: the caller's; the words are the first field of each cell.
        Self { cells: unsafe { CellRing::new(base, step, count, capacity, ends, me) }, _values: PhantomData }
    }

    /// Sees a ring whose cells hold `T`s.
    ///
    /// # Safety
    /// They do.
    #[inline(always)]
    pub unsafe fn of(ring: &CellRing) -> &Self {
        // SAFETY: the wrapper is transparent; its contract is the caller's.
        unsafe { &*core::ptr::from_ref(ring).cast() }
    }

    /// Appends a value.
    ///
    /// # Errors
    /// [`Full`] if there is no room.
    #[inline]
    pub fn push(&self, value: T) -> Result<(), Full> {
        // SAFETY: valid as the cell is; `push_with` gives a cell that this thread alone has.
        self.cells.push_with(|cell| unsafe { Self::value(cell).write(value) })
    }

    /// Takes the first value.
    #[inline]
    pub fn pop(&self) -> Option<T> {
        // SAFETY: valid as the cell is.
        self.cells.pop_with(|cell| unsafe { Self::value(cell).read() })
    }

    /// # Safety
    /// At `cell` is one, for as long as the value is used.
    #[inline(always)]
    unsafe fn value<'a>(cell: NonNull<u8>) -> &'a PeerCell<T> {
        // SAFETY: by this function's contract.
        unsafe { cell.byte_add(offset_of!(Cell<T>, value)).cast().as_ref() }
    }
}
