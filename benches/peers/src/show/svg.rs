//! The plot: everybody's time by Busway's over the size, a panel for each way of waiting and each number of calls under
//! way. Times themselves span five decades, in which twice as slow is hard to see; they are in the table.

use std::fmt::Write;

use super::rows::{Row, Rows, distinct, size};

const WIDTH: f64 = 1100.0;
const PANEL: (f64, f64) = (380.0, 330.0);
/// From one panel's corner to the next one's: between them are labels and axis.
const STEP: (f64, f64) = (540.0, 420.0);
/// The first panel's corner.
const AT: (f64, f64) = (64.0, 70.0);
/// Whom everybody is divided by.
const UNIT: &str = "busway";
/// The lines across a panel.
const TICKS: [f64; 12] = [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];
/// The least distance of two labels.
const LEADING: f64 = 14.5;

const PANELS: [(&str, &str, u64); 4] = [
    ("hot", "both awake", 1),
    ("parked-cross", "both asleep between calls", 1),
    ("hot", "both awake, 64 under way: time each", 64),
    ("parked-cross", "asleep when idle, 64 under way: time each", 64),
];

/// The plot of a report, as an SVG.
pub fn plot(rows: &Rows) -> String {
    let (width, height) = (WIDTH, AT.1 + 2.0 * STEP.1 - 20.0);
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' font-family='sans-serif' font-size='12'>\n\
         <rect width='{width}' height='{height}' fill='#ffffff'/>\n\
         <text x='{x}' y='28' font-size='17' font-weight='bold' fill='#222'>A call and its reply between two processes: \
         times Busway's median; lower is faster</text>\n",
        x = AT.0
    );
    for (i, (regime, title, inflight)) in PANELS.into_iter().enumerate() {
        let at = (AT.0 + (i % 2) as f64 * STEP.0, AT.1 + (i / 2) as f64 * STEP.1);
        let marks = marks(&rows.of(regime, inflight).collect::<Vec<_>>());
        if !marks.is_empty() {
            panel(&mut svg, at, title, &marks);
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Somebody's time at one size, by Busway's.
struct Mark<'a> {
    name: &'a str,
    bytes: u64,
    times: f64,
}

fn marks<'a>(rows: &[&'a Row]) -> Vec<Mark<'a>> {
    let unit = |bytes| rows.iter().find(|row| row.name == UNIT && row.bytes == bytes).map(|row| row.p50_ns);
    let mark = |row: &&'a Row| Some(Mark { name: &row.name, bytes: row.bytes, times: row.p50_ns / unit(row.bytes)? });
    rows.iter().filter_map(mark).collect()
}

/// Where values go in a panel.
struct Scale {
    at: (f64, f64),
    /// The logarithms of the least and the most.
    sizes: (f64, f64),
    times: (f64, f64),
}

impl Scale {
    fn x(&self, bytes: u64) -> f64 {
        // Away from the edges, so that marks are whole.
        let part = ((bytes as f64).log2() - self.sizes.0) / (self.sizes.1 - self.sizes.0).max(1.0);
        self.at.0 + 14.0 + part * (PANEL.0 - 28.0)
    }

    fn y(&self, times: f64) -> f64 {
        let part = (times.log2() - self.times.0) / (self.times.1 - self.times.0);
        self.at.1 + (1.0 - part) * PANEL.1
    }
}

