//! Rings of elements whose layout is known when they are made.
//!
//! In Rust the type of the elements is known when the program is compiled. What they take in a ring is a whole number of words,
//! so there is one Rust ring for each number, behind a trait.

use super::{BUSWAY_RING_MAX_ELEMENT, busway_recovered};
use crate::error::Failure;
use busway::Error;
use busway::ring::{Consumer, Mpmc, MpmcMember, Producer, Spsc};
use core::alloc::Layout;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A [`Spsc`] of elements of any layout.
pub(super) trait OneToOne: Send + Sync {
    fn producer(&self, size: usize) -> busway::Result<Box<dyn Pushes>>;
    fn consumer(&self, size: usize) -> busway::Result<Box<dyn Pops>>;
    fn capacity(&self) -> usize;
    fn fd(&self) -> BorrowedFd<'_>;
}

/// A [`Producer`] of elements of any layout.
pub(crate) trait Pushes {
    /// Appends as many of the elements as there is room for.
    ///
    /// # Safety
    /// There are so many.
    unsafe fn push(&mut self, first: *const u8, count: usize) -> busway::Result<usize>;
    fn is_abandoned(&self) -> bool;
    /// Bytes of an element, and how many elements fit.
    fn shape(&self) -> (usize, usize);
}

/// A [`Consumer`] of elements of any layout.
pub(crate) trait Pops {
    /// Takes as many elements as there are, up to `count`.
    ///
    /// # Safety
    /// There is room for so many.
    unsafe fn pop(&mut self, first: *mut u8, count: usize) -> busway::Result<usize>;
    fn is_empty(&self) -> bool;
    fn is_abandoned(&self) -> bool;
    fn shape(&self) -> (usize, usize);
}

/// A [`Mpmc`] of elements of any layout.
pub(super) trait ManyToMany: Send + Sync {
    fn join(&self, size: usize) -> busway::Result<Box<dyn Belongs>>;
    fn capacity(&self) -> usize;
    fn fd(&self) -> BorrowedFd<'_>;
}

/// A [`MpmcMember`] of elements of any layout.
pub(super) trait Belongs: Send + Sync {
    /// # Safety
    /// There is an element.
    unsafe fn push(&self, from: *const u8) -> busway::Result<()>;
    /// Whether there was one.
    ///
    /// # Safety
    /// There is room for an element.
    unsafe fn pop(&self, to: *mut u8) -> busway::Result<bool>;
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool;
    fn number(&self) -> u32;
    fn recover_dead(&self) -> busway::Result<busway_recovered>;
}

/// An end of a ring, and how much of each `T` is an element.
struct Measured<E> {
    size: usize,
    end: E,
}

/// Reads an element of the caller, aligned or not.
///
/// # Safety
/// There is one, of `size` bytes, which an `N` has room for.
#[inline(always)]
unsafe fn load<const N: usize>(from: *const u8, size: usize) -> [u64; N] {
    let mut words = [0; N];
    let to = words.as_mut_ptr().cast::<u8>();
    // SAFETY: by this function's contract. Of a length that the compiler knows, it is a few moves.
    unsafe {
        if size == size_of_val(&words) {
            to.copy_from_nonoverlapping(from, size_of_val(&words));
        } else {
            to.copy_from_nonoverlapping(from, size);
        }
    }
    words
}

/// Writes an element to the caller's memory, aligned or not.
///
/// # Safety
/// There is room for one, of `size` bytes, which are no more than those of an `N`.
#[inline(always)]
unsafe fn store<const N: usize>(to: *mut u8, size: usize, words: &[u64; N]) {
    let from = words.as_ptr().cast::<u8>();
    // SAFETY: as in `load`.
    unsafe {
        if size == size_of_val(words) {
            to.copy_from_nonoverlapping(from, size_of_val(words));
        } else {
            to.copy_from_nonoverlapping(from, size);
        }
    }
}

