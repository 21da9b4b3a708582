//! Rings of plain values.

use crate::error::{Failure, busway_status};
use crate::handle::{self, Held};
use crate::object::{At, object};
use crate::{guard, out};
use busway::Error;
use busway::ring::untyped::{Consumer, Mpmc, MpmcMember, Producer, Spsc};
use core::alloc::Layout;
use core::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A ring of plain values with one producer and one consumer, in any two processes or in one: a memory file. Whoever has the file
/// opens it; among all of them one takes the producer, and one the consumer. All processes of a ring trust each other.
pub struct busway_spsc;

/// A ring of plain values with any number of producers and consumers, in any processes: a memory file. Whoever has the file opens it
/// and joins. All processes of a ring trust each other. A process may be killed at any instruction: nobody waits for it.
pub struct busway_mpmc;

/// A process's membership of a busway_mpmc, for all its threads.
pub struct busway_mpmc_member;

/// The end into which values are pushed. It lies in the caller's memory, is zeroed before its first use, and is not copied or
/// moved; one thread uses it at a time. It outlives the handle of its ring.
#[repr(C)]
pub struct busway_producer {
    /// Bytes of an element.
    pub element_size: usize,
    /// How many elements fit at least.
    pub capacity: usize,
    /// Of the library.
    pub reserved: [u64; 8],
}

/// The end from which values are popped; as busway_producer.
#[repr(C)]
pub struct busway_consumer {
    /// Bytes of an element.
    pub element_size: usize,
    /// How many elements fit at least.
    pub capacity: usize,
    /// Of the library.
    pub reserved: [u64; 8],
}

object!(busway_producer holds Box<Producer>, tag 0x9051,
    spent: "a producer that was never taken, was released, or copied", |this, end| {
    (this.element_size, this.capacity) = end.map_or((0, 0), |end| (end.element_size(), end.capacity()));
});
object!(busway_consumer holds Box<Consumer>, tag 0xc095,
    spent: "a consumer that was never taken, was released, or copied", |this, end| {
    (this.element_size, this.capacity) = end.map_or((0, 0), |end| (end.element_size(), end.capacity()));
});

impl Held for Spsc {
    const KIND: u64 = 8;
    const NOT: &'static str = "no ring of one producer and one consumer, or one that was freed";
}

impl Held for Mpmc {
    const KIND: u64 = 9;
    const NOT: &'static str = "no ring of many producers and consumers, or one that was freed";
}

impl Held for MpmcMember {
    const KIND: u64 = 10;
    const NOT: &'static str = "no member of a ring, or one that was freed";
}

/// What elements are.
fn element(size: usize, align: usize) -> Result<Layout, Failure> {
    let element = Layout::from_size_align(size, align).ok().filter(|_| size > 0 && size.is_multiple_of(align));
    element.ok_or(Failure::Invalid("no type has such a size and alignment"))
}

/// A file of the caller, who keeps his descriptor.
fn file(fd: i32) -> Result<OwnedFd, Failure> {
    if fd < 0 {
        return Err(Failure::Invalid("a descriptor below 0"));
    }
    // SAFETY: not -1. One that is not open is what the system says it is.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let doing = "duplicate the descriptor of a ring";
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|errno| Error::Io { doing, source: errno.into() })?)
}

/// Makes a ring in which at least `capacity` elements fit, up to 2^30; each has `element_size` bytes, aligned to `element_align`: sizeof and
/// _Alignof of a type. Its memory is allocated here: some 2 to 3 times as many elements, and with each 8 bytes, or its alignment if that is
/// more.
/// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_GEOMETRY for the capacity, for an alignment above 64, for elements of 4 GiB and
/// more and for rings of 64 TiB and more; BUSWAY_INVALID, also if no type has such a size and alignment; BUSWAY_IO, also if there is not so
/// much memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_spsc_create(
    element_size: usize,
    element_align: usize,
    capacity: usize,
    ring: *mut *mut busway_spsc,
) -> busway_status {
    guard(|| {
        // SAFETY: the caller's pointers are as the header says, here and in all functions below.
        let (to, element) = (unsafe { out(ring)? }, element(element_size, element_align)?);
        to.write(handle::insert(Spsc::create(element, capacity)?)?);
        Ok(())
    })
}

