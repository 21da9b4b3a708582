//! Rings of elements whose layout is known when a program runs and not when it is compiled: for other languages.
//!
//! The files are those of [`super::Spsc`] and [`super::Mpmc`] of types of that layout.

use super::ends::End;
use super::mpmc::{self, AHEAD, Recovered};
use super::spsc;
use crate::error::{Error, JoinError, Result};
use crate::region::Memfd;
use crate::ring::mpmc::{Cell, Full, Words};
use crate::ring::spsc::{self as core_ring, Apart, Entry};
use crate::sync::copy_bytes;
use core::alloc::Layout;
use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where an element lies in what a ring is made of.
#[derive(Clone, Copy, Debug)]
struct Within {
    at: usize,
    size: usize,
    whole: Layout,
}

impl Within {
    fn behind(head: Layout, element: Layout) -> Result<Self> {
        let (both, at) = head.extend(element).map_err(|_| JoinError::Geometry { what: "elements are too large" })?;
        Ok(Self { at, size: element.size(), whole: both.pad_to_align() })
    }

    fn entry(element: Layout) -> Result<Self> {
        Self::behind(Layout::new::<Entry<()>>(), element)
    }

    fn cell(element: Layout) -> Result<Self> {
        let head = Layout::from_size_align(size_of::<Words>(), align_of::<Cell<()>>());
        Self::behind(head.expect("a layout"), element)
    }

    /// Writes the element of the entry or cell at `to`.
    ///
    /// # Safety
    /// It is one of these, and this thread's to write; at `from` lies an element, aligned or not.
    #[inline(always)]
    unsafe fn write(&self, from: *const u8, to: NonNull<u8>) {
        // SAFETY: by this function's contract.
        unsafe { to.as_ptr().add(self.at).copy_from_nonoverlapping(from, self.size) }
    }

    /// Reads the element of the entry or cell at `from`.
    ///
    /// # Safety
    /// It is one of these; no thread of this process writes it meanwhile. At `to` is room for an element, aligned or not.
    #[inline(always)]
    unsafe fn read(&self, from: NonNull<u8>, to: *mut u8) {
        // SAFETY: by this function's contract.
        unsafe { copy_bytes(from.as_ptr().add(self.at), to, self.size) }
    }
}

/// As [`super::Spsc`].
#[derive(Debug)]
pub struct Spsc {
    file: Memfd,
    ring: spsc::Ring,
    element: Within,
}

impl Spsc {
    /// As [`super::Spsc::create`].
    ///
    /// # Errors
    /// As there.
    pub fn create(element: Layout, capacity: usize) -> Result<Self> {
        let within = Within::entry(element)?;
        let (file, ring) = spsc::Ring::create(capacity, element, within.whole)?;
        Ok(Self { file, ring, element: within })
    }

    /// As [`super::Spsc::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(element: Layout, file: OwnedFd) -> Result<Self> {
        let within = Within::entry(element)?;
        let (file, ring) = spsc::Ring::open(file, element, within.whole)?;
        Ok(Self { file, ring, element: within })
    }

    /// As [`super::Spsc::producer`].
    ///
    /// # Errors
    /// As there.
    pub fn producer(&self) -> Result<Producer> {
        Producer::of(&self.ring, self.element)
    }

    /// As [`super::Spsc::consumer`].
    ///
    /// # Errors
    /// As there.
    pub fn consumer(&self) -> Result<Consumer> {
        Consumer::of(&self.ring, self.element)
    }

    /// How many elements fit at least.
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }
}

impl AsFd for Spsc {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// As [`super::Producer`].
#[derive(Debug)]
pub struct Producer {
    core: core_ring::Producer<(), Apart>,
    end: End,
    element: Within,
}

impl Producer {
    fn of(ring: &spsc::Ring, element: Within) -> Result<Self> {
        // SAFETY: made of entries of this layout, of which a word is the first part.
        let (core, end) = unsafe { ring.producer(Apart(element.whole.size()))? };
        Ok(Self { core, end, element })
    }

    /// As [`super::Producer::push_slice`], of `count` elements.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// There are so many at `first`.
    pub unsafe fn push(&mut self, first: *const u8, count: usize) -> Result<usize> {
        let count = self.end.fitting(&mut self.core, count)?;
        let (entries, next, element) = (*self.core.entries(), self.core.next(), self.element);
        let write = |i: usize| {
            let to = entries.place(next.wrapping_add(i as u32)).cast();
            // SAFETY: there is an element by this function's contract, and an entry that is free, since it fits.
            unsafe { element.write(first.add(i * element.size), to) }
        };
        self.core.publish_values((0..count).map(write));
        Ok(count)
    }

    /// As [`super::Producer::is_abandoned`].
    pub fn is_abandoned(&self) -> bool {
        self.end.is_abandoned()
    }

