//! How long operations of this process took beyond what they were allowed to.

use super::pauses;
use super::payload::{Random, bytes};
use busway::{Deadline, Link};
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::Location;
use std::time::{Duration, Instant};

const METHOD: u32 = 1;

/// The longest of many operations beyond their deadlines.
#[derive(Default)]
pub struct Stalls {
    pub operations: u64,
    /// By the clock, and where that was.
    longest: Duration,
    at: Option<&'static Location<'static>>,
    /// Not counting what this thread waited for a processor while others ran: of the operation of which that is longest.
    undisturbed: Duration,
    /// When some took longer than [`LONG`] by the clock.
    long: Vec<Range<Instant>>,
}

const LONG: Duration = Duration::from_millis(10);

impl Stalls {
    /// Runs an operation that may take as long as `allowed`.
    #[track_caller]
    pub fn time<R>(&mut self, allowed: Duration, operation: impl FnOnce() -> R) -> R {
        pauses::watch();
        let (queued, start) = (time_queued(), Instant::now());
        let result = operation();
        let end = Instant::now();
        let beyond = (end - start).saturating_sub(allowed);
        self.operations += 1;
        if beyond > self.longest {
            (self.longest, self.at) = (beyond, Some(Location::caller()));
        }
        if beyond > self.undisturbed {
            self.undisturbed = self.undisturbed.max(beyond.saturating_sub(time_queued().saturating_sub(queued)));
        }
        if beyond > LONG {
            self.long.push(end - beyond..end);
        }
        result
    }

    pub fn add(&mut self, other: Self) {
        if other.longest > self.longest {
            (self.longest, self.at) = (other.longest, other.at);
        }
        self.operations += other.operations;
        self.undisturbed = self.undisturbed.max(other.undisturbed);
        self.long.extend(other.long);
    }
}

impl fmt::Display for Stalls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operations, longest, at, undisturbed, long } = self;
        write!(f, "{longest:.2?}, {undisturbed:.2?} but for waiting for a processor; ")?;
        write!(f, "{} of {operations} over {LONG:?}", long.len())?;
        let own = || long.iter().map(|span| span.end - span.start - pauses::within(span));
        let paused = own().filter(|own| *own <= LONG).count();
        if paused > 0 {
            let rest = own().fold(LONG, Duration::max);
            write!(f, ", {paused} of them because the machine stood still: none over {rest:.2?} but for that")?;
        }
        at.map_or(Ok(()), |at| write!(f, "; the longest at {at}"))
    }
}

/// How long this thread has waited for a processor, where the kernel says so.
fn time_queued() -> Duration {
    thread_local! {
        static SCHEDSTAT: Option<File> = File::open("/proc/thread-self/schedstat").ok();
    }
    let mut text = [0; 100];
    let read = SCHEDSTAT.with(|file| file.as_ref()?.read_at(&mut text, 0).ok());
    // Nanoseconds that it ran, that it waited, and how often.
    let waited = read.and_then(|n| str::from_utf8(&text[..n]).ok()?.split_whitespace().nth(1)?.parse().ok());
    Duration::from_nanos(waited.unwrap_or_default())
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
        match operation {
            0..3 => stalls.time(allowed, || drop(plugin.call(METHOD, &payload, deadline).map(|reply| reply.to_vec()))),
            3 => stalls.time(allowed, || drop(plugin.send(METHOD, &payload, deadline))),
            4 => stalls.time(allowed, || drop(plugin.submit(METHOD, &payload, deadline).map(|call| call.is_ready()))),
            5 => stalls.time(allowed, || drop(plugin.loan(payload.len(), deadline))),
            6 => stalls.time(allowed, || {
                drop(plugin.recv_batch(10, deadline).map(|batch| batch.map(|r| r.to_vec().len()).sum::<usize>()));
            }),
            7 => stalls.time(allowed, || {
                let _ = (plugin.stats(), plugin.arm());
                plugin.disarm();
            }),
            8 => stalls.time(allowed, || {
                let mut batch = plugin.batch();
                let calls: Vec<_> = (0..5).map_while(|_| batch.try_submit(METHOD, &payload, deadline).ok()).collect();
                drop(batch);
                drop(calls);
            }),
            _ => stalls.time(allowed, || {
                let _ = plugin.recv(deadline).map(|request| {
                    let bytes = request.to_vec();
                    request.reply(&bytes)
                });
            }),
        }
    }
    stalls
}
