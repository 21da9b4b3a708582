//! The table: a line for each peer, a column for each case.

use std::fmt::Write;

use super::rows::{Rows, distinct, size, time};

/// The parts of the table, each with its heading.
const PARTS: [(&str, &str, u64); 5] = [
    ("hot", "Both awake, one call at a time", 1),
    ("hot", "Both awake, 64 under way, time each", 64),
    ("parked-cross", "Both asleep between calls, two CPUs", 1),
    ("parked-cross", "Asleep when there is nothing to do, 64 under way, time each", 64),
    ("parked-same", "Both asleep between calls, one CPU", 1),
];
/// Whom the others are compared with.
const OURS: [&str; 2] = ["busway", "busway-pool"];

/// All parts that have rows. What is below `busway` and not ours is bold: there a peer is ahead.
pub fn markdown(rows: &Rows) -> String {
    let mut text = String::new();
    for (regime, heading, inflight) in PARTS {
        let part = rows.of(regime, inflight);
        let sizes = distinct(part.clone().map(|row| row.bytes));
        if sizes.is_empty() {
            continue;
        }
        let heads: Vec<_> = sizes.iter().map(|bytes| size(*bytes)).collect();
        writeln!(text, "| {heading} | {} |\n|---|{}", heads.join(" | "), "---|".repeat(sizes.len())).expect("written");
        for name in rows.names() {
            let cell = |bytes: &u64| {
                let p50 =
                    |who: &str| part.clone().find(|row| row.name == who && row.bytes == *bytes).map(|row| row.p50_ns);
                let ahead =
                    |ns: f64| name != "floor" && !OURS.contains(&name) && p50(OURS[0]).is_some_and(|ours| ns < ours);
                match p50(name) {
                    Some(ns) if ahead(ns) => format!("**{}**", time(ns)),
                    Some(ns) => time(ns),
                    None => "-".into(),
                }
            };
            let cells: Vec<_> = sizes.iter().map(cell).collect();
            if cells.iter().any(|cell| cell != "-") {
                writeln!(text, "| {name} | {} |", cells.join(" | ")).expect("written");
            }
        }
        text.push('\n');
    }
    text
}
