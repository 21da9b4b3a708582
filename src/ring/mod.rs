//! Rings: bounded lock-free queues of plain values, between processes.
//!
//! | | for | ends | when a process is killed |
//! |---|---|---|---|
//! | [`Spsc`] | one of each; the fastest | [`Producer`], [`Consumer`] | the other one can tell |
//! | [`Mpmc`] | any number of each | [`MpmcMember`], for both | others [recover](MpmcMember::recover_dead) |
//!
//! In either nobody waits for a dead process, and what it had pushed is still popped.
//!
//! A ring lies in a memory file of its own. One process creates it, hands the file over, and the others open it.
//! Elements are of any [`bytemuck`] type that is [`NoUninit`](bytemuck::NoUninit) and
//! [`AnyBitPattern`](bytemuck::AnyBitPattern), such as every [`Pod`](bytemuck::Pod). Pushing and popping never block:
//! what to do while a ring is full or empty is the caller's choice.
//!
//! # Examples
//!
//! A child has the file as its standard input, and takes the numbers off the ring:
//!
//! ```no_run
//! use busway::ring::Spsc;
//! use std::os::fd::{AsFd, OwnedFd};
//! use std::process::Command;
//!
//! fn parent() -> Result<(), Box<dyn std::error::Error>> {
//!     let ring = Spsc::<u64>::create(1024)?;
//!     let mut producer = ring.producer()?;
//!     let mut child = Command::new("./child").stdin(OwnedFd::from(ring)).spawn()?;
//!     for value in 0..1_000_000 {
//!         while let Err(busway::Error::Full) = producer.push(value) {
//!             std::hint::spin_loop();
//!         }
//!     }
//!     drop(producer); // which the child can tell
//!     child.wait()?;
//!     Ok(())
//! }
//!
//! fn child() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut consumer = Spsc::<u64>::open(std::io::stdin().as_fd().try_clone_to_owned()?)?.consumer()?;
//!     let mut sum = 0;
//!     loop {
//!         let last = consumer.is_empty() && consumer.is_abandoned();
//!         while let Some(value) = consumer.pop()? {
//!             sum += value;
//!         }
//!         if last {
//!             println!("{sum}");
//!             return Ok(());
//!         }
//!     }
//! }
//! ```

#[doc(hidden)]
pub mod mpmc;
#[doc(hidden)]
mod shared;
#[doc(hidden)]
pub mod spsc;

#[doc(hidden)]
pub mod parts {
    //! What the page of the layout is compared with.
    pub use super::shared::{CLOSED, Claims, Ends, Head, Place, kind};
}
#[doc(hidden)]
pub use shared::untyped;
pub use shared::{Consumer, Mpmc, MpmcMember, Producer, Recovered, Spsc};
