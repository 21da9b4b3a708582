//! What many rounds of one case on one system amount to.
//!
//! Every figure is taken within a round, and the row shows its median over the rounds. Histograms merged over rounds
//! would let a single disturbed round decide p99 and p99.9; the median ignores whatever disturbs less than half of
//! them. The price: a p99.9 is that of a typical round, and where a round has fewer than a thousand messages it is the
//! median of the rounds' worst ones.

use hdrhistogram::Histogram;

use super::measure::{Case, Sample};

/// The rounds of one case on one system.
pub struct Tally {
    case: Case,
    system: &'static str,
    p50_ns: Vec<f64>,
    p99_ns: Vec<f64>,
    p999_ns: Vec<f64>,
    per_s: Vec<f64>,
    ratio: Vec<f64>,
    pub merged: Histogram<u64>,
}

/// The sum of it.
pub struct Row {
    pub case: Case,
    pub system: &'static str,
    pub p50_ns: f64,
    /// p99 and p99.9, where single messages were timed.
    pub tail_ns: Option<(f64, f64)>,
    pub per_s: f64,
    /// This system's p50 by the floor's p50 in the same round of the same case, hence unmoved by drift.
    pub ratio: Option<f64>,
}

impl Tally {
    pub fn new(case: Case, system: &'static str) -> Self {
        let [p50_ns, p99_ns, p999_ns, per_s, ratio] = Default::default();
        Self { case, system, p50_ns, p99_ns, p999_ns, per_s, ratio, merged: Histogram::new(3).unwrap() }
    }

    /// Adds a round. `floor_p50` is the floor's in that round.
    pub fn add(&mut self, sample: Option<Sample>, floor_p50: Option<f64>) {
        let Some(sample) = sample else { return };
        self.p50_ns.push(sample.p50_ns());
        self.per_s.push(sample.per_s);
        self.ratio.extend(floor_p50.map(|floor| sample.p50_ns() / floor));
        if let Some(latency) = &sample.latency {
            self.p99_ns.push(latency.value_at_quantile(0.99) as f64);
            self.p999_ns.push(latency.value_at_quantile(0.999) as f64);
            self.merged.add(latency).unwrap();
        }
    }

    /// The row, unless the system never ran the case.
    pub fn row(self) -> Option<Row> {
        let m = &self.merged;
        eprintln!("{} merged {} {} {} rounds {:?}", self.case, m.value_at_quantile(0.5), m.value_at_quantile(0.99), m.value_at_quantile(0.999), self.p50_ns);
        Some(Row {
            case: self.case,
            system: self.system,
            p50_ns: median(self.p50_ns)?,
            tail_ns: median(self.p99_ns).zip(median(self.p999_ns)),
            per_s: median(self.per_s)?,
            ratio: median(self.ratio),
        })
    }
}

/// The middle value, or the upper one of the two: a value that was measured, not a mean.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
