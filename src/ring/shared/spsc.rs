//! The ring of one producer and one consumer, between processes.

use super::ends::{Consumer, End, Producer};
use super::{Head, Memory, check_alignment, checked_capacity, kind};
use crate::error::{Error, JoinError, Result};
use crate::region::{Array, Memfd, Plan, Process, Section};
use crate::ring::spsc::{self, Entry, Packed, Step};
use crate::sync::{AtomicU32, AtomicU64, Ordering, PeerWord};
use bytemuck::{AnyBitPattern, NoUninit};
use core::alloc::Layout;
use core::marker::PhantomData;
use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Added to a claim when its end was dropped.
pub const CLOSED: u64 = 1 << 63;

/// Who has which end. On the consumer's line is its position, which the producer looks at now and then.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Ends {
    pub pos: AtomicU32,
    pub claims: Claims,
}

#[derive(Debug)]
#[repr(C, align(64))]
pub struct Claims {
    /// A [`Process`], or 0. Set once.
    pub producer: AtomicU64,
    pub consumer: AtomicU64,
}

impl Ends {
    #[cfg(busway_loom)]
    fn new() -> Self {
        let claims = Claims { producer: AtomicU64::new(0), consumer: AtomicU64::new(0) };
        Self { pos: AtomicU32::new(0), claims }
    }
}

/// How capacity becomes entries.
///
/// The consumer publishes its position once in [`stride`](Self::stride) elements (measured between processes: four
/// times as many elements a second as with each). Until then the producer takes up to `stride - 1` free entries for full
/// ones, so there are as many more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    entries: u32,
    pub stride: u32,
    /// Entries that are never filled: the core wants a power of two.
    pub spare: u32,
}

const MAX_CAPACITY: u32 = 1 << 30;

impl Shape {
    fn of(capacity: u32) -> Self {
        let stride = (capacity / 4).max(1);
        let used = capacity + stride - 1;
        let entries = used.next_power_of_two();
        Self { entries, stride, spare: entries - used }
    }
}

/// A memory file that holds a bounded ring of `T`s with one producer and one consumer, in any two processes or in one.
///
/// Whoever has the file opens it; among all of them one takes the [`producer`](Self::producer) and one the
/// [`consumer`](Self::consumer). An end stays taken when it is dropped, or its process dies: what was pushed can
/// still be popped. The file is closed on exec; hand it over as standard input of a child ([`OwnedFd::from`]), or
/// over a Unix socket.
///
/// Both processes trust each other not to write elsewhere in the file: one that does makes values wrong or ends the
/// ring, though neither a panic nor an access out of bounds.
///
/// # Examples
///
/// ```
/// # use std::os::fd::AsFd;
/// use busway::ring::Spsc;
///
/// let ring = Spsc::<[u32; 4]>::create(1024)?;
/// let mut producer = ring.producer()?;
///
/// // The other process has been given the file.
/// # let file = ring.as_fd().try_clone_to_owned().unwrap();
/// let mut consumer = Spsc::<[u32; 4]>::open(file)?.consumer()?;
///
/// producer.push([1, 2, 3, 4])?;
/// assert_eq!(consumer.pop()?, Some([1, 2, 3, 4]));
/// assert_eq!(consumer.pop()?, None);
/// # Ok::<(), busway::Error>(())
/// ```
#[derive(Debug)]
pub struct Spsc<T> {
    file: Memfd,
    ring: Ring,
    _elements: PhantomData<fn() -> T>,
}

impl<T: NoUninit + AnyBitPattern> Spsc<T> {
    /// Makes a ring in which at least `capacity` elements fit, up to 2^30. Its memory is allocated here: some 2 to 3
    /// times `capacity` entries of `size_of::<T>() + 8` bytes, rounded up to the alignment of both.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] for a capacity or size out of bounds, [`Error::Io`].
    pub fn create(capacity: usize) -> Result<Self> {
        let (file, ring) = Ring::create(capacity, Layout::new::<T>(), Layout::new::<Entry<T>>())?;
        Ok(Self { file, ring, _elements: PhantomData })
    }

