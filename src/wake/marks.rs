//! Marks and bells: who sleeps on what, and waking them. No system call but the futex wake.

use crate::sync::{AtomicU32, Ordering, PeerWord, futex_wake, mutant};

/// How somebody sleeps: a set of bits in the low half byte of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum How {
    /// On the bell, by futex.
    Futex = 1,
    /// On the doorbell, by descriptor.
    Descriptor = 2,
}

/// Bits of a mark below its epoch or generation.
pub const HOW_BITS: u32 = 2;
const HOW: u32 = (1 << HOW_BITS) - 1;

/// The waiting side of one mark: how many threads of this process sleep under it. Guarded by the lock of what is waited for.
#[derive(Debug, Default)]
pub struct Marks {
    epoch: u32,
    by_futex: u32,
    by_descriptor: u32,
}

impl Marks {
    /// How many threads sleep.
    pub fn sleepers(&self) -> u32 {
        self.by_futex + self.by_descriptor
    }

    /// Marks one more sleeper. The caller then raises the gate, fences, looks again, and sleeps.
    pub fn enter(&mut self, mark: &AtomicU32, how: How) {
        *self.of(how) += 1;
        self.renew(mark);
    }

    /// As [`enter`](Self::enter), for a sleeper that waits for a count to move on: the mark carries the value `seen` in place
    /// of an epoch, so that the waker rings it only for a later one, and once.
    pub fn enter_at(&mut self, mark: &AtomicU32, how: How, seen: u32) {
        self.epoch = seen.wrapping_sub(1);
        self.enter(mark, how);
    }

    /// One sleeper less; clears the mark with the last one.
    pub fn leave(&mut self, mark: &AtomicU32, how: How) {
        *self.of(how) -= 1;
        if self.sleepers() == 0 {
            self.suspend(mark);
        }
    }

    /// Marks anew on behalf of those asleep, so that the next publication rings again. Then fence, and look again.
    pub fn renew(&mut self, mark: &AtomicU32) {
        let how = (u32::from(self.by_futex > 0) * How::Futex as u32)
            | (u32::from(self.by_descriptor > 0) * How::Descriptor as u32);
        self.epoch = self.epoch.wrapping_add(1);
        mark.store(self.epoch << HOW_BITS | how, Ordering::Relaxed);
    }

    /// Clears the mark while a thread that is awake looks in place of those asleep.
    pub fn suspend(&self, mark: &AtomicU32) {
        mark.store(0, Ordering::Relaxed);
    }

    /// Wakes one thread of this process that sleeps under the mark, on `bell`. Returns whether that takes a nudge of the
    /// thread that polls, because nobody sleeps by futex.
    pub fn wake_one(&self, bell: &AtomicU32) -> bool {
        self.bump(bell);
        self.rouse_one(bell)
    }

    /// As [`wake_one`](Self::wake_one), but leaves alone who is about to sleep, above all the caller itself: for what was
    /// there when such a thread looked, or will ring for it.
    pub fn rouse_one(&self, bell: &AtomicU32) -> bool {
        if self.by_futex > 0 {
            futex_wake(bell, 1, false);
        }
        self.by_futex == 0 && self.by_descriptor > 0
    }

    /// Wakes all threads of this process that sleep under the mark, where one of them alone can do what there is to do.
    /// Returns whether that takes a nudge of the thread that polls.
    pub fn wake_all(&self, bell: &AtomicU32) -> bool {
        self.bump(bell);
        if self.by_futex > 0 {
            futex_wake(bell, u32::MAX, false);
        }
        self.by_descriptor > 0
    }

    fn bump(&self, bell: &AtomicU32) {
        if self.by_futex > 0 && !mutant("wake: own bell not bumped") {
            bell.fetch_add(1, Ordering::Release);
        }
    }

    fn of(&mut self, how: How) -> &mut u32 {
        match how {
            How::Futex => &mut self.by_futex,
            How::Descriptor => &mut self.by_descriptor,
        }
    }
}

/// Wakes up to `count` of those who sleep on `bell` by futex, and those who are about to.
pub fn ring_bell(bell: &AtomicU32, count: u32) {
    if !mutant("wake: bell not bumped") {
        bell.fetch_add(1, Ordering::Release);
    }
    futex_wake(bell, count, false);
}

/// The waking side of one mark.
#[derive(Debug, Default)]
pub struct Ringer {
    rung: AtomicU32,
}

impl Ringer {
    /// Wakes up to `count` sleepers under `mark`, unless it is clear or was rung already. Call after the fence.
    ///
    /// Returns the bits of [`How`] under which somebody was woken; for [`How::Descriptor`] the caller has to ring the doorbell.
    #[cold]
    pub fn ring(&self, mark: &PeerWord, bell: &AtomicU32, count: u32) -> u32 {
        self.ring_mark(mark.hint(), bell, count)
    }

    /// As [`ring`](Self::ring) for those who wait for a count that stands at `at`: the mark of those who have seen that value
    /// stays.
    #[cold]
    pub fn ring_at(&self, mark: &PeerWord, bell: &AtomicU32, at: u32, count: u32) -> u32 {
        let mark = mark.hint();
        let seen = mark >> HOW_BITS == at << HOW_BITS >> HOW_BITS;
        if seen && !mutant("wake: a step that was seen rings") {
            return 0;
        }
        self.ring_mark(mark, bell, count)
    }

    fn ring_mark(&self, mark: u32, bell: &AtomicU32, count: u32) -> u32 {
        if mark & HOW == 0 || self.rung.swap(mark, Ordering::Relaxed) == mark {
            return 0;
        }
        if mark & How::Futex as u32 != 0 {
            ring_bell(bell, count);
        }
        mark & HOW
    }
}
