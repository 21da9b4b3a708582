//! What many rounds of one case on one system amount to.
//!
//! - p50 and the rate are taken within each round; the row shows their medians over the rounds.
//! - The ratio to the floor is taken within each round too, where both met the same machine. The median of these
//!   ratios varies far less from run to run than the ratio of the two medians does: on a virtual machine whose CPUs are
//!   moved about, a cache line may cost four times as much in one round as in another.
//! - p99 and p99.9 are of the messages of all rounds together. A round is too short to have a p99.9, and the tail is
//!   where disturbances belong; every system met its share of them.
//! - Where messages are too short to be timed one by one, p50 is the time that each takes, so its ratio, too, is above
//!   one when slower than the floor.

use hdrhistogram::Histogram;

use super::measure::{Case, Sample};

/// The line of a report's header that says how to read the figures.
pub fn describe(rounds: u32) -> String {
    format!(
        "figures  p50, per second and ratio: medians over {rounds} rounds in which the systems took turns; \
         p99, p99.9: of all rounds"
    )
}

/// The rounds of one case on one system.
pub struct Tally {
    case: Case,
    system: &'static str,
    p50_ns: Vec<f64>,
    per_s: Vec<f64>,
    ratio: Vec<f64>,
    latency: Option<Histogram<u64>>,
}

/// The sum of it.
pub struct Row {
    pub case: Case,
    pub system: &'static str,
    pub p50_ns: f64,
    /// p99 and p99.9, where single messages were timed.
    pub tail_ns: Option<(u64, u64)>,
    pub per_s: f64,
    /// This system's p50 by the floor's. `None`: the case has no floor.
    pub ratio: Option<f64>,
}

impl Tally {
    pub fn new(case: Case, system: &'static str) -> Self {
        Self { case, system, p50_ns: vec![], per_s: vec![], ratio: vec![], latency: None }
    }

    /// Adds a round, with the floor's p50 in it.
    pub fn add(&mut self, sample: &Sample, floor_p50_ns: Option<f64>) {
        let p50_ns = sample.p50_ns();
        self.p50_ns.push(p50_ns);
        self.per_s.push(sample.per_s);
        self.ratio.extend(floor_p50_ns.map(|floor| p50_ns / floor));
        match (&mut self.latency, &sample.latency) {
            (Some(all), Some(new)) => all.add(new).expect("it grows as needed"),
            (all, new) => all.clone_from(new),
        }
    }

    /// The row, unless the system never ran the case.
    pub fn row(self) -> Option<Row> {
        Some(Row {
            case: self.case,
            system: self.system,
            p50_ns: median(self.p50_ns)?,
            tail_ns: self.latency.map(|h| (h.value_at_quantile(0.99), h.value_at_quantile(0.999))),
            per_s: median(self.per_s)?,
            ratio: median(self.ratio),
        })
    }
}

/// The middle value, or the upper of the middle two: something that was measured, not a mean.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
