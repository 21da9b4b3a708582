//! A ring with one producer and one consumer, each the only writer of its words.
//!
//! # Protocol
//!
//! Positions count from 0 and wrap at 2^32; the entry of position `p` is `entry[p % N]`, `N` a power of two up to 2^31.
//!
//! | word | writer | meaning |
//! |---|---|---|
//! | `entry[i].word` | producer | low half: position + 1 of the value it holds; high half: a tag of the user's |
//! | `entry[i].value` | producer | the value |
//! | `pos` | consumer | positions below it have been taken |
//!
//! *Publish*: the producer writes the value, then stores the word with release. The consumer polls the entry's own word
//! with acquire, so it sees the value that the word announces, and a message moves one cache line.
//!
//! *Reuse*: the consumer reads the value, then stores `pos` with release. The producer loads `pos` with acquire before it
//! writes a value into an entry used before, so no read of the old value can come after the new write.
//!
//! A zeroed ring is an empty one: the entry `i` first holds position `i`, whose word has low half `i + 1`, not 0. (At the
//! wrap a word with low half 0 is real: it announces position 2^32 - 1, whose entry then holds `2^32 - N`, not 0.)
//!
//! # A peer that lies
//!
//! The consumer trusts nothing: a word that is not the one it waits for means "not yet", whatever it is, and the value is
//! copied once. The producer checks that `pos` lies between what it knew and what it sent; anything else is
//! [`Lied`], and the ring must not be used further.
//!
//! The word per entry follows Dmitry Vyukov's bounded queue, with one side each.

use crate::error::Violation;
use crate::sync::{AtomicU64, Ordering, PeerCell, PeerWord, loaded, mutant, prefetch_write};
use bytemuck::{AnyBitPattern, NoUninit};
use core::fmt::Debug;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// One element of a ring in shared memory: 8 bytes and a `T`.
#[derive(Debug)]
#[repr(C)]
pub struct Entry<T> {
    pub word: AtomicU64,
    pub value: PeerCell<T>,
}

impl<T: NoUninit + AnyBitPattern> Entry<T> {
    /// The entry `index` of a ring of `capacity` that starts at position `start`; zeroed memory is `new(i, n, 0, zeroed)`.
    pub fn new(index: u32, capacity: u32, start: u32, value: T) -> Self {
        // The low half of the position one lap before the first one this entry will hold, plus one.
        let first = start.wrapping_add(index.wrapping_sub(start) & (capacity - 1));
        let word = if start == 0 { 0 } else { first.wrapping_sub(capacity).wrapping_add(1) };
        Self { word: AtomicU64::new(word.into()), value: PeerCell::new(value) }
    }

    /// Whether the message of position `at` is here. Acquires nothing: for polling.
    #[inline(always)]
    pub fn holds(&self, at: u32) -> bool {
        self.load() as u32 == at.wrapping_add(1)
    }

    #[inline(always)]
    fn load(&self) -> u64 {
        let word = self.word.load(Ordering::Relaxed);
        loaded(&raw const self.word, 8);
        word
    }
}

/// How far apart the entries of a ring lie.
pub trait Step<T>: Copy + Debug {
    /// Bytes from one to the next.
    fn bytes(self) -> usize;
}

/// As the compiler lays them out.
#[derive(Clone, Copy, Debug)]
pub struct Packed;

impl<T> Step<T> for Packed {
    #[inline(always)]
    fn bytes(self) -> usize {
        size_of::<Entry<T>>()
    }
}

/// So many bytes, the first of which are an `Entry<()>`. Behind it lies a value of which the compiler knows nothing: who has the end
/// writes it before it is published, and reads it after it was taken.
#[derive(Clone, Copy, Debug)]
pub struct Apart(pub usize);

impl Step<()> for Apart {
    #[inline(always)]
    fn bytes(self) -> usize {
        self.0
    }
}

/// Where the entries of a ring are.
#[derive(Clone, Copy, Debug)]
pub struct Entries<T, S> {
    base: NonNull<Entry<T>>,
    step: S,
    capacity: u32,
}

impl<T, S: Step<T>> Entries<T, S> {
    /// # Safety
    /// `base` is the first of `capacity` (a power of two) entries, which outlive this.
    unsafe fn new(base: NonNull<Entry<T>>, step: S, capacity: u32) -> Self {
        assert!(capacity.is_power_of_two() && capacity <= 1 << 31);
        Self { base, step, capacity }
    }

