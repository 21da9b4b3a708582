//! The ring of many producers and consumers, between processes.

use super::place::Place;
use super::{Head, Memory, check_alignment, checked_capacity, kind};
use crate::error::{Error, JoinError, Result};
use crate::region::{Array, Memfd, Plan, Process, Section};
use crate::ring::mpmc::{Cell, CellRing, Ends, Full, TypedRing};
use crate::slots::owned::MAX_PARTICIPANT;
use crate::sync::ForkGuard;
use bytemuck::{AnyBitPattern, NoUninit};
use core::alloc::Layout;
use core::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

const MAX_CAPACITY: u32 = 1 << 15;
/// How many positions ahead a producer asks for a cell, so that the next pushes need not wait for the line, which a consumer had last
/// (measured in turns, one producer and one consumer: 19 to 26 million elements a second).
pub(super) const AHEAD: u64 = 4;

/// A memory file that holds a bounded ring of `T`s with any number of producers and consumers, in any processes.
///
/// Whoever has the file opens it and [joins](Self::join). The ring survives `kill -9` at any instruction: nobody ever
/// waits for a process that is dead, stopped or slow; what a dead member had pushed is still popped, once. An element
/// that it was about to push or to pop may be lost with it; the room comes back by [`MpmcMember::recover_dead`].
///
/// The file is closed on exec; hand it over as standard input of a child ([`OwnedFd::from`]), or over a Unix socket.
/// All processes trust each other not to write elsewhere in the file: one that does makes values wrong or others
/// spin, though neither a panic nor an access out of bounds.
///
/// # Examples
///
/// ```
/// # use std::os::fd::AsFd;
/// use busway::ring::Mpmc;
///
/// let ring = Mpmc::<u64>::create(1024, 16)?; // 1024 elements, 16 members
/// let member = ring.join()?;
///
/// // Another process has been given the file.
/// # let file = ring.as_fd().try_clone_to_owned().unwrap();
/// let other = Mpmc::<u64>::open(file)?.join()?;
///
/// member.push(7)?;
/// assert_eq!(other.pop()?, Some(7));
/// assert_eq!(member.pop()?, None);
/// # Ok::<(), busway::Error>(())
/// ```
#[derive(Debug)]
pub struct Mpmc<T> {
    file: Memfd,
    ring: Ring,
    _elements: PhantomData<fn() -> T>,
}

impl<T: NoUninit + AnyBitPattern> Mpmc<T> {
    /// Makes a ring in which `capacity` elements fit, rounded up to a power of two, 2^15 at most; up to `members`
    /// processes, 4095 at most, are members at a time. Its memory is allocated here: an element of up to 16 bytes
    /// takes 32.
    ///
    /// # Errors
    /// [`JoinError::Geometry`] for numbers or a size out of bounds, [`Error::Io`].
    pub fn create(capacity: usize, members: usize) -> Result<Self> {
        let (file, ring) = Ring::create(capacity, members, Layout::new::<T>(), Layout::new::<Cell<T>>())?;
        Ok(Self { file, ring, _elements: PhantomData })
    }

    /// Opens a file that another process made with [`create`](Self::create), for the same type.
    ///
    /// # Errors
    /// [`JoinError::Seals`]: not such a file, or one whose size can change. [`JoinError::BadMagic`],
    /// [`Error::VersionMismatch`], [`JoinError::Geometry`]: not such a ring. [`Error::WrongSize`]: a ring of elements
    /// of another size. [`JoinError::Identity`]: made in another pid or time namespace. [`Error::Io`].
    pub fn open(file: OwnedFd) -> Result<Self> {
        let (file, ring) = Ring::open(file, Layout::new::<T>(), Layout::new::<Cell<T>>())?;
        Ok(Self { file, ring, _elements: PhantomData })
    }

    /// All members of a ring in memory of this process alone: for tests, under Miri and [loom](https://docs.rs/loom)
    /// too.
    ///
    /// # Errors
    /// [`JoinError::Geometry`], as [`create`](Self::create).
    ///
    /// # Examples
    ///
    /// ```
    /// let members = busway::ring::Mpmc::group(16, 2)?;
    /// members[0].push(1u8)?;
    /// assert_eq!(members[1].pop()?, Some(1));
    /// # Ok::<(), busway::Error>(())
    /// ```
    pub fn group(capacity: usize, members: usize) -> Result<Vec<MpmcMember<T>>> {
        let ring = Ring::heap(capacity, members, Layout::new::<T>(), Layout::new::<Cell<T>>())?;
        #[cfg(busway_loom)]
        {
            let capacity = ring.memory.head.capacity;
            ring.memory.init(kind::MPMC_ENDS, |_| Ends::new(0))?;
            ring.memory.init(kind::MEMBERS, |_| Place::new())?;
            ring.memory.init(kind::CELLS, |index| Cell::new(index, capacity, 0, 0, T::zeroed()))?;
        }
        let member = |_| Ok(MpmcMember { member: ring.join()?, _elements: PhantomData });
        (0..members).map(member).collect()
    }

