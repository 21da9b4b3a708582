//! The rows of a report.

use serde_json::Value;

/// One row, as far as it is shown.
pub struct Row {
    pub name: String,
    pub regime: String,
    pub bytes: u64,
    pub inflight: u64,
    /// The median call; of many under way, the time each of them took.
    pub p50_ns: f64,
}

/// All of them, in the order of the report.
pub struct Rows(Vec<Row>);

impl Rows {
    /// Reads the JSON of a report.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rows: Vec<Value> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        rows.iter()
            .map(|row| one(row).ok_or(format!("a row without all it needs: {row}")))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Those who have rows, in the order of their first.
    pub fn names(&self) -> Vec<&str> {
        distinct(self.0.iter().map(|row| row.name.as_str()))
    }

    /// The rows of one way of waiting and as many calls under way.
    pub fn of(&self, regime: &str, inflight: u64) -> impl Iterator<Item = &Row> + Clone {
        let regime = regime.to_owned();
        self.0.iter().filter(move |row| row.regime == regime && row.inflight == inflight)
    }
}

fn one(row: &Value) -> Option<Row> {
    Some(Row {
        name: row["impl"].as_str()?.into(),
        regime: row["regime"].as_str()?.into(),
        bytes: row["bytes"].as_u64()?,
        inflight: row["inflight"].as_u64()?,
        p50_ns: row["p50_ns"].as_f64()?,
    })
}

/// Each value once, in the order of their first.
pub fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

/// A size as one says it.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// A time, to three digits or so.
pub fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ..1e3 => (ns, "ns"),
        ..1e6 => (ns / 1e3, "us"),
        _ => (ns / 1e6, "ms"),
    };
    if value < 100.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}
