//! Memory files, their seals, and mappings.

use super::layout::HEADER_SIZE;
use crate::error::{Error, JoinError, Result};
use crate::sync::ForkGuard;
use core::mem;
use core::ptr::NonNull;
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create,
};
use rustix::mm::{Advice, madvise};
use std::alloc;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// A memory file with its pages allocated: the memory of one region before it is mapped.
#[derive(Debug)]
pub struct Memfd {
    fd: OwnedFd,
    len: usize,
}

const FIXED_SIZE: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);
const FINAL: SealFlags = FIXED_SIZE.union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

impl Memfd {
    /// Creates a file of `len` zero bytes whose size can no longer change.
    ///
    /// The pages are allocated here, so that a full machine is an error now and not a SIGBUS later.
    pub fn create(len: usize) -> Result<Self> {
        let fd = memfd_create(c"busway", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
            .map_err(Error::io("create a memory file"))?;
        fallocate(&fd, FallocateFlags::empty(), 0, len as u64).map_err(Error::io("allocate shared memory"))?;
        // Before anybody else sees it: a peer that truncates it later would turn our reads into SIGBUS.
        fcntl_add_seals(&fd, FIXED_SIZE).map_err(Error::io("seal the size of a memory file"))?;
        Ok(Self { fd, len })
    }

    /// Takes a file that another process made. Its size is what `fstat` says and cannot change, which is checked.
    pub fn received(fd: OwnedFd) -> Result<Self> {
        let seals = match fcntl_get_seals(&fd) {
            Err(rustix::io::Errno::INVAL) => Err(JoinError::Seals { what: "not a memory file" }.into()),
            seals => seals.map_err(Error::io("read the seals of a region")),
        }?;
        if !seals.contains(FIXED_SIZE) {
            return Err(JoinError::Seals { what: "its size can change" }.into());
        }
        let len = fstat(&fd).map_err(Error::io("read the size of a region"))?.st_size as usize;
        if len < HEADER_SIZE {
            return Err(JoinError::Geometry { what: "shorter than a header" }.into());
        }
        Ok(Self { fd, len })
    }

    /// Length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Forbids every further writable mapping, and every further seal. Mappings that exist stay as they are.
    pub fn seal_writers(&self) -> Result<()> {
        fcntl_add_seals(&self.fd, FINAL).map_err(Error::io("seal a region against writers"))
    }

    /// Checks that the file carries exactly the final seals and still has its size.
    pub fn check_sealed(&self) -> Result<()> {
        let seals = fcntl_get_seals(&self.fd).map_err(Error::io("read the seals of a region"))?;
        if seals != FINAL {
            return Err(JoinError::Seals { what: "seals other than the agreed ones" }.into());
        }
        if fstat(&self.fd).map_err(Error::io("read the size of a region"))?.st_size as usize != self.len {
            return Err(JoinError::Seals { what: "its size changed" }.into());
        }
        Ok(())
    }

    /// Maps the whole file.
    pub fn map(&self, access: Access) -> Result<Region> {
        Region::map(&self.fd, self.len, access)
    }
}

impl From<Memfd> for OwnedFd {
    fn from(file: Memfd) -> Self {
        file.fd
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// How a region is mapped: its one writer may write, its reader may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For the region's one writer.
    ReadWrite,
    /// For everybody else.
    ReadOnly,
}

/// A mapped region. Raw memory: the layers above know what lies where and who may write it.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
    memory: Memory,
    guard: ForkGuard,
}

#[derive(Debug)]
enum Memory {
    /// Unmaps when dropped.
    Mapped(#[allow(dead_code, reason = "unmaps on drop")] MmapRaw),
    Gone,
    Heap(#[allow(dead_code, reason = "frees on drop")] Arc<Heap>),
}

// SAFETY: a region is an address range and its ownership; every access through it carries its own justification.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Two views of one zeroed heap block, for pairs inside one process: what Miri and ThreadSanitizer can follow.
    pub fn heap_pair(len: usize) -> (Region, Region) {
        let heap = Arc::new(Heap::zeroed(len));
        let guard = ForkGuard::none();
        let view = |heap: &Arc<Heap>| Region { base: heap.base, len, memory: Memory::Heap(heap.clone()), guard };
        (view(&heap), view(&heap))
    }

    /// A fresh mapping of the first `len` bytes of a file.
    pub(super) fn map(file: &impl AsRawFd, len: usize, access: Access) -> Result<Self> {
        let mut options = MmapOptions::new();
        options.len(len);
        let map = match access {
            Access::ReadWrite => options.map_raw(file),
            Access::ReadOnly => options.map_raw_read_only(file),
        }
        .map_err(Error::std_io("map a region"))?;
        let base = NonNull::new(map.as_mut_ptr()).ok_or(JoinError::Geometry { what: "mapped at null" })?;
        let guard = ForkGuard::new().map_err(Error::io("map the fork guard"))?;
        let region = Self { base, len, memory: Memory::Mapped(map), guard };
        region.advise(Advice::LinuxDontFork).map_err(Error::io("keep a region out of forked children"))?;
        // Only a nicety: a core dump stays small and a crash is noticed sooner.
        let _ = region.advise(Advice::LinuxDontDump);
        if access == Access::ReadOnly {
            region.populate()?;
        }
        Ok(region)
    }

    /// Has all pages there: one that a peer took away and that cannot be had again is an error here, and no SIGBUS later.
    pub fn populate(&self) -> Result<()> {
        match self.advise(Advice::LinuxPopulateRead) {
            // Linux before 5.14 has no such advice; there the size seal alone keeps reads from failing.
            Ok(()) | Err(rustix::io::Errno::INVAL) => Ok(()),
            Err(e) => Err(Error::io("read a region for the first time")(e)),
        }
    }

    fn advise(&self, advice: Advice) -> rustix::io::Result<()> {
        // SAFETY: the range is our own mapping, and none of the advices here changes what it holds.
        unsafe { madvise(self.base.as_ptr().cast(), self.len, advice) }
    }

    /// Whether this process was forked from the one that mapped the region: here it is not mapped.
    #[inline(always)]
    pub fn forked(&self) -> bool {
        self.guard.forked()
    }

    /// Notices in which process this is, for those that look often.
    pub fn guard(&self) -> ForkGuard {
        self.guard
    }

    /// Length in bytes; never 0.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Address of the first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Writes the header page. Only the region's writer, before anybody reads it.
    pub fn write_header(&self, page: &[u8; HEADER_SIZE]) {
        assert!(self.len >= HEADER_SIZE);
        // SAFETY: in bounds, and not shared yet by this function's contract.
        unsafe { self.base.as_ptr().copy_from_nonoverlapping(page.as_ptr(), HEADER_SIZE) }
    }

    /// Copies the header page to private memory.
    pub fn copy_header(&self) -> [u8; HEADER_SIZE] {
        assert!(self.len >= HEADER_SIZE);
        let mut page = [0; HEADER_SIZE];
        // SAFETY: in bounds; the host wrote it before it sent the descriptor.
        unsafe { self.base.as_ptr().copy_to_nonoverlapping(page.as_mut_ptr(), HEADER_SIZE) }
        page
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // What a forked child has at this address by now is its own, and not to be unmapped.
        if self.forked()
            && let Memory::Mapped(map) = mem::replace(&mut self.memory, Memory::Gone)
        {
            mem::forget(map);
        }
    }
}

#[derive(Debug)]
struct Heap {
    base: NonNull<u8>,
    layout: alloc::Layout,
}

// SAFETY: an owned block of plain bytes.
unsafe impl Send for Heap {}
// SAFETY: as above.
unsafe impl Sync for Heap {}

impl Heap {
    fn zeroed(len: usize) -> Self {
        let layout = alloc::Layout::from_size_align(len.max(1), HEADER_SIZE).expect("a length checked by the plan");
        // SAFETY: the size is not zero.
        let base = unsafe { alloc::alloc_zeroed(layout) };
        Self { base: NonNull::new(base).unwrap_or_else(|| alloc::handle_alloc_error(layout)), layout }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, freed once.
        unsafe { alloc::dealloc(self.base.as_ptr(), self.layout) }
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_region_refuses_writers() {
        let file = Memfd::create(8192).unwrap();
        let ours = file.map(Access::ReadWrite).unwrap();
        file.seal_writers().unwrap();
        file.check_sealed().unwrap();
        assert!(file.map(Access::ReadWrite).is_err(), "a second writer");
        let theirs = file.map(Access::ReadOnly).unwrap();
        ours.write_header(&[7; HEADER_SIZE]);
        assert_eq!(theirs.copy_header(), [7; HEADER_SIZE]);
    }

    #[test]
    fn a_file_that_can_shrink_is_refused() {
        let fd = memfd_create(c"test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, 8192).unwrap();
        assert!(matches!(Memfd::received(fd), Err(Error::Join(JoinError::Seals { .. }))));
    }

    #[test]
    fn seals_added_early_are_noticed() {
        let file = Memfd::create(8192).unwrap();
        fcntl_add_seals(&file, SealFlags::SEAL).unwrap();
        assert!(file.seal_writers().is_err());
    }
}
