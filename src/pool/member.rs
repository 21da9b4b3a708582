//! One process in a pool: the segment as it sees it, and what its threads share.

use super::descriptor::Descriptor;
use super::parking::Parking;
use super::stats::Tally;
use super::waiting::FirstLook;
use super::watch::Watch;
use super::words::{Body, View, state};
use crate::call::{Ended, Hold, Stats, Stop};
use crate::error::{Error, Result};
use crate::ring::mpmc::{Ring, Snapshot};
use crate::slots::owned::{Header, Orphans, Recovered, State, Table};
use crate::sync::{AtomicU32, Ordering, fence, futex_wake};
use crate::tasks::Tasks;
use crate::wake::{Deadline, Idle, Spin};
use std::sync::{Arc, OnceLock, Weak};

/// One process's membership.
pub struct Seat {
    pub(super) me: Weak<Seat>,
    pub view: View,
    pub(super) table: Table<Body>,
    pub(super) rings: Box<[Ring]>,
    pub place: u16,
    pub(super) parking: Parking,
    pub(super) spin: Spin,
    /// Of the thread that waited last, for [`Spin`].
    pub(super) cpu: AtomicU32,
    pub(super) unknown_cpu: AtomicU32,
    pub(super) first_look: FirstLook,
    /// How the pool ended, as [`Ended`]; 0 while it has not.
    ended: AtomicU32,
    pub(super) tally: Tally,
    /// How long each queue was when a task that waits for room in it was woken last.
    pub(super) room_seen: Box<[AtomicU32]>,
    /// Async tasks that wait, once there were any.
    pub(super) tasks: OnceLock<Box<Tasks>>,
    /// For an event loop, if there is one.
    pub(super) descriptor: OnceLock<Descriptor>,
    /// The queues for which it was woken, until somebody looks whether there is more.
    pub(super) owes: AtomicU32,
    /// Watches the host, or if this is the host, the members.
    watch: OnceLock<Watch>,
    /// Last, when nothing here touches the segment any more.
    #[cfg(feature = "shm-name")]
    pub(super) presence: OnceLock<super::named::Presence>,
}

