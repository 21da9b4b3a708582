//! What the loom models of `busway` share: running a model, demanding that a mutant of it fails, and a small link.
//!
//! Each file of `tests/` models one protocol with the code that ships, and says what it leaves out. Beside a model that must
//! hold stand its mutants: the same model, with one ordering weakened or one step left out of the code
//! (`busway::sync::mutant`), which must fail in the way it says. So each of those orderings and steps is shown to be needed,
//! and the model to be strong enough to notice.
//!
//! Time stands still and a sleep by futex has no limit, so a wake-up that is lost is a deadlock, which loom reports, though
//! natively the sleeper would look again after ten milliseconds.

#[cfg(busway_loom)]
mod link;
#[cfg(busway_loom)]
mod model;
#[cfg(busway_loom)]
pub use link::{Ends, Kept, Payload, ends, ends_with_doorbells, on_thread};
#[cfg(busway_loom)]
pub use model::{Failure, Model};
