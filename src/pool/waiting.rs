//! Waiting in a pool: for requests, room, slots, and replies.

use super::member::Seat;
use super::parking::{Kind, Rows};
use crate::call::Stop;
use crate::slots::owned::{Handle, State};
use crate::sync::{self, AtomicU32, FutexWord, Ordering, PeerWord, crash, fence, futex_wait, mutant};
use crate::wake::Deadline;
use core::time::Duration;

/// Something to sleep for.
pub(super) trait Spot {
    /// Says that this thread is about to sleep, and on what; `None` if there is nothing to sleep for any more.
    fn park(&self) -> Option<FutexWord<'_>>;
    /// Says that it does not.
    fn unpark(&self);
}

/// Rows.
pub(super) struct RowSpot<'a> {
    pub seat: &'a Seat,
    pub rows: Rows,
}

impl Spot for RowSpot<'_> {
    fn park(&self) -> Option<FutexWord<'_>> {
        Some(self.seat.parking.park(&self.seat.view, self.rows))
    }

    fn unpark(&self) {
        self.seat.parking.unpark(&self.seat.view, self.rows);
    }
}

/// The reply to a call.
pub(super) struct ReplySpot<'a> {
    pub seat: &'a Seat,
    pub slot: Handle,
}

impl Spot for ReplySpot<'_> {
    fn park(&self) -> Option<FutexWord<'_>> {
        let Self { seat, slot } = *self;
        // A searcher may be stopped, so this request wakes a worker of its own.
        if let Some(word) = seat.table.header(slot.index).map(|header| header.word())
            && word.state() == State::Queued
        {
            seat.view.wake_one(Kind::Requests, word.ring(), seat.place);
        }
        let rung = seat.table.sleep(slot).ok()?.ok()?;
        Some(FutexWord::shared(seat.table.bell(slot.index)?, rung))
    }

    fn unpark(&self) {}
}

/// How long a caller leaves its slot alone at first.
///
/// A look takes the cache line away from the worker that is about to take the request, or to answer it. So callers look for
/// the first time just when the reply is likely to be there, as far as that is less than [`Self::MOST`] turns of a spin away:
/// a little later after each look that came too early, a little earlier again after many that did not (measured: a
/// round trip of 490 ns becomes one of 430).
#[derive(Debug)]
pub(super) struct FirstLook(AtomicU32);

impl FirstLook {
    const MOST: u32 = 24;
    /// Parts of a turn.
    const PARTS: u32 = 8;

    pub fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    #[inline(always)]
    fn wait(&self) {
        for _ in 0..self.0.load(Ordering::Relaxed) / Self::PARTS {
            sync::spin_loop();
        }
    }

    /// The reply was there after so many looks in vain.
    #[inline(always)]
    fn learn(&self, looks: u32) {
        let parts = self.0.load(Ordering::Relaxed);
        if looks == 0 {
            self.0.store(parts.saturating_sub(1), Ordering::Relaxed);
        } else if looks < Self::MOST - parts / Self::PARTS {
            self.0.store(parts + Self::PARTS, Ordering::Relaxed);
        }
    }
}

impl Seat {
    /// Spins until `look` finds something, or `turns` are over, or waiting is in vain.
    #[inline(always)]
    fn spin<R>(
        &self,
        turns: u32,
        deadline: Deadline,
        look: &mut impl FnMut() -> Option<R>,
    ) -> Result<Option<(R, u32)>, Stop> {
        for turn in 0..turns {
            if let Some(found) = look() {
                self.spin.paid();
                self.tally.spin_paid();
                return Ok(Some((found, turn)));
            }
            sync::spin_loop();
            if turn % 128 == 127 {
                self.stopped(deadline)?;
            }
        }
        Ok(None)
    }

    /// Waits until `look` finds something. `recheck` bounds each sleep, for what need not ring.
    #[inline(always)]
    pub(super) fn wait<R>(
        &self,
        spot: &impl Spot,
        deadline: Deadline,
        recheck: Option<Duration>,
        first: Option<&FirstLook>,
        mut look: impl FnMut() -> Option<R>,
    ) -> Result<R, Stop> {
        let (turns, yields) = self.spin.begin(&self.cpu, PeerWord::of(&self.unknown_cpu));
        let first = first.filter(|_| turns > 0);
        first.inspect(|first| first.wait());
        if let Some((found, looks)) = self.spin(turns, deadline, &mut look)? {
            first.inspect(|first| first.learn(looks));
            return Ok(found);
        }
        if turns == u32::MAX {
            // It never parks.
            loop {
                if let Some((found, _)) = self.spin(turns, deadline, &mut look)? {
                    return Ok(found);
                }
            }
        }
        self.spun_in_vain(turns);
        if let Some(found) = self.spin.give_way(yields, deadline, &mut look) {
            return Ok(found);
        }
        self.sleep(spot, deadline, recheck, &mut look)
    }

    fn spun_in_vain(&self, turns: u32) {
        if turns > 0 {
            self.spin.missed();
            self.tally.spin_missed();
        }
    }