    /// Joins the ring, in a place of this process's own. If all are taken, first recovers those of dead members.
    ///
    /// # Errors
    /// [`JoinError::Taken`]: there are as many living members as there may be. [`Error::Forked`], [`Error::Io`].
    pub fn join(&self) -> Result<MpmcMember<T>> {
        Ok(MpmcMember { member: self.ring.join()?, _elements: PhantomData })
    }

    /// How many elements fit.
    pub fn capacity(&self) -> usize {
        self.ring.capacity()
    }
}

impl<T> AsFd for Mpmc<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<T> From<Mpmc<T>> for OwnedFd {
    fn from(ring: Mpmc<T>) -> Self {
        ring.file.into()
    }
}

/// One for each element, and for each thread that is killed or stopped in the midst of a push or pop: four of each
/// member.
fn cells(capacity: u32, members: u32) -> u32 {
    capacity + if cfg!(busway_loom) { members } else { 4 * members.max(4) }
}

/// The mapped ring, whatever its elements are.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    memory: Arc<Memory>,
    ends: Array<Ends>,
    places: Array<Place>,
    cells: Section,
}

impl Ring {
    /// A ring in a new file, of such elements in such cells.
    pub fn create(capacity: usize, members: usize, element: Layout, cell: Layout) -> Result<(Memfd, Self)> {
        let (plan, head) = Self::plan(capacity, members, element, cell)?;
        let (file, memory) = Memory::create(plan, head)?;
        Ok((file, Self::new(memory, cell)?))
    }

    /// The ring of another process's file, of such elements in such cells.
    pub fn open(file: OwnedFd, element: Layout, cell: Layout) -> Result<(Memfd, Self)> {
        let (file, memory) = Memory::open(file, kind::CELLS, element)?;
        Ok((file, Self::new(memory, cell)?))
    }

    /// A ring in memory of this process alone.
    pub fn heap(capacity: usize, members: usize, element: Layout, cell: Layout) -> Result<Self> {
        let (plan, head) = Self::plan(capacity, members, element, cell)?;
        Self::new(Memory::heap(plan, head)?, cell)
    }

    fn plan(capacity: usize, members: usize, element: Layout, cell: Layout) -> Result<(Plan, Head)> {
        check_alignment(cell)?;
        let capacity = checked_capacity(capacity, MAX_CAPACITY)?.next_power_of_two();
        let members = match u32::try_from(members) {
            Ok(members) if (1..=MAX_PARTICIPANT.into()).contains(&members) => members,
            _ => return Err(JoinError::Geometry { what: "no or too many members" }.into()),
        };
        let mut plan = Memory::plan();
        plan.add(kind::MPMC_ENDS, 0, 1, size_of::<Ends>(), align_of::<Ends>());
        plan.add(kind::MEMBERS, 0, members, size_of::<Place>(), 64);
        plan.add(kind::CELLS, 0, cells(capacity, members), cell.size(), 64);
        Ok((plan, Head::new(kind::CELLS, capacity, element)?))
    }

    fn new(memory: Memory, cell: Layout) -> Result<Self> {
        let capacity = checked_capacity(memory.head.capacity as usize, MAX_CAPACITY)?;
        let places = memory.array::<Place>(kind::MEMBERS, None)?;
        if !capacity.is_power_of_two() || !(1..=MAX_PARTICIPANT.into()).contains(&places.count()) {
            return Err(JoinError::Geometry { what: "a section has the wrong count" }.into());
        }
        let cells = memory.section(cell, kind::CELLS, Some(cells(capacity, places.count())))?;
        Ok(Self { ends: memory.array(kind::MPMC_ENDS, Some(1))?, places, cells, memory: Arc::new(memory) })
    }

    pub fn capacity(&self) -> usize {
        self.memory.head.capacity as usize
    }

    /// The ring, as member `number` sees it.
    ///
    /// # Safety
    /// The memory outlives it. The member has place `number`, or it is used to recover others alone.
    unsafe fn seen_by(&self, number: u32) -> CellRing {
        let (first, step) = (self.memory.start(self.cells), self.cells.stride as usize);
        // SAFETY: counts checked in `new`; a place is given away only after what its last member left was recovered.
        unsafe { CellRing::new(first, step, self.cells.count, self.memory.head.capacity, self.ends, number as u16) }
    }

