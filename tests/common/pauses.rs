//! When the machine itself stood still: a virtual one is stopped now and then, and nothing on it runs meanwhile.
//!
//! Seen by a thread on each processor that comes before all others there, which takes a privilege. Also for benchmarks.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

/// When a processor ran nothing for longer than a tick, not even the thread that watches it.
static PAUSES: Mutex<Vec<Range<Instant>>> = Mutex::new(Vec::new());
static REFUSED: AtomicBool = AtomicBool::new(false);

const TICK: Duration = Duration::from_millis(1);

/// Begins to watch, for the life of this process.
pub fn watch() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let cpus = sched_getaffinity(None).expect("our processors");
        for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| cpus.is_set(cpu)) {
            thread::spawn(move || watch_one(cpu));
        }
    });
}

/// Wakes up on a processor each millisecond, and notes where that was late.
fn watch_one(cpu: usize) {
    let mut here = CpuSet::new();
    here.set(cpu);
    let first = libc::sched_param { sched_priority: 50 };
    // SAFETY: a valid pointer; 0 is this thread.
    let refused = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &first) } != 0;
    if refused || sched_setaffinity(None, &here).is_err() {
        return REFUSED.store(true, Relaxed);
    }
    loop {
        let due = Instant::now() + TICK;
        thread::sleep(TICK);
        let now = Instant::now();
        if now - due > TICK {
            PAUSES.lock().unwrap().push(due..now);
        }
    }
}

/// How much of a span a processor was paused.
pub fn within(span: &Range<Instant>) -> Duration {
    let mut pauses: Vec<_> = PAUSES.lock().unwrap().iter().filter(|pause| pause.end > span.start).cloned().collect();
    pauses.sort_by_key(|pause| pause.start);
    let (mut sum, mut after) = (Duration::ZERO, span.start);
    for pause in pauses {
        let end = pause.end.min(span.end);
        sum += end.saturating_duration_since(pause.start.max(after));
        after = after.max(end);
    }
    sum
}

/// The longest pause since `start`, for people.
pub fn longest_since(start: Instant) -> String {
    if REFUSED.load(Relaxed) {
        return String::from("unknown, not privileged");
    }
    let pauses = PAUSES.lock().unwrap();
    let longest = pauses.iter().filter(|pause| pause.start >= start).map(|pause| pause.end - pause.start).max();
    longest.map_or_else(|| format!("none over {TICK:?}"), |longest| format!("{longest:.2?}"))
}
