//! The caller's side of reply cells: which are free, and what became of those given up.
//!
//! # Protocol
//!
//! A call takes a free cell of the *peer's* region, gives it a new generation, names both in its entry and polls
//! `cell.word`. The replier writes the reply into the cell and then stores the generation into `word` with release. The
//! caller, having seen the generation with acquire, reads the reply; only then is the cell free for another call.
//!
//! A call that is given up keeps its cell and its slot: the replier may be writing the cell at this moment, or read the slot
//! for as long as it likes. The caller says in its call word that it gave up, so that a replier that sees this in time sends
//! nothing, and puts the call on a list which every later send looks through for replies that came late.

use crate::call::Ticket;
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, FutexWord, NUMBERED_THREADS, Ordering, futex_wait, futex_wake, mutant,
    thread_number,
};
use crate::wake::Deadline;
use core::time::Duration;
use crossbeam_utils::CachePadded;

use super::words::CALL_GENERATION;

/// Private state of one cell.
#[derive(Debug)]
struct CallCell {
    generation: AtomicU32,
    /// Generation of the last call that was published from here, and its position in the ring below it.
    sent: AtomicU64,
    /// Waits that ended while spinning; written by the holder of the cell.
    spins_paid: AtomicU64,
}

/// The cells of one end's calls.
#[derive(Debug)]
pub struct Calls {
    cells: Box<[CallCell]>,
    /// A cell kept warm for each thread, plus one. Only the thread fills its place; it is emptied under the lock of
    /// [`FreeCells`].
    places: Box<[CachePadded<AtomicU32>]>,
    /// Which cells found their thread's place taken; collected under the lock. A flag each, because only the holder of a cell
    /// sets it: a shared word would take a locked instruction, which waits for everything before it.
    strays: Box<[AtomicBool]>,
    /// Threads that wait for a cell, and the word they sleep on.
    waiting: AtomicU32,
    freed: AtomicU32,
    /// Length of the list of calls given up, for a look without the lock.
    given_up: AtomicU32,
}

/// What the sender's lock guards.
#[derive(Debug)]
pub struct FreeCells {
    free: Vec<u32>,
    /// Calls given up whose reply has not come.
    pub given_up: Vec<Ticket>,
}

impl Calls {
    /// `count` free cells whose last generation was `generation`.
    pub fn new(count: u32, generation: u32) -> (Self, FreeCells) {
        let cell = |_| CallCell {
            generation: AtomicU32::new(generation),
            sent: AtomicU64::new(u64::MAX),
            spins_paid: AtomicU64::new(0),
        };
        let calls = Self {
            cells: (0..count).map(cell).collect(),
            places: (0..NUMBERED_THREADS).map(|_| CachePadded::new(AtomicU32::new(0))).collect(),
            strays: (0..count).map(|_| AtomicBool::new(false)).collect(),
            waiting: AtomicU32::new(0),
            freed: AtomicU32::new(0),
            given_up: AtomicU32::new(0),
        };
        // The lowest cell is on top, so that few are ever touched.
        (calls, FreeCells { free: (0..count).rev().collect(), given_up: Vec::with_capacity(count as usize) })
    }

    /// Takes a free cell, unless no more than `reserve` are left: its number and the generation of the call. The reserve is
    /// approximate: a thread takes the cell that it keeps warm without counting what is left.
    #[inline]
    pub fn take(&self, cells: &mut FreeCells, reserve: u32) -> Option<(u32, u32)> {
        let cell = self.take_warm().or_else(|| self.take_cold(cells, reserve))?;
        let word = &self.cells[cell as usize].generation;
        let generation = word.load(Ordering::Relaxed).wrapping_add(1) & CALL_GENERATION;
        word.store(generation, Ordering::Relaxed);
        Some((cell, generation))
    }

    #[inline]
    fn take_warm(&self) -> Option<u32> {
        let place = &self.places[thread_number()?];
        // Acquire meets the release of whoever was the last to read the cell.
        let held = place.load(Ordering::Acquire);
        place.store(0, Ordering::Relaxed);
        held.checked_sub(1)
    }

    fn take_cold(&self, cells: &mut FreeCells, reserve: u32) -> Option<u32> {
        if cells.free.len() <= reserve as usize {
            self.collect(cells);
        }
        if cells.free.len() > reserve as usize { cells.free.pop() } else { None }
    }