    /// The address of the entry of a position.
    #[inline(always)]
    pub fn place(&self, position: u32) -> NonNull<Entry<T>> {
        // SAFETY: in bounds by the mask.
        unsafe { self.base.byte_add((position & (self.capacity - 1)) as usize * self.step.bytes()) }
    }

    #[inline(always)]
    fn at(&self, position: u32) -> &Entry<T> {
        // SAFETY: valid by the contract of `new`.
        unsafe { self.place(position).as_ref() }
    }
}

/// The consumer's position is not one an honest consumer could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lied;

impl From<Lied> for Violation {
    fn from(_: Lied) -> Self {
        Violation::Position
    }
}

/// The sending end.
#[derive(Debug)]
pub struct Producer<T, S = Packed> {
    entries: Entries<T, S>,
    pos: NonNull<PeerWord>,
    next: u32,
    /// The last `pos` seen: everything below is free again.
    taken: u32,
}

// SAFETY: an end is a pair of addresses and private counters; it is used by one thread at a time through `&mut`.
unsafe impl<T: NoUninit + AnyBitPattern, S: Step<T>> Send for Producer<T, S> {}
// SAFETY: as above.
unsafe impl<T: NoUninit + AnyBitPattern, S: Step<T>> Send for Consumer<T, S> {}

impl<T: NoUninit + AnyBitPattern> Producer<T> {
    /// The sending end of a ring that stands at position `start`.
    ///
    /// # Safety
    /// `entries` is an array of `capacity` (a power of two) initialised entries which this is the only one to write, `pos`
    /// the word of the one consumer; both outlive the end.
    pub unsafe fn new(entries: NonNull<Entry<T>>, pos: NonNull<PeerWord>, capacity: u32, start: u32) -> Self {
        // SAFETY: the caller's.
        unsafe { Self::within(entries, Packed, pos, capacity, start) }
    }
}

impl<T: NoUninit + AnyBitPattern, S: Step<T>> Producer<T, S> {
    /// As [`new`](Producer::new), of entries that lie so far apart.
    ///
    /// # Safety
    /// As of `new`.
    pub unsafe fn within(
        entries: NonNull<Entry<T>>,
        step: S,
        pos: NonNull<PeerWord>,
        capacity: u32,
        start: u32,
    ) -> Self {
        // SAFETY: the caller's.
        let entries = unsafe { Entries::new(entries, step, capacity) };
        Self { entries, pos, next: start, taken: start }
    }

    /// Where its entries are.
    pub fn entries(&self) -> &Entries<T, S> {
        &self.entries
    }

    /// Position of the next message.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// The consumer's position as it was last seen.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// How many entries are free. Looks at the consumer's position only if it knows of fewer than `want`.
    ///
    /// # Errors
    /// [`Lied`] if the consumer claims what it cannot have taken.
    #[inline]
    pub fn room(&mut self, want: u32) -> Result<u32, Lied> {
        let known = self.entries.capacity - self.next.wrapping_sub(self.taken);
        if known >= want {
            return Ok(known);
        }
        // SAFETY: valid by the contract of `new`.
        let pos = unsafe { self.pos.as_ref() };
        let pos = if mutant("spsc: pos without acquire") { pos.hint() } else { pos.load() };
        // An honest `pos` lies between the last one and `next`, on the circle of positions.
        if pos.wrapping_sub(self.taken) > self.next.wrapping_sub(self.taken) {
            return Err(Lied);
        }
        self.taken = pos;
        Ok(self.entries.capacity - self.next.wrapping_sub(pos))
    }

    /// Asks for the cache lines of the next `count` entries, which are about to be written together.
    pub fn prefetch(&self, count: u32) {
        for ahead in 0..count {
            self.prefetch_ahead(ahead);
        }
    }

    /// Asks for the cache line of the entry so many positions `ahead`.
    #[inline(always)]
    pub fn prefetch_ahead(&self, ahead: u32) {
        prefetch_write(self.entries.at(self.next.wrapping_add(ahead)));
    }

    /// Publishes a message at position [`next`](Self::next), which [`room`](Self::room) has shown to be free.
    #[inline(always)]
    pub fn publish(&mut self, tag: u32, value: T) {
        self.publish_with(|to| {
            *to = value;
            (tag, ())
        });
    }