    /// Bytes of an element.
    pub fn element_size(&self) -> usize {
        self.element.size
    }

    /// How many elements fit at least.
    pub fn capacity(&self) -> usize {
        self.end.ring.capacity()
    }
}

/// As [`super::Consumer`].
#[derive(Debug)]
pub struct Consumer {
    core: core_ring::Consumer<(), Apart>,
    published: u32,
    end: End,
    element: Within,
}

impl Consumer {
    fn of(ring: &spsc::Ring, element: Within) -> Result<Self> {
        // SAFETY: as above.
        let (core, end) = unsafe { ring.consumer(Apart(element.whole.size()))? };
        Ok(Self { core, published: 0, end, element })
    }

    /// As [`super::Consumer::pop_slice`], of up to `count` elements.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// At `first` is room for so many.
    pub unsafe fn pop(&mut self, first: *mut u8, count: usize) -> Result<usize> {
        self.end.check()?;
        for i in 0..count {
            let from = self.core.entries().place(self.core.next()).cast();
            if self.core.take().is_none() {
                return Ok(i);
            }
            // SAFETY: there is room by this function's contract; the producer writes there once it is told that this was taken.
            unsafe { self.element.read(from, first.add(i * self.element.size)) };
            self.end.publish(self.core.next(), &mut self.published);
        }
        Ok(count)
    }

    /// As [`super::Consumer::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.end.guard.forked() || !self.core.ready()
    }

    /// As [`super::Consumer::is_abandoned`].
    pub fn is_abandoned(&self) -> bool {
        self.end.is_abandoned()
    }

    /// Bytes of an element.
    pub fn element_size(&self) -> usize {
        self.element.size
    }

    /// How many elements fit at least.
    pub fn capacity(&self) -> usize {
        self.end.ring.capacity()
    }
}

/// As [`super::Mpmc`].
#[derive(Debug)]
pub struct Mpmc {
    file: Memfd,
    ring: mpmc::Ring,
    element: Within,
}

impl Mpmc {
    /// As [`super::Mpmc::create`].
    ///
    /// # Errors
    /// As there.
    pub fn create(element: Layout, capacity: usize, members: usize) -> Result<Self> {
        let within = Within::cell(element)?;
        let (file, ring) = mpmc::Ring::create(capacity, members, element, within.whole)?;
        Ok(Self { file, ring, element: within })
    }

    /// As [`super::Mpmc::open`].
    ///
    /// # Errors
    /// As there.
    pub fn open(element: Layout, file: OwnedFd) -> Result<Self> {
        let within = Within::cell(element)?;
        let (file, ring) = mpmc::Ring::open(file, element, within.whole)?;
        Ok(Self { file, ring, element: within })
    }

    /// As [`super::Mpmc::join`].
    ///
    /// # Errors
    /// As there.
    pub fn join(&self) -> Result<MpmcMember> {
        Ok(MpmcMember { member: self.ring.join()?, element: self.element })
    }

    /// How many elements fit.
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }
}

impl AsFd for Mpmc {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// As [`super::MpmcMember`].
#[derive(Debug)]
pub struct MpmcMember {
    member: mpmc::Member,
    element: Within,
}

impl MpmcMember {
    /// As [`super::MpmcMember::push`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// There is an element at `from`.
    pub unsafe fn push(&self, from: *const u8) -> Result<()> {
        self.member.check()?;
        let cells = &self.member.cells;
        // SAFETY: there is an element by this function's contract; the cell is this thread's, and as large as those of the ring.
        cells.push_with(|cell| unsafe { self.element.write(from, cell) }).map_err(|Full| Error::Full)?;
        cells.prefetch_ahead(AHEAD);
        Ok(())
    }

    /// As [`super::MpmcMember::pop`]. Whether there was one.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// At `to` is room for an element.
    pub unsafe fn pop(&self, to: *mut u8) -> Result<bool> {
        self.member.check()?;
        // SAFETY: there is room by this function's contract; the cell is this thread's, and as large as those of the ring.
        Ok(self.member.cells.pop_with(|cell| unsafe { self.element.read(cell, to) }).is_some())
    }

    /// As [`super::MpmcMember::len`].
    pub fn len(&self) -> usize {
        self.member.len()
    }

    /// As [`super::MpmcMember::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.member.is_empty()
    }

    /// As [`super::MpmcMember::number`].
    pub fn number(&self) -> u32 {
        self.member.number
    }

    /// As [`super::MpmcMember::recover_dead`].
    ///
    /// # Errors
    /// As there.
    pub fn recover_dead(&self) -> Result<Recovered> {
        self.member.recover_dead()
    }
}

#[cfg(all(test, not(busway_loom)))]
mod tests {
    use super::*;
    use crate::ring::{self, shared};
    use proptest::prelude::*;