fn panel(svg: &mut String, at: (f64, f64), title: &str, marks: &[Mark<'_>]) {
    let sizes = distinct(marks.iter().map(|mark| mark.bytes));
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)))
    };
    let times = range(&mut marks.iter().map(|mark| mark.times.log2()));
    let scale = Scale {
        at,
        sizes: range(&mut sizes.iter().map(|bytes| (*bytes as f64).log2())),
        times: (times.0.min(-1.0) - 0.2, times.1 + 0.2),
    };
    let (left, top, right, bottom) = (at.0, at.1, at.0 + PANEL.0, at.1 + PANEL.1);
    let mut put = |text: String| writeln!(svg, "{text}").expect("a string takes all");
    put(format!("<text x='{left}' y='{}' font-size='14' font-weight='bold' fill='#222'>{title}</text>", top - 10.0));
    for times in TICKS {
        let y = scale.y(times);
        if (top..bottom).contains(&y) {
            put(format!("<line x1='{left}' y1='{y:.1}' x2='{right}' y2='{y:.1}' stroke='#ddd'/>"));
            put(format!("<text x='{}' y='{:.1}' text-anchor='end' fill='#555'>{times} x</text>", left - 6.0, y + 4.0));
        }
    }
    for bytes in &sizes {
        let x = scale.x(*bytes);
        put(format!("<line x1='{x:.1}' y1='{top}' x2='{x:.1}' y2='{bottom}' stroke='#eee'/>"));
        put(format!("<text x='{x:.1}' y='{}' text-anchor='middle' fill='#555'>{}</text>", bottom + 18.0, size(*bytes)));
    }
    put(format!("<rect x='{left}' y='{top}' width='{}' height='{}' fill='none' stroke='#999'/>", PANEL.0, PANEL.1));

    // Ours come last, on top of the others.
    let mut names = distinct(marks.iter().map(|mark| mark.name));
    names.sort_by_key(|name| name.starts_with("busway"));
    let mut labels = Vec::new();
    for name in names {
        let line: Vec<_> =
            marks.iter().filter(|mark| mark.name == name).map(|m| (scale.x(m.bytes), scale.y(m.times))).collect();
        let (color, stroke, dashes) = style(name);
        let points: Vec<_> = line.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        put(format!(
            "<polyline points='{}' fill='none' stroke='{color}' stroke-width='{stroke}' stroke-dasharray='{dashes}'/>",
            points.join(" ")
        ));
        for (x, y) in &line {
            put(format!("<circle cx='{x:.1}' cy='{y:.1}' r='{:.1}' fill='{color}'/>", stroke + 1.0));
        }
        let (x, y) = *line.last().expect("who has a name has a row");
        labels.push((x, y, name, color));
    }
    labels.sort_by(|a, b| a.1.total_cmp(&b.1));
    let wanted: Vec<f64> = labels.iter().map(|label| label.1).collect();
    for ((x, from, name, color), y) in labels.iter().zip(spread(&wanted, top, bottom)) {
        let (weight, to) = (if name.starts_with("busway") { "bold" } else { "normal" }, right + 20.0);
        put(format!(
            "<path d='M{:.1},{from:.1} L{:.1},{y:.1}' stroke='{color}' stroke-width='0.7' fill='none'/>",
            x + 5.0,
            to - 3.0
        ));
        put(format!("<text x='{to}' y='{:.1}' fill='{color}' font-weight='{weight}'>{name}</text>", y + 4.0));
    }
}

/// Where labels go that would be at the `wanted` heights, which ascend: as near as they can without touching.
fn spread(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut y = wanted.to_vec();
    // Pushed apart from below, then from above, in steps that let both sides give way.
    for _ in 0..200 {
        for i in 1..y.len() {
            let lack = LEADING - (y[i] - y[i - 1]);
            if lack > 0.0 {
                y[i - 1] -= lack / 2.0;
                y[i] += lack / 2.0;
            }
        }
        if let [first, .., last] = &mut y[..] {
            (*first, *last) = (first.max(top), last.min(bottom));
        }
    }
    y
}

/// Colour, width and dashes of somebody's line.
fn style(name: &str) -> (&'static str, f64, &'static str) {
    match name {
        "floor" => ("#888888", 1.5, "5 4"),
        "busway" => ("#d1102f", 3.0, "none"),
        "busway-pool" => ("#ef7d00", 3.0, "none"),
        "iceoryx2" => ("#00806b", 1.8, "none"),
        "ipc-channel" => ("#1f5fd0", 1.8, "none"),
        "uds" => ("#6a3d9a", 1.8, "none"),
        "pipe" => ("#8c5a2b", 1.8, "none"),
        "tokio-uds" => ("#0095c8", 1.8, "none"),
        "shmipc" => ("#6b8e00", 1.8, "none"),
        "zeromq" => ("#c2428f", 1.8, "none"),
        _ => ("#333333", 1.8, "none"),
    }
}