/// Implements the traits for elements of so many words.
macro_rules! words {
    (spsc: $($n:literal)*) => { $(
        impl OneToOne for Spsc<[u64; $n]> {
            fn producer(&self, size: usize) -> busway::Result<Box<dyn Pushes>> {
                Ok(Box::new(Measured { size, end: Spsc::producer(self)? }))
            }

            fn consumer(&self, size: usize) -> busway::Result<Box<dyn Pops>> {
                Ok(Box::new(Measured { size, end: Spsc::consumer(self)? }))
            }

            fn capacity(&self) -> usize {
                Spsc::capacity(self)
            }

            fn fd(&self) -> BorrowedFd<'_> {
                self.as_fd()
            }
        }

        impl Pushes for Measured<Producer<[u64; $n]>> {
            unsafe fn push(&mut self, first: *const u8, count: usize) -> busway::Result<usize> {
                let size = self.size;
                // SAFETY: by this function's contract; it asks for those below `count`.
                self.end.push_each(count, |i| unsafe { load(first.add(i * size), size) })
            }

            fn is_abandoned(&self) -> bool {
                self.end.is_abandoned()
            }

            fn shape(&self) -> (usize, usize) {
                (self.size, self.end.capacity())
            }
        }

        impl Pops for Measured<Consumer<[u64; $n]>> {
            unsafe fn pop(&mut self, first: *mut u8, count: usize) -> busway::Result<usize> {
                for i in 0..count {
                    let Some(words) = self.end.pop()? else { return Ok(i) };
                    // SAFETY: by this function's contract, `i` is below `count`.
                    unsafe { store(first.add(i * self.size), self.size, &words) };
                }
                Ok(count)
            }

            fn is_empty(&self) -> bool {
                self.end.is_empty()
            }

            fn is_abandoned(&self) -> bool {
                self.end.is_abandoned()
            }

            fn shape(&self) -> (usize, usize) {
                (self.size, self.end.capacity())
            }
        }
    )*

    /// The ring of elements of this layout.
    pub(super) fn spsc(element: Layout, of: Origin) -> Result<Box<dyn OneToOne>, Failure> {
        Ok(match element.size().div_ceil(8) {
            $($n => match of {
                Origin::New { capacity, .. } => Box::new(Spsc::<[u64; $n]>::create_of(element, capacity)?),
                Origin::File(file) => Box::new(Spsc::<[u64; $n]>::open_of(element, file)?),
            },)*
            _ => unreachable!("checked before"),
        })
    } };

    (mpmc: $($n:literal)*) => { $(
        impl ManyToMany for Mpmc<[u64; $n]> {
            fn join(&self, size: usize) -> busway::Result<Box<dyn Belongs>> {
                Ok(Box::new(Measured { size, end: Mpmc::join(self)? }))
            }

            fn capacity(&self) -> usize {
                Mpmc::capacity(self)
            }

            fn fd(&self) -> BorrowedFd<'_> {
                self.as_fd()
            }
        }

        impl Belongs for Measured<MpmcMember<[u64; $n]>> {
            unsafe fn push(&self, from: *const u8) -> busway::Result<()> {
                // SAFETY: by this function's contract.
                self.end.push(unsafe { load(from, self.size) })
            }

            unsafe fn pop(&self, to: *mut u8) -> busway::Result<bool> {
                let Some(words) = self.end.pop()? else { return Ok(false) };
                // SAFETY: by this function's contract.
                unsafe { store(to, self.size, &words) };
                Ok(true)
            }

            fn len(&self) -> usize {
                self.end.len()
            }

            fn is_empty(&self) -> bool {
                self.end.is_empty()
            }

            fn number(&self) -> u32 {
                self.end.number()
            }

            fn recover_dead(&self) -> busway::Result<busway_recovered> {
                let found = self.end.recover_dead()?;
                Ok(busway_recovered { members: found.members, elements: found.elements })
            }
        }
    )*

    /// The ring of elements of this layout. Their cells grow by 32 bytes at a time, of which the first has room for two words.
    pub(super) fn mpmc(element: Layout, of: Origin) -> Result<Box<dyn ManyToMany>, Failure> {
        let words = element.size().div_ceil(8);
        $(if words <= $n {
            return Ok(match of {
                Origin::New { capacity, members } => Box::new(Mpmc::<[u64; $n]>::create_of(element, capacity, members)?),
                Origin::File(file) => Box::new(Mpmc::<[u64; $n]>::open_of(element, file)?),
            });
        })*
        unreachable!("checked before")
    } };
}

words!(spsc: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
words!(mpmc: 2 6 10 14 16);

/// Where a ring comes from.
pub(super) enum Origin {
    New { capacity: usize, members: usize },
    File(OwnedFd),
}

impl Origin {
    /// A file of the caller, who keeps his descriptor.
    pub(super) fn file(fd: i32) -> Result<Self, Failure> {
        if fd < 0 {
            return Err(Failure::Invalid("a descriptor below 0"));
        }
        // SAFETY: not -1. One that is not open is what the system says it is.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, 3)
            .map_err(|errno| Error::Io { doing: "duplicate the descriptor of a ring", source: errno.into() })?;
        Ok(Self::File(copy))
    }
}

/// What elements are. Those of a larger alignment would lie elsewhere in their entries.
pub(super) fn element(size: usize, align: usize) -> Result<Layout, Failure> {
    let element = Layout::from_size_align(size, align).ok().filter(|_| size > 0 && size.is_multiple_of(align));
    let element = element.ok_or(Failure::Invalid("no type has such a size and alignment"))?;
    if size > BUSWAY_RING_MAX_ELEMENT || align > 8 {
        return Err(Error::Unsupported { what: "elements of more than 128 bytes, or aligned to more than 8" }.into());
    }
    Ok(element)
}
