//! The C interface: `libbusway` and `busway.h`, which is made from these declarations.
//!
//! It translates and decides nothing: each function checks its arguments, asks the Rust library, and turns what that answers
//! into a status. Three things make that safe for callers whom no compiler checks:
//!
//! - What lives long is named by a [`handle`], which is a number and no address: a stale or foreign one is an error.
//! - What is made for each message lies in the caller's memory (an [`object`]), so nothing is allocated for it. It is recognised by
//!   a tag that depends on its address: one that is spent, zeroed or copied is an error.
//! - No panic crosses the boundary: [`guard`] is around each function.
//!
//! Documentation of the functions is written for readers of the header.

#![allow(non_camel_case_types, reason = "the names are those of the header")]
#![allow(clippy::missing_safety_doc, reason = "the header says once what all pointers have to be")]

mod handle;
mod object;

// In the order of the header.
pub mod error;

pub mod options;

pub mod host;

pub mod confine;

pub mod link;

pub mod message;

pub mod request;

pub mod many;

pub mod pool;

pub mod named;

pub mod set;

pub mod ring;

use crate::error::{Failure, busway_status};
use crate::handle::Held;
use busway::Deadline;
use core::ffi::{CStr, c_char, c_void};
use core::time::Duration;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// No waiting: what cannot be done at once is BUSWAY_FULL or BUSWAY_WOULD_BLOCK.
pub const BUSWAY_NOW: u64 = 0;
/// Wait as long as it takes.
pub const BUSWAY_NEVER: u64 = u64::MAX;

/// Runs the body of a function: its failure becomes a status and the thread's last error, its panic an error too.
#[inline(always)]
fn guard(body: impl FnOnce() -> Result<(), Failure>) -> busway_status {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
        Ok(Ok(())) => error::BUSWAY_OK,
        Ok(Err(failure)) => error::set(failure),
        Err(payload) => {
            // Dropping it might panic again.
            core::mem::forget(payload);
            error::set(Failure::Panic)
        }
    }
}

/// Asks what a handle names, and writes what it says.
///
/// # Safety
/// `to` is null, or valid for writes.
unsafe fn ask<T: Held, H, R>(
    handle: *const H,
    to: *mut R,
    ask: impl FnOnce(&T) -> Result<R, Failure>,
) -> busway_status {
    guard(|| {
        // SAFETY: by this function's contract.
        let to = unsafe { out(to)? };
        to.write(handle::with(handle, ask)?);
        Ok(())
    })
}

/// What is there at once where the caller does not wait, and else what comes until its deadline.
#[inline(always)]
fn await_one<R>(
    until: u64,
    at_once: impl FnOnce() -> busway::Result<Option<R>>,
    wait: impl FnOnce(Deadline) -> busway::Result<R>,
) -> Result<R, Failure> {
    match until {
        BUSWAY_NOW => at_once()?.ok_or(Failure::WouldBlock),
        until => Ok(wait(deadline(until))?),
    }
}

/// A deadline of C: BUSWAY_NEVER is the latest point there is, and BUSWAY_NOW, like all that has passed, no time at all.
#[inline(always)]
fn deadline(ns: u64) -> Deadline {
    if ns == BUSWAY_NEVER { Deadline::NEVER } else { Deadline::from_nanos(ns.max(1)) }
}

#[inline(always)]
fn to_ns(deadline: Deadline) -> u64 {
    if deadline == Deadline::NEVER { BUSWAY_NEVER } else { deadline.as_nanos() }
}

/// Bytes of the caller; `NULL` is none.
///
/// # Safety
/// `data` is null, or valid for `len` bytes for as long as the result is used.
#[inline(always)]
unsafe fn bytes<'a>(data: *const c_void, len: usize) -> Result<&'a [u8], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() || len > isize::MAX as usize {
        return Err(Failure::Invalid("a payload that is NULL, or longer than memory"));
    }
    // SAFETY: by this function's contract.
    Ok(unsafe { core::slice::from_raw_parts(data.cast(), len) })
}

/// Where a result goes.
///
/// # Safety
/// `to` is null, or valid for writes.
#[inline(always)]
unsafe fn out<'a, T>(to: *mut T) -> Result<&'a mut core::mem::MaybeUninit<T>, Failure> {
    if to.is_null() || !to.is_aligned() {
        return Err(Failure::Invalid("a result's address is NULL or not aligned"));
    }
    // SAFETY: by this function's contract; whatever is there, it may be uninitialised.
    Ok(unsafe { &mut *to.cast() })
}

/// An array of the caller.
///
/// # Safety
/// `first` is null, or valid for `count` elements for as long as the result is used.
#[inline(always)]
unsafe fn array<'a, T>(first: *const T, count: usize) -> Result<&'a [T], Failure> {
    check_array(first, count)?;
    // SAFETY: by this function's contract.
    Ok(if count == 0 { &[] } else { unsafe { core::slice::from_raw_parts(first, count) } })
}

/// Whether there can be an array of so many elements.
#[inline(always)]
fn check_array<T>(first: *const T, count: usize) -> Result<(), Failure> {
    if count > 0 && (first.is_null() || !first.is_aligned() || count > isize::MAX as usize / size_of::<T>().max(1)) {
        return Err(Failure::Invalid("an array's address is NULL or not aligned, or it is longer than memory"));
    }
    Ok(())
}

/// A text of the caller.
///
/// # Safety
/// `text` is null, or the address of a C string that stays as it is for as long as the result is used.
unsafe fn os_str<'a>(text: *const c_char) -> Result<&'a OsStr, Failure> {
    if text.is_null() {
        return Err(Failure::Invalid("a text is NULL"));
    }
    // SAFETY: by this function's contract.
    Ok(OsStr::from_bytes(unsafe { CStr::from_ptr(text) }.to_bytes()))
}

/// The version of the library: major, minor and patch, as decimal digits in groups of three. 0.1.0 is 1000.
#[unsafe(no_mangle)]
pub extern "C" fn busway_version() -> u32 {
    const fn number(text: &str) -> u32 {
        let (mut n, mut i) = (0, 0);
        while i < text.len() {
            n = n * 10 + (text.as_bytes()[i] - b'0') as u32;
            i += 1;
        }
        n
    }
    const {
        number(env!("CARGO_PKG_VERSION_MAJOR")) * 1_000_000
            + number(env!("CARGO_PKG_VERSION_MINOR")) * 1000
            + number(env!("CARGO_PKG_VERSION_PATCH"))
    }
}

/// The point in time that lies `ns` nanoseconds from now, on CLOCK_MONOTONIC; BUSWAY_NEVER if that is beyond 500 years.
#[unsafe(no_mangle)]
pub extern "C" fn busway_deadline_after(ns: u64) -> u64 {
    to_ns(Deadline::after(Duration::from_nanos(ns)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics once more when it is dropped.
    struct Again;

    impl Drop for Again {
        fn drop(&mut self) {
            panic!("again");
        }
    }

    #[test]
    fn a_panic_ends_as_a_status() {
        std::panic::set_hook(Box::new(|_| {}));
        assert_eq!(guard(|| panic!("a fault")), error::BUSWAY_PANIC);
        assert_eq!(guard(|| std::panic::panic_any(Again)), error::BUSWAY_PANIC);
        let _ = std::panic::take_hook();
        // SAFETY: a C string, which stays until the next failure on this thread.
        let text = unsafe { CStr::from_ptr(error::busway_error_text()) };
        assert!(text.to_string_lossy().contains("fault inside the library"));
        assert_eq!(guard(|| Ok(())), error::BUSWAY_OK);
    }
}
