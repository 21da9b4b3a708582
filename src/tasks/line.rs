//! Tasks that wait for the same kind of thing, the one that came first at the front.

use crate::sync::{AtomicU32, Mutex, Ordering};
use crate::wake::Deadline;
use core::task::Waker;
use std::collections::VecDeque;

/// A line.
#[derive(Debug, Default)]
pub struct Line {
    waiters: Mutex<Waiters>,
    /// How many there are, for a look without the lock.
    len: AtomicU32,
}

#[derive(Debug, Default)]
struct Waiters {
    /// In ascending order of `id`.
    queue: VecDeque<Waiter>,
    last: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    /// What it would take.
    bits: u32,
    /// `None`: it was woken, and is on its way.
    waker: Option<Waker>,
    deadline: Deadline,
}

impl Waiters {
    fn at(&self, id: u64) -> Result<usize, usize> {
        self.queue.binary_search_by_key(&id, |waiter| waiter.id)
    }
}

impl Line {
    /// How many wait here, or are on their way.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.len.load(Ordering::Relaxed)
    }

    /// Goes to the end of the line, if `id` is 0; else waits again at its place. Returns the number of the place.
    pub fn enter(&self, id: u64, bits: u32, waker: &Waker, deadline: Deadline) -> u64 {
        let mut waiters = self.waiters.lock();
        if let Ok(at) = waiters.at(id) {
            waiters.queue[at].deadline = deadline;
            let old = &mut waiters.queue[at].waker;
            let same = old.as_ref().is_some_and(|old| old.will_wake(waker));
            let old = if same { None } else { old.replace(waker.clone()) };
            drop(waiters);
            drop(old);
            return id;
        }
        waiters.last += 1;
        let id = waiters.last;
        waiters.queue.push_back(Waiter { id, bits, waker: Some(waker.clone()), deadline });
        self.len.store(waiters.queue.len() as u32, Ordering::Relaxed);
        id
    }

    /// All that is waited for here.
    pub fn wanted(&self) -> u32 {
        self.waiters.lock().queue.iter().fold(0, |all, waiter| all | waiter.bits)
    }

    /// Leaves the line.
    pub fn leave(&self, id: u64) {
        let mut waiters = self.waiters.lock();
        let left = waiters.at(id).ok().and_then(|at| waiters.queue.remove(at));
        self.len.store(waiters.queue.len() as u32, Ordering::Relaxed);
        drop(waiters);
        drop(left); // its waker may run code of its own
    }

    /// Wakes the first that wants what there is, as `has` says of its bits, unless one that does is on its way.
    pub fn notify_one(&self, mut has: impl FnMut(u32) -> u32, wake: impl FnOnce(Waker)) {
        let mut waiters = self.waiters.lock();
        // Asked once of each set of bits: in a link they are all the same.
        let (mut asked, mut there) = (0, 0);
        let mut taken = 0;
        for waiter in &mut waiters.queue {
            if waiter.bits & !asked != 0 {
                there |= has(waiter.bits & !asked);
                asked |= waiter.bits;
            }
            // What somebody is on the way to is not another's.
            let wanted = waiter.bits & there & !taken;
            if wanted == 0 {
                continue;
            }
            match waiter.waker.take() {
                Some(waker) => {
                    drop(waiters);
                    return wake(waker);
                }
                None => taken |= wanted,
            }
        }
    }

    /// As [`notify_one`](Self::notify_one), for a driver.
    pub fn notify(&self, has: impl FnMut(u32) -> u32, woken: &mut Vec<Waker>) {
        self.notify_one(has, |waker| woken.push(waker));
    }

    /// Takes out the wakers of those whose deadline is not after `now`. Returns the earliest of the others, or `u64::MAX`.
    pub fn expire(&self, now: u64, woken: &mut Vec<Waker>) -> u64 {
        let mut next = u64::MAX;
        for waiter in &mut self.waiters.lock().queue {
            match waiter.deadline.until() {
                Some(at) if at <= now => woken.extend(waiter.waker.take()),
                Some(at) => next = next.min(at),
                None => {}
            }
        }
        next
    }

    /// Takes out all wakers.
    pub fn take_all(&self, woken: &mut Vec<Waker>) {
        woken.extend(self.waiters.lock().queue.iter_mut().filter_map(|waiter| waiter.waker.take()));
    }
}
