//! A request and its reply between two processes, beside the floor of the same run.
//!
//! `cargo bench --bench rtt -- [--quick] [--only SUBSTRING] [--json FILE]`

mod common;

use std::process::ExitCode;

use common::measure::{Case, Regime, System};

/// Each with as many messages as take some 10 ms at the floor.
const CASES: &[Case] = &[
    case("call", Regime::Hot, 32, 25_000),
    case("call", Regime::Hot, 256, 15_000),
    case("call", Regime::Hot, 4096, 3_500),
    case("call", Regime::Hot, 65536, 350),
    case("call", Regime::Hot, 1 << 20, 40),
    case("call-in", Regime::Hot, 4096, 6_000),
    case("call-in", Regime::Hot, 65536, 600),
    case("call-in", Regime::Hot, 1 << 20, 75),
    case("call", Regime::ParkedSame, 32, 4_000),
    case("call", Regime::ParkedCross, 32, 800),
    case("event", Regime::Hot, 32, 1_000_000),
];

const fn case(name: &'static str, regime: Regime, bytes: usize, n: u32) -> Case {
    Case {
        name,
        regime,
        bytes,
        inflight: 1,
        n,
    }
}

/// What is measured against the floor.
fn systems() -> Vec<Box<dyn System>> {
    vec![]
}

fn main() -> ExitCode {
    // A system whose peer is this program once more takes over here, before the options are read.
    common::main(CASES, systems)
}
