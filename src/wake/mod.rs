//! Sleeping and waking, across processes and inside one.
//!
//! # Protocol
//!
//! Everything a thread can wait for has a **mark** (a word of the waiting side, which says that somebody sleeps and how), a
//! **bell** (a word that everybody writes, which the sleeper's futex waits on; one fixed address for each thing one can wait
//! for) and a share in the waiting side's **gate** (the word `sleepers`, the only thing the other side's hot path reads).
//!
//! ```text
//! waker:    publish (release); fence(SeqCst); gate == 0: done
//!           mark == 0 or mark rung already: done;  rung = mark; bell += 1; wake
//! sleeper:  b = bell; mark = (epoch + 1, how); gate += 1; fence(SeqCst); look again; nothing: sleep while bell == b
//!           afterwards: mark = 0 unless others sleep; gate -= 1; look again
//! ```
//!
//! The two fences order publish before gate on one side and mark before look on the other (Dekker): either the sleeper sees
//! what was published or the waker sees the mark. A ring after the sleeper read `b` changes the bell, so the sleep ends at
//! once. A mark is rung once: its epoch changes with every sleeper, so each new sleeper is rung for anew, and a burst of
//! messages costs one system call.
//!
//! Where several threads sleep on one bell and only one is woken, whoever takes a message and sees another wakes one more,
//! and whoever leaves threads asleep marks again on their behalf and looks again ([`Marks::renew`]).
//!
//! # Two stages
//!
//! In each of its waits a thread sleeps by futex for at most [`FUTEX_STAGE`], however often it is woken, then by descriptor
//! without limit: one thread polls the [`Doorbell`], which also shows the peer's death, and the others of the same end sleep
//! on a private word until it returns.
//! So an idle end is never woken, and a peer that steals futex wake-ups (a read-only mapping is enough to requeue a
//! sleeper) delays us by that much and no more. `how` in the mark says which of the two, or both.

mod deadline;
mod doorbell;
mod idle;
mod marks;
mod poll;
mod sleep;

pub use deadline::Deadline;
pub use doorbell::Doorbell;
#[cfg(not(busway_loom))]
pub use doorbell::Timer;
pub use idle::{Idle, Spin, turns};
pub use marks::{HOW_BITS, How, Marks, Ringer, ring_bell};
pub use poll::poll_until;
pub use sleep::{FUTEX_STAGE, Sleep, Spot, starts_with_futex};
