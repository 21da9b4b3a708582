//! When the machine itself stood still: a virtual one is stopped now and then, and nothing on it runs meanwhile.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// When a processor ran nothing for more than a millisecond, not even what comes before all else there. Finding out takes a
/// privilege.
pub struct Pauses(Option<Vec<Range<Instant>>>);

impl Pauses {
    /// Those while `body` runs.
    pub fn during<R>(body: impl FnOnce() -> R) -> (R, Self) {
        // The watchers end with this, also where the body panics.
        let watched = Arc::new(());
        let cpus = sched_getaffinity(None).expect("our processors");
        let ours = (0..CpuSet::MAX_CPU).filter(|&cpu| cpus.is_set(cpu));
        let watchers: Vec<_> = ours
            .map(|cpu| {
                let watched = Arc::downgrade(&watched);
                thread::spawn(move || watch(cpu, &watched))
            })
            .collect();
        let result = body();
        drop(watched);
        let found = watchers.into_iter().map(|watcher| watcher.join().expect("no panic"));
        let mut pauses = found.collect::<Option<Vec<_>>>().map(|of_each| of_each.concat());
        pauses.iter_mut().for_each(|pauses| pauses.sort_by_key(|pause| pause.start));
        (result, Self(pauses))
    }

    /// How much of a span they took.
    pub fn within(&self, span: &Range<Instant>) -> Duration {
        let (mut sum, mut after) = (Duration::ZERO, span.start);
        for pause in self.0.iter().flatten() {
            let end = pause.end.min(span.end);
            sum += end.saturating_duration_since(pause.start.max(after));
            after = after.max(end);
        }
        sum
    }
}

impl fmt::Display for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(pauses) = &self.0 else { return write!(f, "unknown, not privileged") };
        match pauses.iter().map(|pause| pause.end - pause.start).max() {
            Some(longest) => write!(f, "{longest:.2?}"),
            None => write!(f, "none over {TICK:?}"),
        }
    }
}

const TICK: Duration = Duration::from_millis(1);

/// Wakes up on a processor each millisecond, before all others there, and notes where that was late.
fn watch(cpu: usize, watched: &Weak<()>) -> Option<Vec<Range<Instant>>> {
    let mut pauses = Vec::new();
    let mut here = CpuSet::new();
    here.set(cpu);
    let first = libc::sched_param { sched_priority: 50 };
    // SAFETY: a valid pointer; 0 is this thread.
    let refused = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &first) } != 0;
    if refused || sched_setaffinity(None, &here).is_err() {
        return None;
    }
    while watched.strong_count() > 0 {
        let due = Instant::now() + TICK;
        thread::sleep(TICK);
        let now = Instant::now();
        if now - due > TICK {
            pauses.push(due..now);
        }
    }
    Some(pauses)
}