    /// Joins, in a place of this process's own. If there is none, first has those of dead members recovered.
    pub fn join(&self) -> Result<Member> {
        if self.memory.region.forked() {
            return Err(Error::Forked);
        }
        let own = Process::own()?;
        let join = || (1..=self.places.count()).find(|number| self.places.at(number - 1).join(own));
        let again = || {
            // SAFETY: it is gone before the memory; it recovers others alone.
            let cells = unsafe { self.seen_by(1) };
            self.recover_dead(own, &cells);
            join()
        };
        let what = "there are as many members as there may be, and none is dead";
        let number = join().or_else(again).ok_or(JoinError::Taken { what })?;
        // SAFETY: the member keeps the memory, and has the place.
        let cells = unsafe { self.seen_by(number) };
        Ok(Member { cells, guard: self.memory.region.guard(), ring: self.clone(), number, own })
    }

    /// Gives back what dead members had in hand.
    fn recover_dead(&self, own: Process, cells: &CellRing) -> Recovered {
        let mut recovered = Recovered::default();
        for number in 1..=self.places.count() {
            let place = self.places.at(number - 1);
            if let Some(freed) = place.recover(own, Process::is_dead, || cells.recover(number as u16)) {
                recovered.members += 1;
                recovered.elements += freed;
            }
        }
        recovered
    }
}

/// A process's membership, whatever the elements are. It leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Member {
    pub cells: CellRing,
    guard: ForkGuard,
    ring: Ring,
    pub number: u32,
    own: Process,
}

impl Member {
    #[inline(always)]
    pub fn check(&self) -> Result<()> {
        if self.guard.forked() { Err(Error::Forked) } else { Ok(()) }
    }

    pub fn len(&self) -> usize {
        if self.guard.forked() { 0 } else { self.cells.len() as usize }
    }

    pub fn is_empty(&self) -> bool {
        self.guard.forked() || self.cells.is_empty()
    }

    pub fn recover_dead(&self) -> Result<Recovered> {
        self.check()?;
        Ok(self.ring.recover_dead(self.own, &self.cells))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // In a forked child nothing is mapped here, and the place is the parent's.
        if !self.guard.forked() {
            self.ring.places.at(self.number - 1).leave(self.own);
        }
    }
}

/// What [`MpmcMember::recover_dead`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Dead members, whose places are free again.
    pub members: u32,
    /// Elements that they had in hand: neither pushed yet, nor returned from a pop yet. They are lost, their room is
    /// not.
    pub elements: u32,
}

/// A process's membership of an [`Mpmc`] ring, for all its threads. It leaves when it is dropped.
///
/// Pushing and popping never block, allocate or make a system call. In a forked child every operation answers
/// [`Error::Forked`], and dropping does nothing. A process that execs while it is a member stays one until it ends.
#[derive(Debug)]
pub struct MpmcMember<T> {
    member: Member,
    _elements: PhantomData<fn() -> T>,
}

impl<T: NoUninit + AnyBitPattern> MpmcMember<T> {
    #[inline(always)]
    fn ring(&self) -> Result<&TypedRing<T>> {
        self.member.check()?;
        // SAFETY: its cells are those of the `Mpmc<T>`, or of the group of `T`s, that was joined.
        Ok(unsafe { TypedRing::of(&self.member.cells) })
    }

    /// Appends a value.
    ///
    /// # Errors
    /// [`Error::Full`]: there are `capacity` elements; or more threads than four of each member were killed or
    /// stopped in the midst of a push or pop. [`Error::Forked`].
    #[inline]
    pub fn push(&self, value: T) -> Result<()> {
        let ring = self.ring()?;
        ring.push(value).map_err(|Full| Error::Full)?;
        ring.prefetch_ahead(AHEAD);
        Ok(())
    }

    /// Takes the oldest value, if there is one.
    ///
    /// # Errors
    /// [`Error::Forked`].
    #[inline]
    pub fn pop(&self) -> Result<Option<T>> {
        Ok(self.ring()?.pop())
    }

    /// About how many elements there are: a hint, old as soon as it is read; 0 in a forked child.
    pub fn len(&self) -> usize {
        self.member.len()
    }

    /// Whether the ring was empty at some moment during the call; true in a forked child.
    pub fn is_empty(&self) -> bool {
        self.member.is_empty()
    }

    /// How many elements fit.
    pub fn capacity(&self) -> usize {
        self.member.cells.capacity() as usize
    }

    /// The number of this member, from 1. Numbers are used again.
    pub fn number(&self) -> u32 {
        self.member.number
    }

    /// Finds members whose process is dead, and gives back what they had in hand, beside all others, who go on
    /// meanwhile. A place that another living process is recovering is left to it; if that one dies too, the next
    /// call finishes its work.
    ///
    /// Call it when a process is known to have died, or now and then: a dead member takes a place, and up to one
    /// element of room for each of its threads, until then. Some microseconds of system calls for each member.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn recover_dead(&self) -> Result<Recovered> {
        self.member.recover_dead()
    }
}
