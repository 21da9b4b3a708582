//! How a peer is measured: what it has to be able to do, and for how long it does it.

use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

use crate::common::measure::{Case, Sample, System};

/// A way to call another process.
pub trait Peer: Sync {
    /// The name in the `impl` column.
    fn name(&self) -> &'static str;

    /// Version and set-up, in one line.
    fn configuration(&self) -> String;

    /// Whether it can run a case.
    fn runs(&self, case: &Case) -> bool;

    /// The caller's process: starts a callee, makes the calls of the run, ends the callee.
    fn call(&self, run: &Run) -> Sample;

    /// The callee's process: answers each request with what it holds, until its caller wants no more. `at` is what the
    /// caller has said of where to meet.
    fn serve(&self, case: &Case, at: &str);
}

/// The calling side of a connection.
pub trait Caller {
    /// A call and its reply, both as long as the case says.
    fn call(&mut self, out: &[u8], back: &mut [u8]);

    /// Begins a call, whose reply a later [`take`](Caller::take) gets: calls are answered in order.
    fn submit(&mut self, out: &[u8]);

    /// What was submitted may not be held back any more.
    fn flush(&mut self) {}

    /// Waits for the reply of the oldest call that was submitted.
    fn take(&mut self, back: &mut [u8]);
}

/// How long a round takes at most.
#[derive(Clone, Copy)]
pub struct Pace {
    warm: Duration,
    measure: Duration,
}

impl Pace {
    /// For figures.
    pub const FULL: Self = Self { warm: Duration::from_millis(5), measure: Duration::from_millis(15) };
    /// For a smoke run.
    pub const QUICK: Self = Self { warm: Duration::from_millis(2), measure: Duration::from_millis(6) };
    /// Calls of a round at least, however slow the peer.
    const LEAST: u32 = 4;
    /// A rate is the median of those of slices of a round, so that a few which others have disturbed do not count.
    const SLICE: Duration = Duration::from_millis(1);
}

/// One round of one case.
pub struct Run {
    /// What to run.
    pub case: Case,
    pace: Pace,
}

impl Run {
    /// Makes the calls.
    pub fn calls(&self, caller: &mut impl Caller) -> Sample {
        if self.case.inflight == 1 { self.one_by_one(caller) } else { self.in_flight(caller) }
    }

    fn one_by_one(&self, caller: &mut impl Caller) -> Sample {
        let len = self.case.bytes;
        let (mut out, mut back) = (vec![0u8; len], vec![0u8; len]);
        let mut trip = |i: u32| {
            out[len - 1] = i as u8;
            caller.call(&out, &mut back);
            assert_eq!(back[len - 1], i as u8);
        };
        let begin = Instant::now();
        for i in 1..=(self.case.n / 10).max(Pace::LEAST) {
            trip(i);
            if i >= Pace::LEAST && begin.elapsed() > self.pace.warm {
                break;
            }
        }
        let mut latency = Histogram::new(3).expect("3 digits are allowed");
        let begin = Instant::now();
        for i in 1..=self.case.n {
            let start = Instant::now();
            if i > Pace::LEAST && start - begin > self.pace.measure {
                break;
            }
            trip(i);
            latency.record(start.elapsed().as_nanos() as u64).expect("it grows as needed");
        }
        let per_s = 1e9 / latency.mean();
        Sample::trips(latency, per_s)
    }

    fn in_flight(&self, caller: &mut impl Caller) -> Sample {
        let (len, most) = (self.case.bytes, self.case.inflight);
        let (mut out, mut back) = (vec![0u8; len], vec![0u8; len]);
        let (mut next, mut due) = (0u32, 0u32);
        // Keeps `most` calls under way until `n` are done and the time is up, or until twice the time; then waits for the
        // rest. Gives the rate of each slice.
        let mut run = |n: u32, time: Duration| {
            let (begin, first) = (Instant::now(), due);
            let (mut slice, mut rates) = ((begin, first), Vec::new());
            let mut open = true;
            while open || due != next {
                while open && next - due < most {
                    out[..4].copy_from_slice(&next.to_ne_bytes());
                    caller.submit(&out);
                    next += 1;
                }
                caller.flush();
                // Half of what is under way is taken in before more is sent, so that neither side runs dry.
                for _ in 0..(most / 2).min(next - due) {
                    caller.take(&mut back);
                    assert_eq!(back[..4], due.to_ne_bytes());
                    due += 1;
                }
                let (now, (start, before)) = (Instant::now(), slice);
                if now - start >= Pace::SLICE {
                    rates.push(f64::from(due - before) / (now - start).as_secs_f64());
                    slice = (now, due);
                }
                open = open && (due - first < n || now - begin < time) && now - begin < 2 * time;
            }
            rates.sort_by(f64::total_cmp);
            rates.get(rates.len() / 2).copied()
        };
        // Every slot is met in the warm-up, so that no page is met for the first time in what is measured.
        run(8 * most, self.pace.warm);
        Sample::rate(run(0, self.pace.measure).expect("a slice"))
    }
}

/// A peer that takes its turns with the others.
pub struct Turns {
    /// Who.
    pub peer: &'static dyn Peer,
    /// For how long.
    pub pace: Pace,
}

impl System for Turns {
    fn name(&self) -> &'static str {
        self.peer.name()
    }

    fn configuration(&self) -> Option<String> {
        Some(self.peer.configuration())
    }

    fn round(&mut self, case: &Case) -> Option<Sample> {
        self.peer.runs(case).then(|| self.peer.call(&Run { case: *case, pace: self.pace }))
    }
}
