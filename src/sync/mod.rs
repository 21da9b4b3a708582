//! The only place that names atomics, the futex, the clock and the CPU.
//!
//! Every algorithm above is written once against the names of this module. Natively they are `core` atomics and Linux
//! system calls; under `--cfg busway_loom` they are loom's, with the futex modelled by a mutex and parked threads, so
//! that a loom model runs the very source that ships.
//!
//! # Words of a peer
//!
//! A word of shared memory has one writer: one process. The other side sees it through a read-only mapping as a
//! [`PeerWord`], which can only be loaded. Data that travels beside a word goes through a [`PeerCell`]: written by the owner
//! before the word is published, read once, by value, after the word was seen.
//!
//! # Mutants
//!
//! `mutant("name")` is `false` natively and costs nothing. A loom test can switch one on for its thread, which weakens one
//! ordering or leaves out one step; the test then demands that the model fails. So each ordering is shown to be needed. Under
//! `--cfg busway_tsan` or `--cfg busway_mutants` the environment can switch one on, and ThreadSanitizer, or the sweep over crash
//! points, has to report it.
//!
//! `crash()` costs nothing natively either. In a test a thread can be made to stop for good at one of them, as if killed; under
//! `--cfg busway_crash` a process can be, by what its test does there.

mod cell;
mod copy;
#[cfg(any(test, busway_loom))]
mod crash;
#[cfg(all(test, not(busway_loom)))]
mod fetch;
#[cfg(busway_loom)]
mod model;
#[cfg(not(busway_loom))]
mod native;
mod peer;
#[cfg(all(busway_crash, not(any(test, busway_loom))))]
mod steps;

#[cfg(busway_loom)]
use model as imp;
#[cfg(not(busway_loom))]
use native as imp;

pub use cell::PeerCell;
pub use copy::copy_bytes;
pub use core::sync::atomic::Ordering;
#[cfg(any(test, busway_loom))]
pub use crash::{crash, dies_at};
#[cfg(all(test, not(busway_loom)))]
pub use fetch::{after_loads, loaded};
pub use imp::{
    AtomicBool, AtomicU32, AtomicU64, ForkGuard, FutexWord, Mutex, MutexGuard, cpu, demote, fence, futex_wait,
    futex_wait_any, futex_wake, futex_wake_bits, mutant, now, prefetch_read, prefetch_write, spin_loop, thread_number,
    yield_now,
};
#[cfg(busway_loom)]
pub use imp::{explore_steps, set_thread_number, with_mutant};
pub use peer::PeerWord;
#[cfg(all(busway_crash, not(any(test, busway_loom))))]
pub use steps::{at_step, crash};

/// Stands before each step of an algorithm that must survive a kill there. In a model and in tests a thread or a process can
/// be made to die at one of them; else it is nothing.
#[cfg(not(any(test, busway_loom, busway_crash)))]
#[inline(always)]
pub const fn crash() {}

/// Stands after each load of memory that a peer writes. In tests it can be changed there; else this is nothing.
#[cfg(not(all(test, not(busway_loom))))]
#[inline(always)]
pub const fn loaded<T>(_from: *const T, _len: usize) {}

/// More threads than this do not get a [`thread_number`]: they take the slower, locked paths.
///
/// Under loom every place of a thread is an object that each fence looks through, so there are few.
pub const NUMBERED_THREADS: usize = if cfg!(busway_loom) { 4 } else { 64 };

/// Why a futex wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Woken, or the word had another value, or for no reason: look again.
    Look,
    /// The time ran out.
    TimedOut,
    /// The kernel (or a seccomp filter) has no such call: sleep another way.
    Unsupported,
}