    /// Opens a file that another process made with [`create`](Self::create), for the same type.
    ///
    /// # Errors
    /// [`JoinError::Seals`]: not such a file, or one whose size can change. [`JoinError::BadMagic`],
    /// [`Error::VersionMismatch`], [`JoinError::Geometry`]: not such a ring. [`Error::WrongSize`]: a ring of elements
    /// of another size. [`JoinError::Identity`]: made in another pid or time namespace. [`Error::Io`].
    pub fn open(file: OwnedFd) -> Result<Self> {
        let (file, ring) = Ring::open(file, Layout::new::<T>(), Layout::new::<Entry<T>>())?;
        Ok(Self { file, ring, _elements: PhantomData })
    }

    /// Both ends of a ring in memory of this process alone: for tests, under Miri and [loom](https://docs.rs/loom) too.
    ///
    /// # Errors
    /// [`JoinError::Geometry`], as [`create`](Self::create).
    ///
    /// # Examples
    ///
    /// ```
    /// let (mut producer, mut consumer) = busway::ring::Spsc::pair(16)?;
    /// let thread = std::thread::spawn(move || (0..10u64).for_each(|i| producer.push(i).expect("room")));
    /// let mut next = 0;
    /// while next < 10 {
    ///     if let Some(value) = consumer.pop()? {
    ///         assert_eq!(value, next);
    ///         next += 1;
    ///     }
    /// }
    /// # thread.join().unwrap();
    /// # Ok::<(), busway::Error>(())
    /// ```
    pub fn pair(capacity: usize) -> Result<(Producer<T>, Consumer<T>)> {
        let ring = Ring::heap(capacity, Layout::new::<T>(), Layout::new::<Entry<T>>())?;
        #[cfg(busway_loom)]
        {
            ring.memory.init(kind::SPSC_ENDS, |_| Ends::new())?;
            ring.memory.init(kind::ENTRIES, |index| Entry::new(index, ring.shape.entries, 0, T::zeroed()))?;
        }
        // SAFETY: made for them just now.
        let ((tx, from), (rx, to)) = unsafe { (ring.producer(Packed)?, ring.consumer(Packed)?) };
        Ok((Producer { core: tx, end: from }, Consumer { core: rx, published: 0, end: to }))
    }

    /// Takes the one producer of the ring.
    ///
    /// # Errors
    /// [`JoinError::Taken`] if a process ever took it, [`Error::Forked`], [`Error::Io`].
    pub fn producer(&self) -> Result<Producer<T>> {
        // SAFETY: made for them.
        let (core, end) = unsafe { self.ring.producer(Packed)? };
        Ok(Producer { core, end })
    }

    /// Takes the one consumer of the ring.
    ///
    /// # Errors
    /// As [`producer`](Self::producer).
    pub fn consumer(&self) -> Result<Consumer<T>> {
        // SAFETY: as above.
        let (core, end) = unsafe { self.ring.consumer(Packed)? };
        Ok(Consumer { core, published: 0, end })
    }

    /// How many elements fit at least.
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }
}

impl<T> AsFd for Spsc<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<T> From<Spsc<T>> for OwnedFd {
    fn from(ring: Spsc<T>) -> Self {
        ring.file.into()
    }
}

/// The mapped ring, whoever has it and whatever its elements are.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    pub memory: Arc<Memory>,
    pub ends: Array<Ends>,
    entries: Section,
    pub shape: Shape,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    Producer,
    Consumer,
}

impl Ring {
    /// A ring in a new file, of such elements in such entries.
    pub fn create(capacity: usize, element: Layout, entry: Layout) -> Result<(Memfd, Self)> {
        let (plan, head) = Self::plan(capacity, element, entry)?;
        let (file, memory) = Memory::create(plan, head)?;
        Ok((file, Self::new(memory, entry)?))
    }