    /// Publishes a message at position [`next`](Self::next), which [`room`](Self::room) has shown to be free, and which `write`
    /// writes where it will lie. It returns the tag, and what else it likes.
    #[inline(always)]
    pub fn publish_with<R>(&mut self, write: impl FnOnce(&mut T) -> (u32, R)) -> R {
        let result = self.write(0, write);
        self.next = self.next.wrapping_add(1);
        result
    }

    /// Leaves out the next position, which [`room`](Self::room) has shown to be free: the consumer takes nothing from there on
    /// until something is [published there](Self::publish_at). Returns the position.
    #[inline(always)]
    pub fn leave_out(&mut self) -> u32 {
        let position = self.next;
        self.next = self.next.wrapping_add(1);
        position
    }

    /// Publishes a message at a position that was left out.
    pub fn publish_at(&mut self, position: u32, message: &Message<T>) {
        self.write(position.wrapping_sub(self.next), |value| {
            *value = message.value;
            (message.tag, ())
        });
    }

    /// Publishes messages from position [`next`](Self::next) on, as many as [`room`](Self::room) has shown to be free.
    ///
    /// The first one appears last: a consumer that waits for it finds all of them, instead of asking for each cache line
    /// while it is being written.
    #[inline]
    pub fn publish_all(&mut self, messages: &[Message<T>]) {
        for (ahead, message) in messages.iter().enumerate().rev() {
            self.write(ahead as u32, |value| {
                *value = message.value;
                (message.tag, ())
            });
        }
        self.next = self.next.wrapping_add(messages.len() as u32);
    }

    /// As [`publish_all`](Self::publish_all), without tags.
    #[inline]
    pub fn publish_values(&mut self, values: impl ExactSizeIterator<Item = T> + DoubleEndedIterator) {
        let count = values.len() as u32;
        for (ahead, value) in values.enumerate().rev() {
            self.write(ahead as u32, |to| {
                *to = value;
                (0, ())
            });
        }
        self.next = self.next.wrapping_add(count);
    }

    #[inline(always)]
    fn write<R>(&mut self, ahead: u32, write: impl FnOnce(&mut T) -> (u32, R)) -> R {
        let position = self.next.wrapping_add(ahead);
        debug_assert!(position.wrapping_sub(self.taken) < self.entries.capacity);
        let entry = self.entries.at(position);
        // SAFETY: the entry is ours to write until its word is published, because the consumer's `pos`, loaded with acquire,
        // has passed the position it held before.
        let (tag, result) = unsafe { entry.value.write_with(write) };
        let order = if mutant("spsc: publish without release") { Ordering::Relaxed } else { Ordering::Release };
        entry.word.store(u64::from(position.wrapping_add(1)) | u64::from(tag) << 32, order);
        result
    }
}

/// The receiving end. It does not publish its position: the caller stores [`next`](Self::next) with release into `pos`.
#[derive(Debug)]
pub struct Consumer<T, S = Packed> {
    entries: Entries<T, S>,
    next: u32,
}

impl<T: NoUninit + AnyBitPattern> Consumer<T> {
    /// The receiving end of a ring that stands at position `start`.
    ///
    /// # Safety
    /// `entries` is an array of `capacity` (a power of two) entries that outlives the end. Another process may write it.
    pub unsafe fn new(entries: NonNull<Entry<T>>, capacity: u32, start: u32) -> Self {
        // SAFETY: the caller's.
        unsafe { Self::within(entries, Packed, capacity, start) }
    }
}

impl<T: NoUninit + AnyBitPattern, S: Step<T>> Consumer<T, S> {
    /// As [`new`](Consumer::new), of entries that lie so far apart.
    ///
    /// # Safety
    /// As of `new`.
    pub unsafe fn within(entries: NonNull<Entry<T>>, step: S, capacity: u32, start: u32) -> Self {
        // SAFETY: the caller's.
        Self { entries: unsafe { Entries::new(entries, step, capacity) }, next: start }
    }

    /// Where its entries are.
    pub fn entries(&self) -> &Entries<T, S> {
        &self.entries
    }

    /// Position of the next message to take, which is the value of `pos` once it is stored.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Whether a message is there. Acquires nothing: for polling.
    #[inline(always)]
    pub fn ready(&self) -> bool {
        self.entries.at(self.next).holds(self.next)
    }

    /// The tag of the next message, if it is there, without taking it.
    #[inline]
    pub fn peek(&self) -> Option<u32> {
        let word = self.entries.at(self.next).load();
        (word as u32 == self.next.wrapping_add(1)).then_some((word >> 32) as u32)
    }

