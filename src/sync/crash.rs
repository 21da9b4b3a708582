//! Dying at a chosen step, for models and property tests of what survives a kill.

#![allow(clippy::missing_const_for_thread_local, reason = "loom's macro knows no const")]

use core::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

#[cfg(busway_loom)]
use loom::thread_local;

thread_local! {
    /// How many steps this thread still takes, plus one; 0 for any number.
    static LEFT: Cell<u32> = Cell::new(0);
}

struct Killed;

/// Stands before each step that others can see. A thread inside [`dies_at`] dies at the chosen one.
pub fn crash() {
    LEFT.with(|left| match left.get() {
        0 => {}
        1 => {
            left.set(0);
            resume_unwind(Box::new(Killed));
        }
        more => left.set(more - 1),
    });
}

/// Runs `body`, which dies before step `step`, counted from 0; `None` if it did.
///
/// What a killed process leaves behind is what it had written: `body` must hold nothing whose drop writes.
pub fn dies_at<R>(step: u32, body: impl FnOnce() -> R) -> Option<R> {
    LEFT.with(|left| left.set(step + 1));
    let result = catch_unwind(AssertUnwindSafe(body));
    LEFT.with(|left| left.set(0));
    match result {
        Ok(result) => Some(result),
        Err(panic) if panic.is::<Killed>() => None,
        Err(panic) => resume_unwind(panic),
    }
}