impl Seat {
    /// The membership of who has `place`, which nobody had before, or whose last owner was recovered.
    pub fn new(view: View, place: u16, idle: Idle) -> Arc<Self> {
        // SAFETY: the arrays lie in the region that the view keeps beside them, and all processes come here.
        let table = unsafe { Table::new(view.headers, view.slot_bells, view.hints, &view.classes, place) };
        let ring = |number: usize| {
            // SAFETY: as above.
            unsafe { Ring::new(view.entries[number], super::words::ends(&view, number), number as u8) }
        };
        let rings = (0..view.entries.len()).map(ring).collect();
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            table,
            rings,
            place,
            parking: Parking::new(place),
            spin: Spin::new(idle),
            cpu: AtomicU32::new(0),
            unknown_cpu: AtomicU32::new(0),
            first_look: FirstLook::new(),
            ended: AtomicU32::new(0),
            tally: Tally::default(),
            room_seen: (0..view.entries.len()).map(|_| AtomicU32::new(u32::MAX)).collect(),
            tasks: OnceLock::new(),
            descriptor: OnceLock::new(),
            owes: AtomicU32::new(0),
            watch: OnceLock::new(),
            #[cfg(feature = "shm-name")]
            presence: OnceLock::new(),
            view,
        })
    }

    pub(super) fn hold(&self) -> Hold<'_> {
        Hold::Borrowed(self)
    }

    /// Whether this process was forked from the one that joined: nothing is mapped here, and the place is not ours.
    #[inline(always)]
    pub fn forked(&self) -> bool {
        self.view.region.forked()
    }

    /// How the pool ended for this process, if it has.
    #[inline]
    pub(super) fn ended(&self) -> Option<Ended> {
        match self.ended.load(Ordering::Acquire) {
            0 if self.view.control.state.0.load(Ordering::Acquire) == state::CLOSED => Some(self.end(Ended::ByPeer)),
            word => Ended::from_word(word),
        }
    }

    /// Ends the pool for this process, unless it has ended already, and wakes its threads. Returns how it ended.
    pub fn end(&self, how: Ended) -> Ended {
        if let Err(word) = self.ended.compare_exchange(0, how.to_word(), Ordering::AcqRel, Ordering::Acquire) {
            return Ended::from_word(word).unwrap_or(how);
        }
        fence(Ordering::SeqCst);
        self.wake_place(self.place);
        how
    }

    /// Wakes all threads of a place, also those that wait for a reply.
    pub(super) fn wake_place(&self, place: u16) {
        self.view.wake_place(place);
        for index in 0..self.table.count() {
            let calls = self.table.header(index).is_some_and(|header| header.word().caller() == place);
            if let Some(bell) = self.table.bell(index).filter(|_| calls) {
                bell.fetch_add(1, Ordering::AcqRel);
                futex_wake(bell, u32::MAX, false);
            }
        }
    }

    /// Wakes all threads of all processes.
    pub(super) fn wake_everybody(&self) {
        for place in 1..self.view.places.count() {
            self.view.wake_place(place as u16);
        }
        for index in 0..self.table.count() {
            if let Some(bell) = self.table.bell(index) {
                bell.fetch_add(1, Ordering::AcqRel);
                futex_wake(bell, u32::MAX, false);
            }
        }
    }

    /// Whether this process may send.
    #[inline(always)]
    pub(super) fn usable(&self) -> Result<()> {
        if self.forked() {
            return Err(Error::Forked);
        }
        let shared = self.view.control.state.0.load(Ordering::Relaxed);
        if shared | self.ended.load(Ordering::Relaxed) != 0 {
            return Err(self.ended().map_or(Error::Closed, Ended::refusal));
        }
        Ok(())
    }

    /// Keeps who watches for this process, as long as it is a member.
    pub fn watched_by(&self, watch: Watch) {
        self.watch.set(watch).expect("watched once");
    }

    /// How many slots are not free.
    pub fn slots_in_use(&self) -> u32 {
        self.table.in_use()
    }

    /// How many requests wait, are served, or were answered to a caller that has not looked yet.
    pub fn under_way(&self) -> usize {
        let words = (0..self.table.count()).filter_map(|index| self.table.header(index)).map(Header::word);
        words.filter(|word| !matches!(word.state(), State::Free | State::Owned | State::Attached)).count()
    }

    /// Nobody sends anything new from now on.
    pub(super) fn begin_close(&self) {
        let word = &self.view.control.state.0;
        let _closed = word.compare_exchange(state::OPEN, state::DRAINING, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Counters of this process.
    pub fn stats(&self) -> Stats {
        let words = || (0..self.table.count()).filter_map(|index| self.table.header(index)).map(Header::word);
        let calls = words().filter(|word| word.caller() == self.place).count();
        let slots = words().filter(|word| word.caller() == self.place || word.holder() == self.place).count();
        self.tally.stats(calls as u64, slots as u64)
    }

    /// Whether to go on waiting.
    pub(super) fn stopped(&self, deadline: Deadline) -> Result<(), Stop> {
        match self.ended() {
            Some(ended) => Err(Stop::Ended(ended)),
            None if deadline.has_passed() => Err(Stop::Deadline),
            None => Ok(()),
        }
    }

    /// Ends what the owner of a place had under way, who is dead, or has left, and will not touch the segment any more.
    ///
    /// Everybody goes on meanwhile. One thread recovers one place; afterwards it may be given away again.
    pub fn recover(&self, dead: u16) -> Recovered {
        // In this order: what stood in the queues after the death decides what was sent; and whom the dead one had set out to
        // wake, nobody but us will.
        let snapshot = Snapshot::of(&self.rings);
        let present = |ring, index, generation| snapshot.holds(ring, index, generation);
        let wake = |index| {
            if let Some(bell) = self.table.bell(index) {
                futex_wake(bell, u32::MAX, false);
            }
        };
        let recovered = self.table.recover(dead, Orphans::Execute, present, wake);
        self.view.clear_parked(dead);
        for place in (1..self.view.places.count()).filter(|place| *place != u32::from(dead)) {
            self.view.wake_place(place as u16);
        }
        recovered
    }
}

impl core::fmt::Debug for Seat {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Seat").field("place", &self.place).finish_non_exhaustive()
    }
}