    /// The ring of another process's file, of such elements in such entries.
    pub fn open(file: OwnedFd, element: Layout, entry: Layout) -> Result<(Memfd, Self)> {
        let (file, memory) = Memory::open(file, kind::ENTRIES, element)?;
        Ok((file, Self::new(memory, entry)?))
    }

    /// A ring in memory of this process alone.
    pub fn heap(capacity: usize, element: Layout, entry: Layout) -> Result<Self> {
        let (plan, head) = Self::plan(capacity, element, entry)?;
        Self::new(Memory::heap(plan, head)?, entry)
    }

    fn plan(capacity: usize, element: Layout, entry: Layout) -> Result<(Plan, Head)> {
        check_alignment(entry)?;
        let capacity = checked_capacity(capacity, MAX_CAPACITY)?;
        let mut plan = Memory::plan();
        plan.add(kind::SPSC_ENDS, 0, 1, size_of::<Ends>(), 128);
        plan.add(kind::ENTRIES, 0, Shape::of(capacity).entries, entry.size(), 128);
        Ok((plan, Head::new(kind::ENTRIES, capacity, element)?))
    }

    fn new(memory: Memory, entry: Layout) -> Result<Self> {
        let shape = Shape::of(checked_capacity(memory.head.capacity as usize, MAX_CAPACITY)?);
        let ends = memory.array(kind::SPSC_ENDS, Some(1))?;
        let entries = memory.section(entry, kind::ENTRIES, Some(shape.entries))?;
        Ok(Self { memory: Arc::new(memory), ends, entries, shape })
    }

    pub fn capacity(&self) -> usize {
        self.memory.head.capacity as usize
    }

    #[inline(never)]
    fn claim(&self, which: Which) -> Result<End> {
        if self.memory.region.forked() {
            return Err(Error::Forked);
        }
        let own = Process::own()?.bits();
        let word = self.ends.claims.of(which);
        if word.compare_exchange(0, own, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            let what = match which {
                Which::Producer => "a ring has one producer, which a process took already",
                Which::Consumer => "a ring has one consumer, which a process took already",
            };
            return Err(JoinError::Taken { what }.into());
        }
        Ok(End { ring: self.clone(), guard: self.memory.region.guard(), which })
    }

    /// Claims the producer.
    ///
    /// # Safety
    /// In the memory are entries of `T`s, so far apart.
    pub unsafe fn producer<T, S>(&self, step: S) -> Result<(spsc::Producer<T, S>, End)>
    where
        T: NoUninit + AnyBitPattern,
        S: Step<T>,
    {
        let end = self.claim(Which::Producer)?;
        let pos = NonNull::from(PeerWord::of(&self.ends.pos));
        // SAFETY: `end` keeps the memory, and has the claim, so that this is the only producer; `Shape` makes a power
        // of two.
        let core = unsafe { spsc::Producer::within(self.entries(), step, pos, self.shape.entries, 0) };
        Ok((core, end))
    }

    /// Claims the consumer.
    ///
    /// # Safety
    /// As of [`producer`](Self::producer).
    pub unsafe fn consumer<T, S>(&self, step: S) -> Result<(spsc::Consumer<T, S>, End)>
    where
        T: NoUninit + AnyBitPattern,
        S: Step<T>,
    {
        let end = self.claim(Which::Consumer)?;
        // SAFETY: as above.
        let core = unsafe { spsc::Consumer::within(self.entries(), step, self.shape.entries, 0) };
        Ok((core, end))
    }

    fn entries<T>(&self) -> NonNull<Entry<T>> {
        self.memory.start(self.entries).cast()
    }
}

impl Claims {
    pub(super) fn of(&self, which: Which) -> &AtomicU64 {
        match which {
            Which::Producer => &self.producer,
            Which::Consumer => &self.consumer,
        }
    }
}
