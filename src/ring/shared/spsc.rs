//! The ring of one producer and one consumer, between processes.

use super::ends::{Consumer, End, Producer};
use super::{Head, Lies, Memory, check_lies, checked_capacity, kind};
use crate::error::{Error, JoinError, Result};
use crate::region::{Array, Memfd, Plan, Process, Section};
use crate::ring::spsc::{self, Entry};
use crate::sync::{AtomicU32, AtomicU64, Ordering, PeerWord};
use bytemuck::{AnyBitPattern, NoUninit};
use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::offset_of;
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

impl<T> Entry<T> {
    const LIES: Lies = Lies { at: offset_of!(Self, value), size: size_of::<T>(), within: Layout::new::<Self>() };
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
        Self::create_of(Layout::new::<T>(), capacity)
    }

    /// As [`create`](Self::create), of elements of which only the layout is known. A `T` has to have room for one, and to
    /// take as much as one in the ring; what it has beyond is lost.
    #[doc(hidden)]
    pub fn create_of(element: Layout, capacity: usize) -> Result<Self> {
        let (file, ring) = Ring::create(element, capacity, Entry::<T>::LIES)?;
        Ok(Self { file, ring, _elements: PhantomData })
    }

    /// As [`open`](Self::open), of elements as those of [`create_of`](Self::create_of).
    #[doc(hidden)]
    pub fn open_of(element: Layout, file: OwnedFd) -> Result<Self> {
        let (file, ring) = Ring::open(element, file, Entry::<T>::LIES)?;
        Ok(Self { file, ring, _elements: PhantomData })
    }

    /// Opens a file that another process made with [`create`](Self::create), for the same type.
    ///
    /// # Errors
    /// [`JoinError::Seals`]: not such a file, or one whose size can change. [`JoinError::BadMagic`],
    /// [`Error::VersionMismatch`], [`JoinError::Geometry`]: not such a ring. [`Error::WrongSize`]: a ring of elements
    /// of another size. [`JoinError::Identity`]: made in another pid or time namespace. [`Error::Io`].
    pub fn open(file: OwnedFd) -> Result<Self> {
        Self::open_of(Layout::new::<T>(), file)
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
        let (plan, head) = Ring::plan(Layout::new::<T>(), capacity, Entry::<T>::LIES)?;
        let memory = Memory::heap(plan, head)?;
        #[cfg(busway_loom)]
        {
            let entries = Shape::of(head.capacity).entries;
            memory.init(kind::SPSC_ENDS, |_| Ends::new())?;
            memory.init(kind::ENTRIES, |index| Entry::new(index, entries, 0, T::zeroed()))?;
        }
        let ring = Ring::new(memory, Entry::<T>::LIES)?;
        // SAFETY: made for them just now.
        unsafe { Ok((ring.producer()?, ring.consumer()?)) }
    }

    /// Takes the one producer of the ring.
    ///
    /// # Errors
    /// [`JoinError::Taken`] if a process ever took it, [`Error::Forked`], [`Error::Io`].
    pub fn producer(&self) -> Result<Producer<T>> {
        // SAFETY: made for them.
        unsafe { self.ring.producer() }
    }

    /// Takes the one consumer of the ring.
    ///
    /// # Errors
    /// As [`producer`](Self::producer).
    pub fn consumer(&self) -> Result<Consumer<T>> {
        // SAFETY: as above.
        unsafe { self.ring.consumer() }
    }

    /// How many elements fit at least.
    pub fn capacity(&self) -> usize {
        self.ring.memory.head.capacity as usize
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
    fn create(element: Layout, capacity: usize, entries: Lies) -> Result<(Memfd, Self)> {
        let (plan, head) = Self::plan(element, capacity, entries)?;
        let (file, memory) = Memory::create(plan, head)?;
        Ok((file, Self::new(memory, entries)?))
    }

    fn open(element: Layout, file: OwnedFd, entries: Lies) -> Result<(Memfd, Self)> {
        check_lies(element, Layout::new::<AtomicU64>(), entries)?;
        let (file, memory) = Memory::open(file, kind::ENTRIES, element)?;
        Ok((file, Self::new(memory, entries)?))
    }

    fn plan(element: Layout, capacity: usize, entries: Lies) -> Result<(Plan, Head)> {
        check_lies(element, Layout::new::<AtomicU64>(), entries)?;
        let capacity = checked_capacity(capacity, MAX_CAPACITY)?;
        let mut plan = Memory::plan();
        plan.add(kind::SPSC_ENDS, 0, 1, size_of::<Ends>(), 128);
        plan.add(kind::ENTRIES, 0, Shape::of(capacity).entries, entries.within.size(), 128);
        Ok((plan, Head::new(kind::ENTRIES, capacity, element)?))
    }

    fn new(memory: Memory, entries: Lies) -> Result<Self> {
        let shape = Shape::of(checked_capacity(memory.head.capacity as usize, MAX_CAPACITY)?);
        let ends = memory.array(kind::SPSC_ENDS, Some(1))?;
        let entries = memory.section(entries.within, kind::ENTRIES, Some(shape.entries))?;
        Ok(Self { memory: Arc::new(memory), ends, entries, shape })
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

    /// # Safety
    /// It was made for the entries of `T`s.
    unsafe fn producer<T: NoUninit + AnyBitPattern>(&self) -> Result<Producer<T>> {
        let end = self.claim(Which::Producer)?;
        let pos = NonNull::from(PeerWord::of(&self.ends.pos));
        // SAFETY: `end` keeps the memory, and has the claim, so that this is the only producer; `Shape` makes a power
        // of two.
        let core = unsafe {
            spsc::Producer::new(self.memory.elements::<Entry<T>>(self.entries).base(), pos, self.shape.entries, 0)
        };
        Ok(Producer { core, end })
    }

    /// # Safety
    /// As of [`producer`](Self::producer).
    unsafe fn consumer<T: NoUninit + AnyBitPattern>(&self) -> Result<Consumer<T>> {
        let end = self.claim(Which::Consumer)?;
        // SAFETY: as above.
        let core = unsafe {
            spsc::Consumer::new(self.memory.elements::<Entry<T>>(self.entries).base(), self.shape.entries, 0)
        };
        Ok(Consumer { core, published: 0, end })
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