/// Opens a ring of the same elements that another process made, in C or in another language, and whose file `fd` is. The descriptor stays
/// the caller's.
/// Threads: any. Errors: BUSWAY_WRONG_SIZE for elements of another size; BUSWAY_JOIN_FAILED with BUSWAY_JOIN_SEALS, BUSWAY_JOIN_BAD_MAGIC or
/// BUSWAY_JOIN_GEOMETRY if it is no such ring, with BUSWAY_JOIN_IDENTITY if it was made in another pid or time namespace;
/// BUSWAY_VERSION_MISMATCH; BUSWAY_INVALID; BUSWAY_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_spsc_open(
    fd: i32,
    element_size: usize,
    element_align: usize,
    ring: *mut *mut busway_spsc,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, element) = (unsafe { out(ring)? }, element(element_size, element_align)?);
        to.write(handle::insert(Spsc::open(element, file(fd)?)?)?);
        Ok(())
    })
}

/// Its file, to be handed over: as a descriptor that a child inherits (dup2), or over a Unix socket. It is closed on exec, and when
/// the ring is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_spsc_fd(ring: *mut busway_spsc, fd: *mut i32) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(fd)? };
        to.write(handle::with(ring, |this: &Spsc| Ok(this.as_fd().as_raw_fd()))?);
        Ok(())
    })
}

/// How many elements fit at least.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_spsc_capacity(ring: *mut busway_spsc, capacity: *mut usize) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(capacity)? };
        to.write(handle::with(ring, |this: &Spsc| Ok(this.capacity()))?);
        Ok(())
    })
}

/// Takes the one producer of a ring.
/// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_TAKEN if a process ever took it; BUSWAY_FORKED; BUSWAY_BUSY if `producer` holds
/// something; BUSWAY_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_spsc_producer(ring: *mut busway_spsc, producer: *mut busway_producer) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { At::new(producer)?.vacant()? };
        to.put(0, handle::with(ring, |this: &Spsc| Ok(Box::new(this.producer()?)))?);
        Ok(())
    })
}

/// Takes the one consumer of a ring.
/// Threads, errors: as busway_spsc_producer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_spsc_consumer(ring: *mut busway_spsc, consumer: *mut busway_consumer) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { At::new(consumer)?.vacant()? };
        to.put(0, handle::with(ring, |this: &Spsc| Ok(Box::new(this.consumer()?)))?);
        Ok(())
    })
}

/// Frees a ring; its ends in this process go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_spsc_free(ring: *mut busway_spsc) -> busway_status {
    guard(|| handle::free::<Spsc, _>(ring))
}

/// Whether there can be so many elements of this size at an address.
#[inline(always)]
fn check_elements(first: *const c_void, size: usize, count: usize) -> Result<(), Failure> {
    if count > 0 && (first.is_null() || count > isize::MAX as usize / size) {
        return Err(Failure::Invalid("elements at NULL, or more than memory has"));
    }
    Ok(())
}

/// Appends the element at `value`, which the consumer sees at once. Never blocks.
/// Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_FULL; BUSWAY_POISONED if the other process wrote what no consumer writes;
/// BUSWAY_STALE_HANDLE; BUSWAY_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_producer_push(producer: *mut busway_producer, value: *const c_void) -> busway_status {
    // SAFETY: as above.
    guard(|| match unsafe { push(producer, value, 1)? } {
        0 => Err(Error::Full.into()),
        _ => Ok(()),
    })
}

/// Appends the first of `count` elements, as many as there is room for, in one go: cheaper than one by one, and the consumer sees all or
/// none. `pushed` is how many. BUSWAY_FULL if there is room for none.
/// Fork, errors: as busway_producer_push.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_producer_push_many(
    producer: *mut busway_producer,
    values: *const c_void,
    count: usize,
    pushed: *mut usize,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(pushed)?.write(0) };
        // SAFETY: as above.
        *to = unsafe { push(producer, values, count)? };
        if *to == 0 && count > 0 { Err(Error::Full.into()) } else { Ok(()) }
    })
}

/// # Safety
/// As the functions of the header.
#[inline(always)]
unsafe fn push(producer: *mut busway_producer, first: *const c_void, count: usize) -> Result<usize, Failure> {
    // SAFETY: by this function's contract; the elements are checked before.
    unsafe {
        At::new(producer)?.change(|end| {
            check_elements(first, end.element_size(), count)?;
            Ok(end.push(first.cast(), count)?)
        })
    }
}