    /// Sleeps until `look` finds something.
    #[cold]
    #[inline(never)]
    fn sleep<R>(
        &self,
        spot: &impl Spot,
        deadline: Deadline,
        recheck: Option<Duration>,
        look: &mut impl FnMut() -> Option<R>,
    ) -> Result<R, Stop> {
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            // What was published before the end still counts.
            if let Err(stop) = self.stopped(deadline) {
                return look().ok_or(stop);
            }
            let Some(word) = spot.park() else { continue };
            if !mutant("pool: sleeper without fence") {
                fence(Ordering::SeqCst);
            }
            let mut found = if mutant("pool: no second look") { None } else { look() };
            if found.is_none() && self.stopped(Deadline::NEVER).is_ok() {
                self.tally.park();
                futex_wait(word, recheck.map_or(deadline, |limit| deadline.sooner(limit)).until());
            }
            crash();
            spot.unpark();
            fence(Ordering::SeqCst);
            if found.is_none() {
                found = look();
            }
            if let Some(found) = found {
                return Ok(found);
            }
        }
    }

    /// Waits for a request in one of these queues, and takes it by `take`.
    #[inline(always)]
    pub(super) fn wait_request<R>(
        &self,
        queues: Rows,
        deadline: Deadline,
        mut take: impl FnMut() -> Option<R>,
    ) -> Result<R, Stop> {
        let (mut turns, yields) = self.spin.begin(&self.cpu, PeerWord::of(&self.unknown_cpu));
        let search = self.search(queues);
        if search == Search::Others && turns != u32::MAX {
            turns = 0;
        }
        let mut spun = self.spin(turns, deadline, &mut take);
        while turns == u32::MAX && matches!(spun, Ok(None)) {
            spun = self.spin(turns, deadline, &mut take);
        }
        crash();
        if let Search::Mine(rows) = search {
            self.end_search(rows);
        }
        match spun {
            Ok(Some((found, _))) => {
                if search != Search::Nobody {
                    self.hand_on(queues);
                }
                return Ok(found);
            }
            Err(stop) => {
                self.hand_on(queues);
                return Err(stop);
            }
            Ok(None) => {}
        }
        self.spun_in_vain(turns);
        if let Some(found) = self.spin.give_way(yields, deadline, &mut take) {
            self.hand_on(queues);
            return Ok(found);
        }
        let result = self.sleep(&RowSpot { seat: self, rows: queues }, deadline, None, &mut take);
        // This thread may have been woken for what it does not take.
        if !mutant("pool: nothing is handed on") {
            self.hand_on(queues);
        }
        result
    }

    /// Says that this thread searches these queues, where others sleep who would be woken else.
    #[inline(always)]
    fn search(&self, queues: Rows) -> Search {
        let words = self.view.row_words();
        if queues.numbers().all(|queue| !self.view.row(Kind::Requests, queue).anyone(words)) {
            return Search::Nobody;
        }
        self.begin_search(queues)
    }

    #[cold]
    fn begin_search(&self, queues: Rows) -> Search {
        let mut mine = 0;
        for queue in queues.numbers() {
            let searcher = &self.view.row(Kind::Requests, queue).searcher;
            let free = searcher.load(Ordering::Relaxed) == 0;
            if free && searcher.compare_exchange(0, self.place.into(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                mine |= 1 << queue;
            }
        }
        core::num::NonZeroU32::new(mine).map_or(Search::Others, |bits| Search::Mine(Rows { bits, ..queues }))
    }

    #[cold]
    fn end_search(&self, queues: Rows) {
        for queue in queues.numbers() {
            self.view.row(Kind::Requests, queue).searcher.store(0, Ordering::Release);
        }
        if !mutant("pool: searcher without fence") {
            fence(Ordering::SeqCst);
        }
    }

    /// Wakes one thread for each of these queues in which something is left.
    #[cold]
    pub(super) fn hand_on(&self, queues: Rows) {
        let words = self.view.row_words();
        for queue in queues.numbers() {
            let row = self.view.row(Kind::Requests, queue);
            if row.anyone(words) && !self.rings[usize::from(queue)].is_empty(&self.table) {
                self.wake(Kind::Requests, queue);
            }
        }
    }

    /// After a request was published: wakes a worker, unless one is looking for it.
    #[inline(always)]
    pub(super) fn published(&self, queue: u8) {
        crash();
        if !mutant("pool: waker without fence") {
            fence(Ordering::SeqCst);
        }
        let row = self.view.row(Kind::Requests, queue);
        if row.anyone(self.view.row_words()) && row.searcher.load(Ordering::Relaxed) == 0 {
            self.wake(Kind::Requests, queue);
        }
    }

    /// After room or a slot became free. Who waits for it looks now and then, so this needs no fence.
    #[inline(always)]
    pub(super) fn freed(&self, kind: Kind, number: u8) {
        if self.view.row(kind, number).anyone(self.view.row_words()) {
            self.wake(kind, number);
        }
    }

    #[cold]
    fn wake(&self, kind: Kind, number: u8) {
        if self.view.wake_one(kind, number, self.place) {
            self.tally.wake();
        }
    }
}

/// Who searches some queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// Nobody says so: there is nobody who sleeps.
    Nobody,
    /// This thread, these.
    Mine(Rows),
    /// Others, all of them.
    Others,
}
