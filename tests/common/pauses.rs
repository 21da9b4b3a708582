//! How long the machine itself stood still: a virtual one is stopped now and then, and no program on it runs meanwhile.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// Runs `body`, and says how long a processor ran nothing at all meanwhile, at most: `None` without the privilege to find out.
pub fn longest_pause<R>(body: impl FnOnce() -> R) -> (R, Option<Duration>) {
    let over = &AtomicBool::new(false);
    let cpus = rustix::thread::sched_getaffinity(None).expect("our processors");
    let cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| cpus.is_set(cpu));
    thread::scope(|threads| {
        let watchers: Vec<_> = cpus.map(|cpu| threads.spawn(move || watch(cpu, over))).collect();
        let result = body();
        over.store(true, Relaxed);
        let pauses = watchers.into_iter().map(|watcher| watcher.join().expect("no panic"));
        (result, pauses.collect::<Option<Vec<_>>>().and_then(|pauses| pauses.into_iter().max()))
    })
}

/// Wakes up on a processor each millisecond, before all others there, and measures how much later it was.
fn watch(cpu: usize, over: &AtomicBool) -> Option<Duration> {
    const TICK: Duration = Duration::from_millis(1);
    let mut here = rustix::thread::CpuSet::new();
    here.set(cpu);
    rustix::thread::sched_setaffinity(None, &here).ok()?;
    let first = libc::sched_param { sched_priority: 50 };
    // SAFETY: a valid pointer; 0 is this thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &first) } != 0 {
        return None;
    }
    let mut longest = Duration::ZERO;
    while !over.load(Relaxed) {
        let start = Instant::now();
        thread::sleep(TICK);
        longest = longest.max(start.elapsed().saturating_sub(TICK));
    }
    Some(longest)
}