/// Whether the consumer was taken, and is gone: released, or its process died, which some microseconds of system calls find out. What is
/// pushed then, nobody pops.
/// Fork: false in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_producer_is_abandoned(
    producer: *const busway_producer,
    abandoned: *mut bool,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (end, to) = unsafe { (At::new(producer.cast_mut())?, out(abandoned)?) };
        to.write(end.peek(|end| Ok(end.is_abandoned()))?);
        Ok(())
    })
}

/// Gives a producer back, which the consumer can tell. Nobody can take it again.
/// Fork: does nothing else in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_producer_release(producer: *mut busway_producer) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe { At::new(producer)? }.take().map(drop))
}

/// Takes the oldest element to `value`. Never blocks.
/// Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_WOULD_BLOCK if there is none; BUSWAY_STALE_HANDLE; BUSWAY_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_consumer_pop(consumer: *mut busway_consumer, value: *mut c_void) -> busway_status {
    // SAFETY: as above.
    guard(|| match unsafe { pop(consumer, value, 1)? } {
        0 => Err(Failure::WouldBlock),
        _ => Ok(()),
    })
}

/// Takes the oldest elements to `values`, as many as there are and `max` at most. `popped` is how many.
/// Fork, errors: as busway_consumer_pop.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_consumer_pop_many(
    consumer: *mut busway_consumer,
    values: *mut c_void,
    max: usize,
    popped: *mut usize,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(popped)?.write(0) };
        // SAFETY: as above.
        *to = unsafe { pop(consumer, values, max)? };
        if *to == 0 && max > 0 { Err(Failure::WouldBlock) } else { Ok(()) }
    })
}

/// # Safety
/// As the functions of the header.
#[inline(always)]
unsafe fn pop(consumer: *mut busway_consumer, first: *mut c_void, max: usize) -> Result<usize, Failure> {
    // SAFETY: as in `push`.
    unsafe {
        At::new(consumer)?.change(|end| {
            check_elements(first, end.element_size(), max)?;
            Ok(end.pop(first.cast(), max)?)
        })
    }
}

/// Whether there is nothing to pop.
/// Fork: true in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_consumer_is_empty(consumer: *const busway_consumer, empty: *mut bool) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (end, to) = unsafe { (At::new(consumer.cast_mut())?, out(empty)?) };
        to.write(end.peek(|end| Ok(end.is_empty()))?);
        Ok(())
    })
}

/// Whether the producer was taken, and is gone: released, or its process died, which some microseconds of system calls find out. What it had
/// pushed is still there: pop until the ring is empty.
/// Fork: false in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_consumer_is_abandoned(
    consumer: *const busway_consumer,
    abandoned: *mut bool,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (end, to) = unsafe { (At::new(consumer.cast_mut())?, out(abandoned)?) };
        to.write(end.peek(|end| Ok(end.is_abandoned()))?);
        Ok(())
    })
}

/// Gives a consumer back, which the producer can tell. Nobody can take it again.
/// Fork: does nothing else in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_consumer_release(consumer: *mut busway_consumer) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe { At::new(consumer)? }.take().map(drop))
}

/// What dead members had in hand.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_recovered {
    /// Dead members, whose places are free again.
    pub members: u32,
    /// Elements that they had in hand, neither pushed nor returned from a pop yet. They are lost, their room is not.
    pub elements: u32,
}

/// Makes a ring in which `capacity` elements fit, rounded up to a power of two, 2^15 at most; up to `members` processes, 4095 at most, are
/// members at a time. Elements are as of busway_spsc_create. Its memory is allocated here: an element of up to 16 bytes takes 32.
/// Threads, errors: as busway_spsc_create.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_create(
    element_size: usize,
    element_align: usize,
    capacity: usize,
    members: usize,
    ring: *mut *mut busway_mpmc,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, element) = (unsafe { out(ring)? }, element(element_size, element_align)?);
        to.write(handle::insert(Mpmc::create(element, capacity, members)?)?);
        Ok(())
    })
}

