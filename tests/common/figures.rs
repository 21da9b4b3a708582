//! Figures of the guarantees: what tests have counted and measured, for the table that `ci/guarantees.sh` prints.

use std::env;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

/// For how long a test goes on that draws by chance: as long as `BUSWAY_SECONDS` says in a long run, else `short`.
pub fn duration(short: Duration) -> Duration {
    let long = env::var("BUSWAY_SECONDS").ok().map(|seconds| seconds.parse().expect("BUSWAY_SECONDS: a number"));
    long.map_or(short, Duration::from_secs)
}

/// Whether this is a long run, in which what takes minutes is done too.
pub fn is_long() -> bool {
    env::var_os("BUSWAY_SECONDS").is_some()
}

/// Reports a row of the table: which guarantee ("G1"), what was counted or measured, how much.
///
/// Goes to the file that `BUSWAY_FIGURES` names, since a test's output is not shown, and to the output.
pub fn figure(guarantee: &str, what: &str, value: impl Display) {
    println!("{guarantee}: {what}: {value}");
    let Some(path) = env::var_os("BUSWAY_FIGURES") else { return };
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("open BUSWAY_FIGURES");
    // In one write: tests run side by side.
    file.write_all(format!("{guarantee}\t{what}\t{value}\n").as_bytes()).expect("write a figure");
}
