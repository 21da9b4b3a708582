//! Busway: a shared-memory, zero-copy message bus for Linux.

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"), target_endian = "little")))]
compile_error!("busway runs on Linux, x86-64 and aarch64 (little endian) only");

mod call;
mod config;
mod confine;
mod error;
mod host;
mod join;
mod link;
mod plugin;
pub mod pool;
#[doc(hidden)]
pub mod region;
pub mod ring;
#[doc(hidden)]
pub mod slots;
#[doc(hidden)]
pub mod sync;
#[doc(hidden)]
pub mod tasks;
#[doc(hidden)]
pub mod wake;

pub use call::{Loan, Message, Payload, PeerBytes, Pending, Replying, Request, Stats, reject};
pub use config::Config;
#[cfg(feature = "confine")]
pub use confine::Confinement;
pub use confine::{Grade, hide_memory};
pub use error::{Error, JoinError, Result, Violation};
pub use host::{Guest, Host, Listener, Process};
pub use join::Credentials;
pub use link::{Batch, Geometry, Link, Requests};
#[cfg(not(busway_loom))]
pub use link::{LinkSet, Received, Token};
pub use plugin::Plugin;
pub use slots::arena::SizeClass;
pub use tasks::{Driver, Readable};
pub use wake::{Deadline, Idle};

#[doc(hidden)]
pub mod internals {
    //! For this project's own models, tests and benchmarks. No promises.
    pub use crate::call::PeerBytes;
    pub use crate::link::parts as link;
    pub use crate::region::Process;
    pub use crate::ring::parts as ring;
    pub mod join {
        pub use crate::join::{FEATURES, Kind, Packet, Refusal, SOCKET_VARIABLE};
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "confine"))]
#[doc = include_str!("../docs/confinement.md")]
struct ConfinementPage;
