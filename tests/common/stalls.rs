//! How long operations of this process took beyond what they were allowed to.

use super::payload::{Random, bytes};
use busway::{Deadline, Link};
use std::fmt;
use std::time::{Duration, Instant};

const METHOD: u32 = 1;

/// The longest of many operations beyond their deadlines.
#[derive(Clone, Copy, Default)]
pub struct Stalls {
    pub operations: u64,
    /// By the clock: others that run on the same processors count too.
    pub longest: Duration,
    /// What this thread has computed meanwhile, which they do not add to.
    pub computed: Duration,
    /// Longer than 10 ms by the clock.
    pub long: u64,
}

impl Stalls {
    /// Runs an operation that may take as long as `allowed`.
    pub fn time<R>(&mut self, allowed: Duration, operation: impl FnOnce() -> R) -> R {
        let (start, computed) = (Instant::now(), thread_time());
        let result = operation();
        let beyond = start.elapsed().saturating_sub(allowed);
        self.operations += 1;
        self.longest = self.longest.max(beyond);
        self.computed = self.computed.max((thread_time() - computed).min(beyond));
        self.long += u64::from(beyond > Duration::from_millis(10));
        result
    }

    pub fn and(self, other: Self) -> Self {
        Self {
            operations: self.operations + other.operations,
            longest: self.longest.max(other.longest),
            computed: self.computed.max(other.computed),
            long: self.long + other.long,
        }
    }
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, longest, computed, long } = self;
        write!(f, "{longest:.2?}, computing {computed:.2?}; {long} of {operations} over 10 ms")
    }
}

/// How long this thread has computed.
pub fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a clock that there is, and a place to write to.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(read, 0, "read the clock of a thread");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How long the threads of this process that have this name have computed.
pub fn time_of_threads(name: &str) -> Duration {
    let threads = std::fs::read_dir("/proc/self/task").expect("our threads").flatten();
    let read = |of: &std::path::Path, what: &str| std::fs::read_to_string(of.join(what)).unwrap_or_default();
    let of_name = threads.filter(|thread| read(&thread.path(), "comm").trim() == name);
    of_name
        .map(|thread| {
            let schedstat = read(&thread.path(), "schedstat");
            let computed = schedstat.split_whitespace().next().and_then(|ns| ns.parse().ok());
            Duration::from_nanos(computed.unwrap_or_default())
        })
        .sum()
}

/// Uses a link in every way there is until it is closed, or for a while.
pub fn use_up(plugin: &Link, seed: u64, until: Instant) -> Stalls {
    let mut stalls = Stalls::default();
    let mut random = Random::new(seed);
    let short = Duration::from_micros(500);
    while !plugin.is_closed() && Instant::now() < until {
        let payload = bytes(random.next(), [0, 20, 40, 1000][random.below(4)]);
        let (operation, allowed) = (random.below(10), if random.below(4) == 0 { Duration::ZERO } else { short });
        let deadline = Deadline::after(allowed);
        stalls.time(allowed, || match operation {
            0..3 => drop(plugin.call(METHOD, &payload, deadline).map(|reply| reply.to_vec())),
            3 => drop(plugin.send(METHOD, &payload, deadline)),
            4 => drop(plugin.submit(METHOD, &payload, deadline).map(|call| call.is_ready())),
            5 => drop(plugin.loan(payload.len(), deadline)),
            6 => drop(plugin.recv_batch(10, deadline).map(|batch| batch.map(|r| r.to_vec().len()).sum::<usize>())),
            7 => drop((plugin.stats(), plugin.arm(), plugin.disarm())),
            8 => {
                let mut batch = plugin.batch();
                let calls: Vec<_> = (0..5).map_while(|_| batch.try_submit(METHOD, &payload, deadline).ok()).collect();
                drop(batch);
                drop(calls);
            }
            _ => drop(plugin.recv(deadline).map(|request| {
                let bytes = request.to_vec();
                request.reply(&bytes)
            })),
        });
    }
    stalls
}
