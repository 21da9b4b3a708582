//! The ring of many producers and consumers, between processes.

use super::place::Place;
use super::{Head, Lies, Memory, check_lies, checked_capacity, kind};
use crate::error::{Error, JoinError, Result};
use crate::region::{Array, Memfd, Plan, Process, Section};
use crate::ring::mpmc::{Cell, Ends, Full, TypedRing};
use crate::slots::owned::MAX_PARTICIPANT;
use crate::sync::{ForkGuard, prefetch_write};
use bytemuck::{AnyBitPattern, NoUninit};
use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

const MAX_CAPACITY: u32 = 1 << 15;
/// How many positions ahead a producer asks for a cell.
const AHEAD: u64 = 4;

impl<T> Cell<T> {
    const LIES: Lies = Lies { at: offset_of!(Self, value), size: size_of::<T>(), within: Layout::new::<Self>() };
}

/// What is in a cell before an element of no size and no alignment.
const BEFORE: usize = Cell::<()>::LIES.at;

/// Whether cells of this layout of elements are those.
fn check_cells(element: Layout, cells: Lies) -> Result<()> {
    let head = Layout::from_size_align(BEFORE, align_of::<Cell<()>>());
    check_lies(element, head.map_err(|_| JoinError::Geometry { what: "no layout" })?, cells)
}

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
    memory: Arc<Memory>,
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
        Self::create_of(Layout::new::<T>(), capacity, members)
    }

    /// As [`create`](Self::create), of elements of which only the layout is known. A `T` has to have room for one, and to
    /// take as much as one in the ring; what it has beyond is lost.
    #[doc(hidden)]
    pub fn create_of(element: Layout, capacity: usize, members: usize) -> Result<Self> {
        let (plan, head) = plan(element, capacity, members, Cell::<T>::LIES)?;
        let (file, memory) = Memory::create(plan, head)?;
        Ok(Self { file, memory: Arc::new(memory), _elements: PhantomData })
    }

    /// As [`open`](Self::open), of elements as those of [`create_of`](Self::create_of).
    #[doc(hidden)]
    pub fn open_of(element: Layout, file: OwnedFd) -> Result<Self> {
        check_cells(element, Cell::<T>::LIES)?;
        let (file, memory) = Memory::open(file, kind::CELLS, element)?;
        View::of(&memory, Cell::<T>::LIES)?;
        Ok(Self { file, memory: Arc::new(memory), _elements: PhantomData })
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
        let (plan, head) = plan(Layout::new::<T>(), capacity, members, Cell::<T>::LIES)?;
        let memory = Memory::heap(plan, head)?;
        #[cfg(busway_loom)]
        {
            memory.init(kind::MPMC_ENDS, |_| Ends::new(0))?;
            memory.init(kind::MEMBERS, |_| Place::new())?;
            memory.init(kind::CELLS, |index| Cell::new(index, head.capacity, 0, 0, T::zeroed()))?;
        }
        let memory = Arc::new(memory);
        (0..members).map(|_| MpmcMember::join(&memory)).collect()
    }

    /// Joins the ring, in a place of this process's own. If all are taken, first recovers those of dead members.
    ///
    /// # Errors
    /// [`JoinError::Taken`]: there are as many living members as there may be. [`Error::Forked`], [`Error::Io`].
    pub fn join(&self) -> Result<MpmcMember<T>> {
        MpmcMember::join(&self.memory)
    }

    /// How many elements fit.
    pub fn capacity(&self) -> usize {
        self.memory.head.capacity as usize
    }
}

fn plan(element: Layout, capacity: usize, members: usize, of: Lies) -> Result<(Plan, Head)> {
    check_cells(element, of)?;
    let capacity = checked_capacity(capacity, MAX_CAPACITY)?.next_power_of_two();
    let members = match u32::try_from(members) {
        Ok(members) if (1..=MAX_PARTICIPANT.into()).contains(&members) => members,
        _ => return Err(JoinError::Geometry { what: "no or too many members" }.into()),
    };
    let mut plan = Memory::plan();
    plan.add(kind::MPMC_ENDS, 0, 1, size_of::<Ends>(), align_of::<Ends>());
    plan.add(kind::MEMBERS, 0, members, size_of::<Place>(), 64);
    plan.add(kind::CELLS, 0, cells(capacity, members), of.within.size(), 64);
    Ok((plan, Head::new(kind::CELLS, capacity, element)?))
}