/// As busway_spsc_open.
/// Threads, errors: as busway_spsc_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_open(
    fd: i32,
    element_size: usize,
    element_align: usize,
    ring: *mut *mut busway_mpmc,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (to, element) = (unsafe { out(ring)? }, element(element_size, element_align)?);
        to.write(handle::insert(Mpmc::open(element, file(fd)?)?)?);
        Ok(())
    })
}

/// As busway_spsc_fd.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_fd(ring: *mut busway_mpmc, fd: *mut i32) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(fd)? };
        to.write(handle::with(ring, |this: &Mpmc| Ok(this.as_fd().as_raw_fd()))?);
        Ok(())
    })
}

/// How many elements fit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_capacity(ring: *mut busway_mpmc, capacity: *mut usize) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(capacity)? };
        to.write(handle::with(ring, |this: &Mpmc| Ok(this.capacity()))?);
        Ok(())
    })
}

/// Joins the ring, in a place of this process's own. If all are taken, those of dead members are recovered first.
/// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_TAKEN if there are as many living members as there may be; BUSWAY_FORKED; BUSWAY_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_join(
    ring: *mut busway_mpmc,
    member: *mut *mut busway_mpmc_member,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(member)? };
        let member = handle::with(ring, |this: &Mpmc| Ok(this.join()?))?;
        to.write(handle::insert(member)?);
        Ok(())
    })
}

/// Frees a ring; its members in this process go on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_free(ring: *mut busway_mpmc) -> busway_status {
    guard(|| handle::free::<Mpmc, _>(ring))
}

/// Appends the element at `value`. Never blocks.
/// Threads: any, many at once. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_FULL, also if more threads than four of each member were
/// killed or stopped in the midst of it; BUSWAY_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_push(member: *mut busway_mpmc_member, value: *const c_void) -> busway_status {
    guard(|| {
        check_elements(value, 1, 1)?;
        // SAFETY: as above.
        handle::with(member, |member: &MpmcMember| unsafe { member.push(value.cast()) }.map_err(Failure::from))
    })
}

/// Takes the oldest element to `value`. Never blocks.
/// Threads: any, many at once. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_WOULD_BLOCK if there is none; BUSWAY_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_pop(member: *mut busway_mpmc_member, value: *mut c_void) -> busway_status {
    guard(|| {
        check_elements(value, 1, 1)?;
        handle::with(member, |member: &MpmcMember| {
            // SAFETY: as above.
            if unsafe { member.pop(value.cast())? } { Ok(()) } else { Err(Failure::WouldBlock) }
        })
    })
}

/// About how many elements there are: a hint, old as soon as it is read.
/// Threads: any, many at once. Fork: 0 in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_len(member: *mut busway_mpmc_member, len: *mut usize) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(len)? };
        to.write(handle::with(member, |member: &MpmcMember| Ok(member.len()))?);
        Ok(())
    })
}

/// Whether the ring was empty at some moment during the call.
/// Threads: any, many at once. Fork: true in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_is_empty(member: *mut busway_mpmc_member, empty: *mut bool) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(empty)? };
        to.write(handle::with(member, |member: &MpmcMember| Ok(member.is_empty()))?);
        Ok(())
    })
}

/// The number of this member, from 1. Numbers are used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_number(member: *mut busway_mpmc_member, number: *mut u32) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(number)? };
        to.write(handle::with(member, |member: &MpmcMember| Ok(member.number()))?);
        Ok(())
    })
}

/// Finds members whose process is dead, and gives back what they had in hand, beside all others, who go on meanwhile. Call it when a process
/// is known to have died, or now and then. `recovered` may be NULL.
/// Threads: any, many at once. Fork: BUSWAY_FORKED in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_recover_dead(
    member: *mut busway_mpmc_member,
    recovered: *mut busway_recovered,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = if recovered.is_null() { None } else { Some(unsafe { out(recovered)? }) };
        let found = handle::with(member, |member: &MpmcMember| Ok(member.recover_dead()?))?;
        if let Some(to) = to {
            to.write(busway_recovered { members: found.members, elements: found.elements });
        }
        Ok(())
    })
}

/// Leaves the ring, and frees the member.
/// Threads: any; one frees. Fork: in a forked child the handle becomes invalid, and nothing else happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_mpmc_leave(member: *mut busway_mpmc_member) -> busway_status {
    guard(|| handle::free::<MpmcMember, _>(member))
}
