//! How long operations of this process took beyond what they were allowed to.

use std::fmt;
use std::time::{Duration, Instant};

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
    time_of(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// How long all threads of this process have computed.
pub fn process_time() -> Duration {
    time_of(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn time_of(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a clock that there is, and a place to write to.
    let read = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(read, 0, "read the clock of a thread");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