    /// Takes the next message, if it is there: its tag and its value.
    pub fn take(&mut self) -> Option<Message<T>> {
        let mut message = MaybeUninit::uninit();
        // SAFETY: written if the answer is true.
        self.take_into(&mut message).then(|| unsafe { message.assume_init() })
    }

    /// Takes the next message, if it is there, to where it will stay. Returns whether it was.
    #[inline(always)]
    pub fn take_into(&mut self, to: &mut MaybeUninit<Message<T>>) -> bool {
        let entry = self.entries.at(self.next);
        let word = entry.load();
        if word as u32 != self.next.wrapping_add(1) {
            return false;
        }
        if !mutant("spsc: take without acquire") {
            // Meets the release of `publish`. A fence and not an acquire load: the entry may lie in a read-only page.
            crate::sync::fence(Ordering::Acquire);
            #[cfg(busway_tsan)]
            entry.word.load(Ordering::Acquire);
        }
        let to = to.as_mut_ptr();
        // SAFETY: the place is writable; its fields are written one by one.
        unsafe {
            (&raw mut (*to).tag).write((word >> 32) as u32);
            entry.value.read_into(&mut *(&raw mut (*to).value).cast());
        }
        self.next = self.next.wrapping_add(1);
        true
    }
}

/// A message as it lay in the ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message<T> {
    /// What the sender said about it beside the value.
    pub tag: u32,
    /// The value.
    pub value: T,
}

#[cfg(all(test, not(busway_loom)))]
mod tests {
    use super::*;
    use crate::sync::AtomicU32;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[test]
    fn an_entry_of_56_bytes_is_a_cache_line() {
        assert_eq!(size_of::<Entry<[u64; 7]>>(), 64);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }))]

        /// Any order of sends and takes does what a plain queue does, from any start, across the wrap.
        #[test]
        fn a_ring_is_a_bounded_queue(
            start in prop_oneof![Just(0), Just(u32::MAX - 3), any::<u32>()],
            bits in 0u32..5,
            steps in proptest::collection::vec(any::<bool>(), 0..200),
        ) {
            let capacity = 1 << bits;
            let entries: Vec<Entry<[u64; 2]>> = (0..capacity).map(|i| Entry::new(i, capacity, start, [0; 2])).collect();
            let pos = AtomicU32::new(start);
            let at: NonNull<Entry<[u64; 2]>> = NonNull::from(&entries[..]).cast();
            // SAFETY: the entries and the word outlive both ends, which this thread alone uses.
            let (mut tx, mut rx) = unsafe {
                (Producer::new(at, NonNull::from(PeerWord::of(&pos)), capacity, start), Consumer::new(at, capacity, start))
            };
            let mut model = VecDeque::new();
            for (i, send) in steps.into_iter().enumerate() {
                let message = Message { tag: i as u32, value: [i as u64, !(i as u64)] };
                if send {
                    let room = tx.room(1).unwrap();
                    prop_assert_eq!(room == 0, model.len() as u32 == capacity);
                    prop_assert!(room <= capacity - model.len() as u32);
                    if room > 0 {
                        tx.publish(message.tag, message.value);
                        model.push_back(message);
                    }
                } else {
                    prop_assert_eq!(rx.ready(), !model.is_empty());
                    prop_assert_eq!(rx.take(), model.pop_front());
                    pos.store(rx.next(), Ordering::Release);
                }
            }
        }

        /// Whatever a consumer claims, the producer answers without a panic, and refuses what cannot be.
        #[test]
        fn a_position_that_cannot_be_is_a_lie(sent in 1u32..5, claimed in any::<u32>()) {
            let entries: Vec<Entry<u64>> = (0..4).map(|i| Entry::new(i, 4, 0, 0)).collect();
            let pos = AtomicU32::new(0);
            // SAFETY: the entries and the word outlive the end.
            let mut tx =
                unsafe { Producer::<u64>::new(NonNull::from(&entries[..]).cast(), NonNull::from(PeerWord::of(&pos)), 4, 0) };
            for i in 0..sent {
                prop_assert!(tx.room(1).unwrap() > 0);
                tx.publish(0, i.into());
            }
            pos.store(claimed, Ordering::Release);
            prop_assert_eq!(tx.room(4), if claimed <= sent { Ok(4 - (sent - claimed)) } else { Err(Lied) });
        }
    }
}
