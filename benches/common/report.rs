//! What a reader gets: a table on the terminal, and the same rows as JSON for a program to compare.

use std::fmt::Write;

use super::tally::Row;

/// Rows under a heading, aligned.
pub fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<10} {:<14} {:<12} {:>8} {:>8} {:>10} {:>9} {:>9} {:>12} {:>14}\n",
        "case", "impl", "regime", "bytes", "inflight", "p50 ns", "p99 ns", "p99.9 ns", "per second", "ratio_to_floor"
    );
    for Row { case, system, p50_ns, tail_ns, per_s, ratio } in rows {
        let digits = p50_digits(tail_ns.is_some());
        let (p99, p999) = tail_ns.map_or(("-".into(), "-".into()), |(a, b)| (a.to_string(), b.to_string()));
        let ratio = ratio.map_or("-".into(), |r| format!("{r:.2}"));
        let (name, regime, bytes, inflight) = (case.name, case.regime, case.bytes, case.inflight);
        writeln!(
            text,
            "{name:<10} {system:<14} {regime:<12} {bytes:>8} {inflight:>8} {p50_ns:>10.digits$} {p99:>9} {p999:>9} \
             {per_s:>12.0} {ratio:>14}",
        )
        .expect("a string takes all");
    }
    text
}

/// An array with one object per row. A rate has no `p99_ns` and no `p999_ns`; a case without a floor has a null ratio.
pub fn json(rows: &[Row]) -> String {
    let objects: Vec<String> = rows.iter().map(object).collect();
    format!("[{}]\n", objects.join(",\n"))
}

fn object(row: &Row) -> String {
    let Row { case, system, p50_ns, tail_ns, per_s, ratio } = row;
    let (name, regime, bytes, inflight) = (case.name, case.regime, case.bytes, case.inflight);
    let digits = p50_digits(tail_ns.is_some());
    let tail = tail_ns.map_or(String::new(), |(p99, p999)| format!(r#""p99_ns":{p99},"p999_ns":{p999},"#));
    let ratio = ratio.map_or("null".into(), |r| format!("{r:.3}"));
    // No name here needs escaping: they are ours.
    format!(
        r#"{{"case":"{name}","impl":"{system}","regime":"{regime}","bytes":{bytes},"inflight":{inflight},"p50_ns":{p50_ns:.digits$},{tail}"per_s":{per_s:.0},"ratio_to_floor":{ratio}}}"#
    )
}

/// A timed message has whole nanoseconds; the time a rate leaves to each message is worth a fraction.
fn p50_digits(timed: bool) -> usize {
    if timed { 0 } else { 1 }
}