    /// Collects the cells that were freed without the lock.
    #[cold]
    fn collect(&self, cells: &mut FreeCells) {
        let acquire =
            if mutant("call: cell collected without acquire") { Ordering::Relaxed } else { Ordering::Acquire };
        for (cell, stray) in (0..).zip(&self.strays) {
            // Acquire meets the release of whoever was the last to read the cell; so below.
            if stray.load(acquire) {
                stray.store(false, Ordering::Relaxed);
                cells.free.push(cell);
            }
        }
        for place in &self.places {
            // Under the lock nobody else empties a place, and its thread fills only an empty one.
            if let Some(cell) = place.load(acquire).checked_sub(1) {
                place.store(0, Ordering::Relaxed);
                cells.free.push(cell);
            }
        }
    }

    /// Frees a cell whose reply was read, without the lock: in the place of this thread, or among the strays.
    #[inline]
    pub fn keep(&self, cell: u32) {
        let release = if mutant("call: cell kept without release") { Ordering::Relaxed } else { Ordering::Release };
        if let Some(place) = thread_number().map(|n| &self.places[n])
            && place.load(Ordering::Relaxed) == 0
        {
            place.store(cell + 1, release);
        } else {
            self.strays[cell as usize].store(true, release);
        }
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.wake_one();
        }
    }

    /// Gives a cell back under the lock.
    pub fn put(&self, cells: &mut FreeCells, cell: u32) {
        cells.free.push(cell);
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.wake_one();
        }
    }

    #[cold]
    fn wake_one(&self) {
        self.freed.fetch_add(1, Ordering::Release);
        futex_wake(&self.freed, 1, true);
    }

    /// What to pass to [`wait_freed`](Self::wait_freed), read before one looks for a free cell in vain.
    pub fn freed(&self) -> u32 {
        self.freed.load(Ordering::Acquire)
    }

    /// Sleeps until a cell is given back, at most a millisecond: whoever frees one at this moment may not see us.
    pub fn wait_freed(&self, seen: u32, deadline: Deadline) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        futex_wait(FutexWord::private(&self.freed, seen), deadline.sooner(Duration::from_millis(1)).until());
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many cells carry a call. For tests and for closing in order.
    pub fn in_use(&self, cells: &mut FreeCells) -> usize {
        self.collect(cells);
        self.cells.len() - cells.free.len()
    }

    /// Notes that a call is published at `position`.
    #[inline]
    pub fn sent(&self, cell: u32, generation: u32, position: u32) {
        self.cells[cell as usize].sent.store(u64::from(generation) << 32 | u64::from(position), Ordering::Relaxed);
    }

    /// The generation of the last call in this cell.
    #[inline(always)]
    pub fn generation(&self, cell: u32) -> u32 {
        self.cells[cell as usize].generation.load(Ordering::Relaxed)
    }

    /// Whether [`take`](Self::take) would find one.
    pub fn any_free(&self, cells: &mut FreeCells, reserve: u32) -> bool {
        if cells.free.len() <= reserve as usize {
            self.collect(cells);
        }
        cells.free.len() > reserve as usize
    }

    /// Where a call was published; `None` while it is gathered in a batch.
    pub fn position(&self, ticket: &Ticket) -> Option<u32> {
        let sent = self.cells[ticket.cell() as usize].sent.load(Ordering::Relaxed);
        (sent >> 32 == u64::from(ticket.generation())).then_some(sent as u32)
    }

    /// Puts a call on the list of those given up, under the lock.
    pub fn list_given_up(&self, cells: &mut FreeCells, ticket: Ticket) {
        cells.given_up.push(ticket);
        self.given_up.store(cells.given_up.len() as u32, Ordering::Relaxed);
    }

    /// Takes entry `at` off that list, under the lock.
    pub fn unlist_given_up(&self, cells: &mut FreeCells, at: usize) {
        cells.given_up.swap_remove(at);
        self.given_up.store(cells.given_up.len() as u32, Ordering::Relaxed);
    }

    /// Whether calls were given up whose reply has not come. A hint.
    #[inline]
    pub fn any_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) > 0
    }

    /// A wait for the reply in `cell` ended while spinning. Only the holder of the cell.
    #[inline]
    pub fn spin_paid(&self, cell: u32) {
        let count = &self.cells[cell as usize].spins_paid;
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// All spins that paid.
    pub fn spins_paid(&self) -> u64 {
        self.cells.iter().map(|c| c.spins_paid.load(Ordering::Relaxed)).sum()
    }
}
