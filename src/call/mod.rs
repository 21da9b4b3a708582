//! What a user holds: payloads, loans, messages, requests, pending calls. One set of types for every topology.
//!
//! They know their bus only as [`Bus`], the operations that giving something back takes; a link implements it, and so will
//! a pool. By default they borrow it, which costs nothing; `into_owned` makes them independent of where they came from.

/// Bytes of a reply that travel without a slot.
pub const INLINE_REPLY: usize = 40;

mod bus;
mod bytes;
mod ended;
mod loan;
mod message;
mod pending;
mod request;
mod stats;

pub use bus::{Bus, Hold, Refused};
pub use bytes::PeerBytes;
pub use ended::{Ended, Stop};
pub use loan::{Loan, Payload};
pub use message::{Data, Message, copy_short};
pub use pending::{Pending, Replying, Ticket};
pub use request::{Head, Request, guarded, reject};
pub use stats::Stats;
