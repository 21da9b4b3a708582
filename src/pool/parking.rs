//! Who sleeps for what in a pool, and waking them.
//!
//! # Protocol
//!
//! Everything that threads of many processes can wait for, except a reply, has a [`Row`]: a bit for each place. A place has
//! a bell for each [`Kind`], on which its threads sleep by futex, each for the bits of what it waits for.
//!
//! ```text
//! waker:    publish; fence(SeqCst); no bit set: done; somebody searches: done
//!           claim a bit of some place; its bell + 1; wake one of its threads that sleeps for this
//! sleeper:  b = bell; set the bit of its place in each row; fence(SeqCst); look; nothing: sleep while bell == b
//!           afterwards: clear the bits, or, where others of its process sleep, set them again; fence; look again;
//!           leaving, hand on: wake one for each of its rows for which there is still something
//! searcher: only where a bit is set: searcher = its place, from 0; spins
//!           afterwards: searcher = 0; fence(SeqCst); look again, or having found something, hand on
//! ```
//!
//! The fences order publish before the waker's look at the row, and bit or `searcher` before the other's look at what is
//! published: either the sleeper sees it or the waker the bit; either the waker sees that nobody searches, or the searcher,
//! which looks again or hands on, what was published. So nothing that is published waits while a thread sleeps for it and
//! nobody is on the way.
//!
//! Counters would not survive a kill: one who dies between claiming a bit and waking has taken a wake-up with it, and one who
//! dies searching keeps others from being woken. Recovery clears the bits of the dead, and its search, and wakes everybody.
//! A searcher that is stopped keeps them from it too; so a caller, before it sleeps, wakes one for a request that is
//! still queued, whoever searches.

use super::words::{Place, Row, View};
use crate::sync::{AtomicU32, FutexWord, Mutex, Ordering, crash, fence, futex_wake, futex_wake_bits, mutant};
use core::num::NonZeroU32;

/// What threads wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests, of a queue.
    Requests = 0,
    /// Room, in a queue.
    Room = 1,
    /// Slots, of a size class.
    Slots = 2,
}

/// Some rows of one kind: a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    pub kind: Kind,
    pub bits: NonZeroU32,
}

impl Rows {
    /// One row.
    pub fn one(kind: Kind, number: u8) -> Self {
        Self { kind, bits: NonZeroU32::new(1 << (number % 32)).expect("one bit") }
    }

    /// Their numbers, in ascending order.
    pub fn numbers(self) -> impl Iterator<Item = u8> {
        let mut left = self.bits.get();
        core::iter::from_fn(move || {
            let number = left.trailing_zeros() as u8;
            left &= left.checked_sub(1)?;
            Some(number)
        })
    }
}

/// The sleeping threads of one process.
#[derive(Debug)]
pub struct Parking {
    me: u16,
    /// How many of its threads sleep in each row.
    asleep: Mutex<[[u32; 32]; 3]>,
}

impl Row {
    /// Whether anybody sleeps whom nobody wakes yet.
    #[inline(always)]
    pub fn anyone(&self, words: usize) -> bool {
        self.parked[..words].iter().any(|word| word.load(Ordering::Relaxed) != 0)
    }

    fn of(&self, place: u16) -> (&crate::sync::AtomicU64, u64) {
        (&self.parked[usize::from(place / 64)], 1 << (place % 64))
    }

    /// Claims the bit of some place, beginning behind `after`.
    fn claim(&self, words: usize, after: u16) -> Option<u16> {
        let first = usize::from(after / 64);
        for turn in 0..=words {
            let at = (first + turn) % words;
            let word = &self.parked[at];
            // The first word is visited twice: the places behind `after` come first, those before it last.
            let behind = !0u64 << (after % 64) << 1;
            let part = match turn {
                0 => behind,
                turn if turn == words => !behind,
                _ => !0,
            };
            let mut bits = word.load(Ordering::Relaxed) & part;
            while bits != 0 {
                let bit = bits & bits.wrapping_neg();
                // Meets the release of `park`: an event loop was armed before.
                if word.fetch_and(!bit, Ordering::Acquire) & bit != 0 {
                    return Some((at * 64) as u16 + bit.trailing_zeros() as u16);
                }
                bits &= !bit;
            }
        }
        None
    }
}

