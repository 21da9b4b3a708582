//! The descriptor of an end: a socket that the peer rings, and what else ends a long sleep.

#[cfg(busway_loom)]
mod model;
#[cfg(not(busway_loom))]
mod native;

#[cfg(busway_loom)]
pub use model::Doorbell;
#[cfg(not(busway_loom))]
pub use native::{Doorbell, Timer};
