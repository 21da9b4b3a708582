//! Tasks that wait for replies: one for each call.

use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
use crate::wake::Deadline;
use core::task::Waker;

/// Who waits for the reply at each place.
#[derive(Debug)]
pub struct Replies {
    /// A bit for each place at which somebody waits. Written under the lock.
    waiting: Box<[AtomicU64]>,
    /// As long as was needed so far.
    callers: Mutex<Vec<Option<Caller>>>,
    /// How many bits are set. Written under the lock.
    len: AtomicU32,
}

#[derive(Debug)]
struct Caller {
    waker: Waker,
    deadline: Deadline,
}

impl Replies {
    /// Nobody at so many places.
    pub fn new(places: u32) -> Self {
        Self {
            waiting: (0..places.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            callers: Mutex::new(Vec::new()),
            len: AtomicU32::new(0),
        }
    }

    /// How many wait.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    /// Waits at a place, again or for the first time.
    pub fn enter(&self, place: u32, waker: &Waker, deadline: Deadline) {
        let mut callers = self.callers.lock();
        if callers.len() <= place as usize {
            // Of any place, once and for all.
            callers.resize_with(self.waiting.len() * 64, || None);
        }
        let caller = &mut callers[place as usize];
        let same = caller.as_ref().is_some_and(|caller| caller.waker.will_wake(waker));
        let old = if same { None } else { caller.replace(Caller { waker: waker.clone(), deadline }) };
        self.set(place, true);
        drop(callers);
        drop(old); // its waker may run code of its own
    }

    /// Waits there no more.
    #[inline]
    pub fn leave(&self, place: u32) {
        // The driver has taken it out, or is about to, and whoever comes here next finds that done.
        if self.waiting[place as usize / 64].load(Ordering::Relaxed) >> (place % 64) & 1 != 0 {
            self.take_back(place);
        }
    }

    #[cold]
    fn take_back(&self, place: u32) {
        let mut callers = self.callers.lock();
        let left = callers[place as usize].take();
        self.set(place, false);
        drop(callers);
        drop(left);
    }

    /// Under the lock.
    fn set(&self, place: u32, waits: bool) {
        let word = &self.waiting[place as usize / 64];
        let (old, bit) = (word.load(Ordering::Relaxed), 1 << (place % 64));
        let new = if waits { old | bit } else { old & !bit };
        word.store(new, Ordering::Relaxed);
        self.len.store(self.len() + new.count_ones() - old.count_ones(), Ordering::Relaxed);
    }

    /// Where somebody waits.
    pub fn places(&self) -> impl Iterator<Item = u32> {
        (0..).step_by(64).zip(&self.waiting).flat_map(|(first, word)| {
            let mut left = word.load(Ordering::Relaxed);
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.checked_sub(1)?;
                Some(first + bit)
            })
        })
    }

    /// Takes out the wakers at places where `has` says that there is a reply.
    pub fn take(&self, has: impl Fn(u32) -> bool, woken: &mut Vec<Waker>) {
        for (word, first) in self.waiting.iter().zip((0..).step_by(64)) {
            let mut left = word.load(Ordering::Relaxed);
            let mut there = 0;
            // Without the lock: a look may wait for a cache line of the other side.
            while left != 0 {
                let bit = left.trailing_zeros();
                there |= u64::from(has(first + bit)) << bit;
                left &= left - 1;
            }
            if there != 0 {
                self.take_at(first, there, word, woken);
            }
        }
    }

    fn take_at(&self, first: u32, mut there: u64, word: &AtomicU64, woken: &mut Vec<Waker>) {
        let mut callers = self.callers.lock();
        let old = word.load(Ordering::Relaxed);
        there &= old;
        word.store(old & !there, Ordering::Relaxed);
        self.len.store(self.len() - there.count_ones(), Ordering::Relaxed);
        while there != 0 {
            woken.extend(callers[(first + there.trailing_zeros()) as usize].take().map(|caller| caller.waker));
            there &= there - 1;
        }
    }

    /// Takes out the wakers of those whose deadline is not after `now`. Returns the earliest of the others, or `u64::MAX`.
    pub fn expire(&self, now: u64, woken: &mut Vec<Waker>) -> u64 {
        let mut next = u64::MAX;
        let mut callers = self.callers.lock();
        for (place, caller) in (0..).zip(callers.iter_mut()) {
            match caller.as_ref().and_then(|caller| caller.deadline.until()) {
                Some(at) if at <= now => {
                    self.set(place, false);
                    woken.extend(caller.take().map(|caller| caller.waker));
                }
                Some(at) => next = next.min(at),
                None => {}
            }
        }
        next
    }
}