/// One for each element, and for each thread that is killed or stopped in the midst of a push or pop: four of each
/// member.
fn cells(capacity: u32, members: u32) -> u32 {
    capacity + if cfg!(busway_loom) { members } else { 4 * members.max(4) }
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

/// What lies in the memory.
#[derive(Debug)]
struct View {
    ends: Array<Ends>,
    places: Array<Place>,
    cells: Section,
}

impl View {
    fn of(memory: &Memory, of: Lies) -> Result<Self> {
        let capacity = checked_capacity(memory.head.capacity as usize, MAX_CAPACITY)?;
        let places = memory.array::<Place>(kind::MEMBERS, None)?;
        if !capacity.is_power_of_two() || !(1..=MAX_PARTICIPANT.into()).contains(&places.count()) {
            return Err(JoinError::Geometry { what: "a section has the wrong count" }.into());
        }
        let cells = memory.section(of.within, kind::CELLS, Some(cells(capacity, places.count())))?;
        Ok(Self { ends: memory.array(kind::MPMC_ENDS, Some(1))?, places, cells })
    }

    /// The ring, as member `number` sees it.
    ///
    /// # Safety
    /// The view is one of cells of `T`s in this memory, which outlives the ring. The member has place `number`, or the ring is used
    /// to recover others alone.
    unsafe fn ring<T: NoUninit + AnyBitPattern>(&self, memory: &Memory, number: u32) -> TypedRing<T> {
        // SAFETY: counts checked in `of`; a place is given away only after what its last member left was recovered.
        unsafe { TypedRing::new(memory.elements(self.cells), memory.head.capacity, self.ends, number as u16) }
    }

    /// Takes a free place. If there is none, first has those of dead members recovered.
    fn join(&self, own: Process, recover: impl FnOnce()) -> Result<u32> {
        let join = || (1..=self.places.count()).find(|number| self.places.at(number - 1).join(own));
        let again = || {
            recover();
            join()
        };
        let what = "there are as many members as there may be, and none is dead";
        Ok(join().or_else(again).ok_or(JoinError::Taken { what })?)
    }

    /// Gives back what dead members had in hand, each by `recover`, which answers how many elements that was.
    fn recover_dead(&self, own: Process, recover: &dyn Fn(u16) -> u32) -> Recovered {
        let mut recovered = Recovered::default();
        for number in 1..=self.places.count() {
            let place = self.places.at(number - 1);
            if let Some(freed) = place.recover(own, Process::is_dead, || recover(number as u16)) {
                recovered.members += 1;
                recovered.elements += freed;
            }
        }
        recovered
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
    ring: TypedRing<T>,
    guard: ForkGuard,
    view: View,
    number: u32,
    own: Process,
    _memory: Arc<Memory>,
}

impl<T: NoUninit + AnyBitPattern> MpmcMember<T> {
    fn join(memory: &Arc<Memory>) -> Result<Self> {
        if memory.region.forked() {
            return Err(Error::Forked);
        }
        let (own, view) = (Process::own()?, View::of(memory, Cell::<T>::LIES)?);
        let number = view.join(own, || {
            // SAFETY: `memory` outlives it; it recovers others alone.
            let ring = unsafe { view.ring::<T>(memory, 1) };
            view.recover_dead(own, &|dead| ring.recover(dead));
        })?;
        // SAFETY: the member keeps the memory, and has the place.
        let ring = unsafe { view.ring(memory, number) };
        Ok(Self { ring, guard: memory.region.guard(), view, number, own, _memory: memory.clone() })
    }

    #[inline(always)]
    fn check(&self) -> Result<()> {
        if self.guard.forked() { Err(Error::Forked) } else { Ok(()) }
    }

    /// Appends a value.
    ///
    /// # Errors
    /// [`Error::Full`]: there are `capacity` elements; or more threads than four of each member were killed or
    /// stopped in the midst of a push or pop. [`Error::Forked`].
    #[inline]
    pub fn push(&self, value: T) -> Result<()> {
        self.check()?;
        self.ring.push(value).map_err(|Full| Error::Full)?;
        // The next pushes need not wait for the line, which a consumer had last (measured in turns, one producer and one
        // consumer: 19 to 26 million elements a second).
        prefetch_write(self.ring.cell_ahead(AHEAD));
        Ok(())
    }

    /// Takes the oldest value, if there is one.
    ///
    /// # Errors
    /// [`Error::Forked`].
    #[inline]
    pub fn pop(&self) -> Result<Option<T>> {
        self.check()?;
        Ok(self.ring.pop())
    }

    /// About how many elements there are: a hint, old as soon as it is read; 0 in a forked child.
    pub fn len(&self) -> usize {
        if self.guard.forked() { 0 } else { self.ring.len() as usize }
    }

    /// Whether the ring was empty at some moment during the call; true in a forked child.
    pub fn is_empty(&self) -> bool {
        self.guard.forked() || self.ring.is_empty()
    }

    /// How many elements fit.
    pub fn capacity(&self) -> usize {
        self.ring.capacity() as usize
    }

    /// The number of this member, from 1. Numbers are used again.
    pub fn number(&self) -> u32 {
        self.number
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
        self.check()?;
        Ok(self.view.recover_dead(self.own, &|dead| self.ring.recover(dead)))
    }
}

impl<T> Drop for MpmcMember<T> {
    fn drop(&mut self) {
        // In a forked child nothing is mapped here, and the place is the parent's.
        if !self.guard.forked() {
            self.view.places.at(self.number - 1).leave(self.own);
        }
    }
}