impl Place {
    fn bell(&self, kind: Kind) -> &AtomicU32 {
        match kind {
            Kind::Requests => &self.requests.0,
            Kind::Room => &self.room.0,
            Kind::Slots => &self.slots.0,
        }
    }
}

impl View {
    /// Words of a row that have places.
    #[inline(always)]
    pub fn row_words(&self) -> usize {
        self.places.count().div_ceil(64) as usize
    }

    /// A row.
    #[inline(always)]
    pub fn row(&self, kind: Kind, number: u8) -> &Row {
        match kind {
            Kind::Requests => &self.queues.at(number.into()).requests,
            Kind::Room => &self.queues.at(number.into()).room,
            Kind::Slots => self.slot_rows.at(number.into()),
        }
    }

    /// Wakes one thread that sleeps in the row, if there is one. Returns whether it was a place's turn.
    #[cold]
    pub fn wake_one(&self, kind: Kind, number: u8, after: u16) -> bool {
        let Some(place) = self.row(kind, number).claim(self.row_words(), after) else { return false };
        let Some(place) = (u32::from(place) < self.places.count()).then(|| self.places.at(place.into())) else {
            return false;
        };
        let bell = place.bell(kind);
        crash();
        if !mutant("pool: bell not bumped") {
            bell.fetch_add(1, Ordering::Release);
        }
        let for_any = mutant("pool: any thread of the place is woken");
        let bits = if for_any { NonZeroU32::MAX } else { Rows::one(kind, number).bits };
        futex_wake_bits(bell, 1, bits);
        place.ring_loop();
        true
    }

    /// Wakes every thread of a place, whatever row it sleeps in.
    pub fn wake_place(&self, place: u16) {
        for kind in [Kind::Requests, Kind::Room, Kind::Slots] {
            let bell = self.places.at(place.into()).bell(kind);
            bell.fetch_add(1, Ordering::Release);
            futex_wake(bell, u32::MAX, false);
        }
        self.places.at(place.into()).ring_loop();
    }

    /// All rows.
    fn rows(&self) -> impl Iterator<Item = &Row> {
        let queues = (0..self.queues.count()).flat_map(|queue| {
            let queue = self.queues.at(queue);
            [&queue.requests, &queue.room]
        });
        queues.chain((0..self.slot_rows.count()).map(|class| self.slot_rows.at(class)))
    }

    /// Forgets that threads of a dead place sleep or search.
    pub fn clear_parked(&self, dead: u16) {
        for row in self.rows() {
            let (word, bit) = row.of(dead);
            word.fetch_and(!bit, Ordering::Relaxed);
            let _another = row.searcher.compare_exchange(dead.into(), 0, Ordering::Relaxed, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }
}

impl Parking {
    /// Nobody of place `me` sleeps.
    pub fn new(me: u16) -> Self {
        Self { me, asleep: Mutex::new([[0; 32]; 3]) }
    }

    /// Reads the bell, then marks a thread asleep in the rows. After a fence and another look it may sleep on what this returns.
    pub fn park<'v>(&self, view: &'v View, rows: Rows) -> FutexWord<'v> {
        let bell = view.places.at(self.me.into()).bell(rows.kind);
        let rung = bell.load(Ordering::Acquire);
        let mut asleep = self.asleep.lock();
        for number in rows.numbers() {
            asleep[rows.kind as usize][usize::from(number)] += 1;
            let (word, bit) = view.row(rows.kind, number).of(self.me);
            word.fetch_or(bit, Ordering::Release);
        }
        FutexWord::shared(bell, rung).for_bits(rows.bits)
    }

    /// Marks it awake. Then fence, and look again: what was published meanwhile may have rung this thread alone.
    pub fn unpark(&self, view: &View, rows: Rows) {
        let mut asleep = self.asleep.lock();
        for number in rows.numbers() {
            let count = &mut asleep[rows.kind as usize][usize::from(number)];
            *count -= 1;
            let (word, bit) = view.row(rows.kind, number).of(self.me);
            if *count == 0 {
                word.fetch_and(!bit, Ordering::Relaxed);
            } else if !mutant("pool: others not marked again") {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }
}
