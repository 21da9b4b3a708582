//! A pool: one segment of shared memory, many processes that trust each other.
//!
//! Any of them may put a request into one of its named queues, any worker may take it, and the reply wakes the caller. A process
//! may be killed at any instruction: what it had under way ends once, nothing is lost or done twice, nobody waits for it, and
//! the others go on meanwhile.
//!
//! | | |
//! |---|---|
//! | [`Pool`] | makes the memory, spawns or admits members, recovers those who die; a member itself |
//! | [`Member`] | a process in a pool, for all its threads |
//! | [`Queue`] | calls and events into one queue |
//! | [`Worker`] | requests from one queue, or several |
//!
//! Payloads, messages, requests and pending calls are those of a [`Link`](crate::Link).
//!
//! With the feature `shm-name`, processes that share no socket meet by name: `Pool::create_named`, `Member::open_named`.
//!
//! # Who is trusted
//!
//! All members map the memory for reading and writing, and trust each other not to write elsewhere in it; a
//! [`Link`](crate::Link) is for those that do not. One that does makes values wrong or others wait, though neither a panic nor
//! an access out of bounds.

mod calls;
mod descriptor;
mod host;
mod member;
#[cfg(feature = "shm-name")]
mod named;
mod parking;
mod receiving;
mod sending;
mod stats;
mod tasks;
#[cfg(all(test, not(busway_loom)))]
mod tests;
mod user;
mod waiting;
mod watch;
#[doc(hidden)]
pub mod words;

pub use host::{MemberProcess, Pool, PoolGuest, PoolListener};
pub use user::{Member, PoolConfig, Queue, Requests, Worker};
