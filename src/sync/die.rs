//! Dying at a chosen step by a real signal, under `--cfg busway_crash`: for tests that kill processes.

use super::{AtomicU32, Ordering};
use core::panic::Location;
use rustix::process::{Signal, getpid, kill_process};
use std::sync::OnceLock;

/// How many steps this process still takes, plus one; 0 for any number.
static LEFT: AtomicU32 = AtomicU32::new(0);
static LAST_WORDS: OnceLock<LastWords> = OnceLock::new();

/// Is told before which step this process dies.
pub type LastWords = Box<dyn Fn(&Location<'_>) + Send + Sync>;

/// Kills this process before step `steps` from now, counted from 0, over all its threads.
pub fn die_after(steps: u32, last_words: LastWords) {
    LAST_WORDS.get_or_init(|| last_words);
    LEFT.store(steps + 1, Ordering::Relaxed);
}

/// Stands before each step that others can see.
#[inline(always)]
#[track_caller]
pub fn crash() {
    if LEFT.load(Ordering::Relaxed) != 0 && LEFT.fetch_sub(1, Ordering::Relaxed) == 1 {
        die(Location::caller());
    }
}

#[cold]
fn die(step: &Location<'_>) -> ! {
    if let Some(last_words) = LAST_WORDS.get() {
        last_words(step);
    }
    let _ = kill_process(getpid(), Signal::KILL);
    // Another thread may be the one that the signal interrupts first.
    loop {
        super::yield_now();
    }
}