    /// Some size that is a multiple of some alignment.
    fn element() -> impl Strategy<Value = Layout> {
        (0u32..=6, 1usize..40).prop_map(|(bits, times)| Layout::from_size_align(times << bits, 1 << bits).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }))]

        /// Elements of any layout come out as they went in, at addresses aligned for nothing, and nothing beside them is written.
        #[test]
        fn elements_of_any_layout_cross(element in element(), capacity in 1usize..6, rounds in 1usize..6) {
            let size = element.size();
            let within = Within::entry(element)?;
            let ring = spsc::Ring::heap(capacity, element, within.whole)?;
            let (mut producer, mut consumer) = (Producer::of(&ring, within)?, Consumer::of(&ring, within)?);
            let within = Within::cell(element)?;
            let ring = mpmc::Ring::heap(capacity, 1, element, within.whole)?;
            let member = MpmcMember { member: ring.join()?, element: within };
            for round in 0..rounds {
                let from: Vec<u8> = (0..1 + capacity * size).map(|i| (i * 7 + round + 1) as u8).collect();
                let mut to = vec![0; 1 + (capacity + 1) * size];
                // SAFETY: there is room for so many behind the first byte.
                unsafe {
                    prop_assert_eq!(producer.push(from.as_ptr().add(1), capacity)?, capacity);
                    prop_assert_eq!(consumer.pop(to.as_mut_ptr().add(1), capacity + 1)?, capacity);
                }
                prop_assert!(to[0] == 0 && to[1 + capacity * size..].iter().all(|byte| *byte == 0));
                prop_assert_eq!(&to[1..][..capacity * size], &from[1..]);
                prop_assert!(consumer.is_empty());
                to.fill(0);
                // SAFETY: as above.
                unsafe {
                    for i in 0..capacity {
                        member.push(from.as_ptr().add(1 + i * size))?;
                    }
                    for i in 0..capacity {
                        prop_assert!(member.pop(to.as_mut_ptr().add(1 + i * size))?);
                    }
                    prop_assert!(!member.pop(to.as_mut_ptr().add(1 + capacity * size))?);
                }
                prop_assert!(to[0] == 0 && to[1 + capacity * size..].iter().all(|byte| *byte == 0));
                prop_assert_eq!(&to[1..][..capacity * size], &from[1..]);
            }
        }
    }

    /// Types whose values lie behind padding in a ring.
    #[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
    #[repr(C, align(16))]
    struct Wide([u64; 4]);

    #[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
    #[repr(C, align(32))]
    struct Wider([u64; 4]);

    #[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
    #[repr(C, align(64))]
    struct Line([u64; 8]);

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no memory files")]
    fn a_ring_is_the_same_whether_its_type_is_known_or_not() {
        fn same<T: bytemuck::Pod + PartialEq + core::fmt::Debug>(value: T) {
            let element = Layout::new::<T>();
            let file = |ring: &dyn AsFd| ring.as_fd().try_clone_to_owned().unwrap();
            let at = (&raw const value).cast();

            let ring = Spsc::create(element, 4).unwrap();
            let mut consumer = ring::Spsc::<T>::open(file(&ring)).unwrap().consumer().unwrap();
            // SAFETY: one value.
            assert_eq!(unsafe { ring.producer().unwrap().push(at, 1) }.unwrap(), 1);
            assert_eq!(consumer.pop().unwrap(), Some(value));

            let ring = ring::Mpmc::<T>::create(4, 2).unwrap();
            let other = Mpmc::open(element, file(&ring)).unwrap().join().unwrap();
            ring.join().unwrap().push(value).unwrap();
            let mut to = T::zeroed();
            // SAFETY: room for one value.
            assert!(unsafe { other.pop((&raw mut to).cast()) }.unwrap());
            assert_eq!(to, value);
        }
        same(7u8);
        same([1u16, 2, 3]);
        same([1u64; 3]);
        same(Wide([1, 2, 3, 4]));
        same(Wider([1, 2, 3, 4]));
        same(Line([1, 2, 3, 4, 5, 6, 7, 8]));
    }

    #[test]
    fn elements_that_cannot_lie_in_a_region_are_refused() {
        for (size, align) in [(128, 128), (1 << 33, 8), (isize::MAX as usize, 1)] {
            let element = Layout::from_size_align(size, align).unwrap();
            let refused = |result: Result<()>| matches!(result, Err(Error::Join(_)));
            assert!(refused(
                Within::entry(element).and_then(|e| shared::spsc::Ring::heap(1, element, e.whole).map(drop))
            ));
            assert!(refused(
                Within::cell(element).and_then(|e| shared::mpmc::Ring::heap(1, 1, element, e.whole).map(drop))
            ));
        }
    }
}
