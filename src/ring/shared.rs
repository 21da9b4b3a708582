//! A memory file that holds one ring: its sections, how it is made, and what is checked when it is opened.
//!
//! | section | id | what |
//! |---|---|---|
//! | 32 | 0 | [`Head`]: which ring of which elements |
//! | 33 | 0 | of a SPSC ring: the consumer's position, and who has which end |
//! | 34 | 0 | of a SPSC ring: entries |
//! | 35 | 0 | of a MPMC ring: both ends |
//! | 36 | 0 | of a MPMC ring: who its members are |
//! | 37 | 0 | of a MPMC ring: cells |
//!
//! All processes map the file for reading and writing. The header page and the head are read once, when the file is
//! opened, and checked; counts that bound an index stay in private memory from then on.

mod ends;
mod mpmc;
mod place;
mod spsc;
#[cfg(all(test, not(busway_loom)))]
mod tests;
pub mod untyped;

pub use ends::{Consumer, Producer};
pub use mpmc::{Mpmc, MpmcMember, Recovered};
pub use place::Place;
pub use spsc::{CLOSED, Claims, Ends, Spsc};

use crate::error::{Error, JoinError, Result};
use crate::region::{Access, Array, Memfd, Plan, Region, Section, Table, VERSION, namespaces};
use crate::sync::PeerCell;
use bytemuck::{Pod, Zeroable};
use core::alloc::Layout;
use core::ptr::NonNull;
use std::os::fd::OwnedFd;

/// Kinds of sections.
pub mod kind {
    pub const HEAD: u32 = 32;
    pub const SPSC_ENDS: u32 = 33;
    pub const ENTRIES: u32 = 34;
    pub const MPMC_ENDS: u32 = 35;
    pub const MEMBERS: u32 = 36;
    pub const CELLS: u32 = 37;
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Head {
    /// The kind of the section with its elements.
    pub ring: u32,
    /// How many elements fit.
    pub capacity: u32,
    /// Of one element, in bytes.
    pub size: u32,
    pub align: u32,
    /// Of the process that made it.
    pub namespaces: [u64; 2],
    pub zero: [u64; 4],
}

impl Head {
    fn new(ring: u32, capacity: u32, element: Layout) -> Result<Self> {
        let too_large = |_| JoinError::Geometry { what: "a ring of elements of 4 GiB and more" };
        let size = element.size().try_into().map_err(too_large)?;
        let align = element.align() as u32;
        Ok(Self { ring, capacity, size, align, namespaces: namespaces()?, zero: [0; 4] })
    }
}

/// The memory of one ring, mapped, its table and head checked.
#[derive(Debug)]
struct Memory {
    region: Region,
    table: Table,
    head: Head,
}

impl Memory {
    /// Adds the head to a plan.
    fn plan() -> Plan {
        let mut plan = Plan::new();
        plan.add(kind::HEAD, 0, 1, size_of::<Head>(), 64);
        plan
    }

    /// A new file.
    fn create(plan: Plan, head: Head) -> Result<(Memfd, Self)> {
        let table = plan.finish()?;
        let file = Memfd::create(table.len())?;
        let region = file.map(Access::ReadWrite)?;
        region.write_header(&table.to_page());
        let memory = Self { region, table, head };
        let place = memory.array::<PeerCell<Head>>(kind::HEAD, Some(1))?;
        // SAFETY: nobody else has the file yet.
        unsafe { place.write(head) };
        Ok((file, memory))
    }

    /// Memory of this process alone, which under loom still has to be made into words.
    fn heap(plan: Plan, head: Head) -> Result<Self> {
        let table = plan.finish()?;
        Ok(Self { region: Region::heap_pair(table.len()).0, table, head })
    }

    /// A file that another process made, of a ring of this kind and of such elements.
    fn open(fd: OwnedFd, ring: u32, element: Layout) -> Result<(Memfd, Self)> {
        let file = Memfd::received(fd)?;
        let region = file.map(Access::ReadWrite)?;
        let page = region.copy_header();
        let theirs = Table::version(&page)?;
        if theirs != VERSION {
            return Err(Error::VersionMismatch { ours: VERSION, theirs });
        }
        let table = Table::from_page(&page, file.len() as u64)?;
        let mut memory = Self { region, table, head: Head::zeroed() };
        let head = memory.array::<PeerCell<Head>>(kind::HEAD, Some(1))?.read();
        let want = Head::new(ring, head.capacity, element)?;
        if head.ring != want.ring {
            return Err(JoinError::Geometry { what: "a ring of another kind" }.into());
        }
        if head.size != want.size {
            return Err(Error::WrongSize { len: head.size as usize, want: want.size as usize });
        }
        if head.align != want.align {
            return Err(JoinError::Geometry { what: "a ring of elements of another alignment" }.into());
        }
        if head.namespaces != want.namespaces {
            let what = "a ring is used within one pid namespace and one time namespace";
            return Err(JoinError::Identity { what }.into());
        }
        memory.head = head;
        Ok((file, memory))
    }

    /// The one section of this kind. Without a `count` it may have any.
    fn array<E>(&self, kind: u32, count: Option<u32>) -> Result<Array<E>> {
        let section = self.section(Layout::new::<E>(), kind, count)?;
        // SAFETY: found in this memory, whose table was validated; all sections hold words and cells, which bear any bits, and
        // writes of others. Who uses the array keeps the memory.
        Ok(unsafe { Array::new(&self.region, section) })
    }

    /// Where it is.
    fn section(&self, element: Layout, kind: u32, count: Option<u32>) -> Result<Section> {
        let section = self.table.find_of(element, kind, 0)?;
        if section.count != count.unwrap_or(section.count) {
            return Err(JoinError::Geometry { what: "a section has the wrong count" }.into());
        }
        Ok(section)
    }

    /// Where a section begins, which was found in this memory.
    fn start(&self, section: Section) -> NonNull<u8> {
        // SAFETY: inside the region by the validation of the table.
        unsafe { self.region.base().add(section.offset as usize) }
    }

    /// Makes zeroed memory into words and cells, which under loom it is not by itself.
    #[cfg(busway_loom)]
    fn init<E>(&self, kind: u32, make: impl Fn(u32) -> E) -> Result<()> {
        let array = self.array::<E>(kind, None)?;
        for index in 0..array.count() {
            // SAFETY: in bounds, aligned, and not shared yet.
            unsafe { array.base().add(index as usize).write(make(index)) }
        }
        Ok(())
    }
}

/// Before anything is allocated for it.
fn check_alignment(of: Layout) -> Result<()> {
    let what = "elements that are aligned to more than 64 bytes";
    if of.align() <= 64 { Ok(()) } else { Err(JoinError::Geometry { what }.into()) }
}

/// The capacity a user asked for, up to `max`.
fn checked_capacity(capacity: usize, max: u32) -> Result<u32> {
    match u32::try_from(capacity) {
        Ok(capacity) if (1..=max).contains(&capacity) => Ok(capacity),
        _ => Err(JoinError::Geometry { what: "a ring of no or too many elements" }.into()),
    }
}
