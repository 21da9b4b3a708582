//! How figures are taken: cases, the systems that run them, and the turns they take.
//!
//! A shared machine is never quiet for long: other work comes and goes, and a hypervisor moves the virtual CPUs, now to
//! the two threads of one core, now far apart. So no system gets a stretch of time to itself. A run is many short
//! *rounds*; in each, every case is run by every system, one right after the other, and the next round turns their
//! order around. What disturbs then costs each case a few rounds, which a median forgets, and what drifts meets a
//! system and the floor it is divided by alike.
//!
//! While a system measures, no process of another may run: its peer would take the CPU that is being measured.

use hdrhistogram::Histogram;
use std::fmt;
use std::time::Instant;

use super::machine::{HOST_CPU, PEER_CPU};
use super::tally::{Row, Tally};

/// Where the two sides run, and whether they sleep.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Regime {
    /// Both awake, each on a CPU of its own.
    Hot,
    /// Both sleep whenever they wait, on one CPU.
    ParkedSame,
    /// Both sleep whenever they wait, each on a CPU of its own.
    ParkedCross,
}

impl Regime {
    /// The CPU to pin the peer to.
    pub fn peer_cpu(self) -> usize {
        match self {
            Regime::ParkedSame => HOST_CPU,
            Regime::Hot | Regime::ParkedCross => PEER_CPU,
        }
    }
}

impl fmt::Display for Regime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Regime::Hot => "hot",
            Regime::ParkedSame => "parked-same",
            Regime::ParkedCross => "parked-cross",
        })
    }
}

/// One thing to measure.
#[derive(Clone, Copy)]
pub struct Case {
    /// What is done, such as `call`.
    pub name: &'static str,
    pub regime: Regime,
    /// Payload of one message.
    pub bytes: usize,
    /// Messages under way at once.
    pub inflight: u32,
    /// Messages measured in one round, after a tenth more to warm up.
    pub n: u32,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { name, regime, bytes, inflight, .. } = self;
        write!(f, "{name}/{regime}/{bytes}/{inflight}")
    }
}

/// What one round of one case gave.
pub struct Sample {
    pub latency: Option<Histogram<u64>>,
    pub per_s: f64,
}

impl Sample {
    /// Nanoseconds of every message, and messages a second.
    pub fn trips(latency: Histogram<u64>, per_s: f64) -> Self {
        Self { latency: Some(latency), per_s }
    }

    /// Messages a second, where a message alone is too short to time.
    pub fn rate(per_s: f64) -> Self {
        Self { latency: None, per_s }
    }

    /// The median message; of a rate, the time each message took.
    pub fn p50_ns(&self) -> f64 {
        self.latency.as_ref().map_or(1e9 / self.per_s, |h| h.value_at_quantile(0.5) as f64)
    }
}

/// A way to pass messages between two processes.
pub trait System {
    /// The name in the `impl` column.
    fn name(&self) -> &'static str;

    /// What a reader has to know of it beside its name, such as its version and how it is set up.
    fn configuration(&self) -> Option<String> {
        None
    }

    /// Starts a peer on the case's CPU, warms up, measures `case.n` messages and stops the peer. `None`: not a case of
    /// this system. A system may keep its peer over rounds only if it sleeps in between.
    fn round(&mut self, case: &Case) -> Option<Sample>;
}

/// Times `n` round trips one by one, after a tenth more to warm up. Trips are numbered from 1.
pub fn time_trips(n: u32, mut trip: impl FnMut(u32)) -> Sample {
    let warm = n / 10;
    (1..=warm).for_each(&mut trip);
    let mut latency = Histogram::new(3).expect("3 digits are allowed");
    for i in warm + 1..=warm + n {
        let start = Instant::now();
        trip(i);
        latency.record(start.elapsed().as_nanos() as u64).expect("it grows as needed");
    }
    let per_s = 1e9 / latency.mean();
    Sample::trips(latency, per_s)
}

/// Lets the floor and the systems run every case in turns, and sums up case by case, the floor first.
pub fn take_turns(cases: &[Case], rounds: u32, floor: &mut dyn System, systems: &mut [Box<dyn System>]) -> Vec<Row> {
    let mut everyone: Vec<&mut dyn System> = vec![floor];
    everyone.extend(systems.iter_mut().map(|system| &mut **system as &mut dyn System));
    let tally_each = |case: &Case| everyone.iter().map(|s| Tally::new(*case, s.name())).collect();
    let mut tallies: Vec<Vec<Tally>> = cases.iter().map(tally_each).collect();
    for round in 0..rounds {
        for (case, tallies) in cases.iter().zip(&mut tallies) {
            let samples = one_round(case, &mut everyone, round % 2 == 1);
            let floor_p50_ns = samples[0].as_ref().map(Sample::p50_ns);
            for (tally, sample) in tallies.iter_mut().zip(&samples) {
                if let Some(sample) = sample {
                    tally.add(sample, floor_p50_ns);
                }
            }
        }
    }
    let mut rows = Vec::new();
    for (case, mut tallies) in cases.iter().zip(tallies) {
        if case.inflight > 1 && case.name.ends_with("call") {
            // The floor never has more than one call under way: here it ran to divide by, not to be shown.
            tallies.remove(0);
        }
        rows.extend(tallies.into_iter().filter_map(Tally::row));
    }
    rows
}

/// The samples in the order of the systems, which take their turns in that order or backwards.
fn one_round(case: &Case, systems: &mut [&mut dyn System], backwards: bool) -> Vec<Option<Sample>> {
    if backwards {
        let mut samples: Vec<_> = systems.iter_mut().rev().map(|s| s.round(case)).collect();
        samples.reverse();
        samples
    } else {
        systems.iter_mut().map(|s| s.round(case)).collect()
    }
}
