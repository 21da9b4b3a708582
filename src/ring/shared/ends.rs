//! The two ends of a ring of one producer and one consumer.

use super::spsc::{CLOSED, Ring, Which};
use crate::error::{Error, Result};
use crate::region::Process;
use crate::ring::spsc::{self, Step};
use crate::sync::{ForkGuard, Ordering};
use bytemuck::{AnyBitPattern, NoUninit};

/// The claim on an end, which says so when it is dropped.
#[derive(Debug)]
pub(super) struct End {
    pub ring: Ring,
    pub guard: ForkGuard,
    pub which: Which,
}

impl End {
    #[inline(always)]
    pub fn check(&self) -> Result<()> {
        if self.guard.forked() { Err(Error::Forked) } else { Ok(()) }
    }

    /// How many elements fit. Looks at the consumer's position only if it knows of fewer than `want`.
    #[inline(always)]
    pub fn room<T, S: Step<T>>(&self, core: &mut spsc::Producer<T, S>, want: u32) -> Result<u32>
    where
        T: NoUninit + AnyBitPattern,
    {
        self.check()?;
        let spare = self.ring.shape.spare;
        match core.room(want.saturating_add(spare)) {
            Ok(free) => Ok(free.saturating_sub(spare)),
            Err(lied) => Err(Error::Poisoned { reason: lied.into() }),
        }
    }

    /// How many of so many elements fit.
    #[inline(always)]
    pub fn fitting<T, S: Step<T>>(&self, core: &mut spsc::Producer<T, S>, count: usize) -> Result<usize>
    where
        T: NoUninit + AnyBitPattern,
    {
        let want = u32::try_from(count).unwrap_or(u32::MAX);
        Ok(self.room(core, want)?.min(want) as usize)
    }

    /// Tells the producer which entries are free again, once in a while.
    #[inline(always)]
    pub fn publish(&self, next: u32, published: &mut u32) {
        if next.wrapping_sub(*published) >= self.ring.shape.stride {
            *published = next;
            // Release: the producer writes there after our reads.
            self.ring.ends.pos.store(next, Ordering::Release);
        }
    }

    pub fn is_abandoned(&self) -> bool {
        if self.guard.forked() {
            return false;
        }
        let other = match self.which {
            Which::Producer => Which::Consumer,
            Which::Consumer => Which::Producer,
        };
        // Acquire: what it did before is seen by who finds it gone.
        let word = self.ring.ends.claims.of(other).load(Ordering::Acquire);
        word & CLOSED != 0 || Process::from_bits(word).is_some_and(Process::is_dead)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // In a forked child nothing is mapped here, and the end is the parent's.
        if !self.guard.forked() {
            let _before = self.ring.ends.claims.of(self.which).fetch_or(CLOSED, Ordering::AcqRel);
        }
    }
}

/// The end of a [`Spsc`](super::Spsc) ring into which values are pushed. One thread uses it at a time; it may move
/// between threads.
///
/// Nothing here blocks, allocates or makes a system call but [`is_abandoned`](Self::is_abandoned). In a forked child
/// every operation answers [`Error::Forked`].
#[derive(Debug)]
pub struct Producer<T> {
    pub(super) core: spsc::Producer<T>,
    pub(super) end: End,
}

impl<T: NoUninit + AnyBitPattern> Producer<T> {
    /// Appends a value, which the consumer sees at once.
    ///
    /// # Errors
    /// [`Error::Full`]: there are `capacity` elements or more. [`Error::Forked`]. [`Error::Poisoned`]: the other
    /// process wrote what no consumer writes.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<()> {
        if self.end.room(&mut self.core, 1)? == 0 {
            return Err(Error::Full);
        }
        self.core.publish(0, value);
        Ok(())
    }

    /// Appends the first of `values`, as many as there is room for, in one go: cheaper than one by one, and the
    /// consumer sees all or none. Returns how many.
    ///
    /// # Errors
    /// [`Error::Forked`], [`Error::Poisoned`].
    ///
    /// # Examples
    ///
    /// ```
    /// let (mut producer, mut consumer) = busway::ring::Spsc::pair(4)?;
    /// assert_eq!(producer.push_slice(&[1u8, 2, 3])?, 3);
    /// let mut buffer = [0; 8];
    /// assert_eq!(consumer.pop_slice(&mut buffer)?, 3);
    /// assert_eq!(buffer[..3], [1, 2, 3]);
    /// # Ok::<(), busway::Error>(())
    /// ```
    #[inline]
    pub fn push_slice(&mut self, values: &[T]) -> Result<usize> {
        let count = self.end.fitting(&mut self.core, values.len())?;
        self.core.publish_values(values[..count].iter().copied());
        Ok(count)
    }

    /// How many elements fit at least.
    pub fn capacity(&self) -> usize {
        self.end.ring.capacity()
    }

    /// Whether the consumer was taken, and is gone: dropped, or its process died, which some microseconds of system
    /// calls find out. What is pushed then, nobody pops.
    pub fn is_abandoned(&self) -> bool {
        self.end.is_abandoned()
    }
}

/// The end of a [`Spsc`](super::Spsc) ring from which values are popped. One thread uses it at a time; it may move
/// between threads.
///
/// Nothing here blocks, allocates or makes a system call but [`is_abandoned`](Self::is_abandoned). In a forked child
/// every operation answers [`Error::Forked`].
#[derive(Debug)]
pub struct Consumer<T> {
    pub(super) core: spsc::Consumer<T>,
    /// The position that the producer can see.
    pub(super) published: u32,
    pub(super) end: End,
}

impl<T: NoUninit + AnyBitPattern> Consumer<T> {
    /// Takes the oldest value, if there is one.
    ///
    /// # Errors
    /// [`Error::Forked`].
    #[inline]
    pub fn pop(&mut self) -> Result<Option<T>> {
        self.end.check()?;
        let Some(message) = self.core.take() else { return Ok(None) };
        self.end.publish(self.core.next(), &mut self.published);
        Ok(Some(message.value))
    }

    /// Takes the oldest values, as many as there are and fit, to the front of `to`. Returns how many.
    ///
    /// # Errors
    /// [`Error::Forked`].
    #[inline]
    pub fn pop_slice(&mut self, to: &mut [T]) -> Result<usize> {
        self.end.check()?;
        let mut count = 0;
        for place in to {
            let Some(message) = self.core.take() else { break };
            *place = message.value;
            self.end.publish(self.core.next(), &mut self.published);
            count += 1;
        }
        Ok(count)
    }

    /// Whether there is nothing to pop; true in a forked child.
    pub fn is_empty(&self) -> bool {
        self.end.guard.forked() || !self.core.ready()
    }

    /// How many elements fit at least.
    pub fn capacity(&self) -> usize {
        self.end.ring.capacity()
    }

    /// Whether the producer was taken, and is gone: dropped, or its process died, which some microseconds of system
    /// calls find out. What it had pushed is still there: after `true`, pop until the ring is empty.
    pub fn is_abandoned(&self) -> bool {
        self.end.is_abandoned()
    }
}
