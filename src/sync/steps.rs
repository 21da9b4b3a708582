//! Doing something at a chosen step, under `--cfg busway_crash`: for tests of real processes, which die there, or dawdle.

use super::{AtomicU32, Ordering};
use core::panic::Location;
use std::sync::OnceLock;

/// How many steps this process still takes until then, plus one; 0 for any number.
static LEFT: AtomicU32 = AtomicU32::new(0);
static THEN: OnceLock<Then> = OnceLock::new();

/// What is done before a step.
pub type Then = Box<dyn Fn(&Location<'_>) + Send + Sync>;

/// Does `then` once, before step `step` from now, counted from 0, over all threads of this process. Later calls choose another
/// step, but do the same as the first.
pub fn at_step(step: u32, then: Then) {
    THEN.get_or_init(|| then);
    LEFT.store(step + 1, Ordering::Relaxed);
}

/// Stands before each step that others can see.
#[inline(always)]
#[track_caller]
pub fn crash() {
    if LEFT.load(Ordering::Relaxed) != 0 && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        act(Location::caller());
    }
}

#[cold]
fn act(step: &Location<'_>) {
    THEN.get().inspect(|then| then(step));
}
