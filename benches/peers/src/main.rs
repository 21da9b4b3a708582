//! Busway beside what people use today: the same call between two processes, measured in the same run.
//!
//! `cargo run --release -- [--quick] [--only SUBSTRING] [--json FILE]`, in this folder; then
//! `cargo run --release -- table FILE` and `cargo run --release -- plot FILE -o SVG` show what the file holds.
//!
//! Everybody does the work of `call` in `rtt`: the caller has its payload in memory of its own, the callee answers with
//! what it was sent, the caller has the answer in memory of its own and looks at it. A peer may hand the payload over
//! however it does that best. Hot means that both sides poll, so only peers that can poll have those rows; parked that
//! both sleep whenever they wait. Each peer is a [module](peers) that says how it is set up.

#[path = "../../common/mod.rs"]
mod common;

mod callee;
mod lock;
mod measure;
mod peers;
mod show;

use std::env;
use std::process::ExitCode;

use callee::SERVE;
use common::measure::{Case, Regime, System};
use measure::{Pace, Turns};
use peers::PEERS;

/// One at a time at most as many calls as take the floor some 10 ms; slow peers stop when their [time](Pace) is up, and
/// where 64 are under way only the time counts.
const CASES: &[Case] = &[
    case(Regime::Hot, 32, 1, 25_000),
    case(Regime::Hot, 256, 1, 15_000),
    case(Regime::Hot, 4096, 1, 3_500),
    case(Regime::Hot, 65536, 1, 350),
    case(Regime::Hot, 1 << 20, 1, 40),
    case(Regime::Hot, 32, 64, 25_000),
    case(Regime::Hot, 4096, 64, 3_500),
    case(Regime::Hot, 65536, 64, 350),
    case(Regime::ParkedCross, 32, 1, 800),
    case(Regime::ParkedCross, 256, 1, 800),
    case(Regime::ParkedCross, 4096, 1, 600),
    case(Regime::ParkedCross, 65536, 1, 200),
    case(Regime::ParkedCross, 1 << 20, 1, 30),
    case(Regime::ParkedCross, 32, 64, 800),
    case(Regime::ParkedCross, 4096, 64, 600),
    case(Regime::ParkedCross, 65536, 64, 200),
    case(Regime::ParkedSame, 32, 1, 4_000),
    case(Regime::ParkedSame, 4096, 1, 2_000),
];

const fn case(regime: Regime, bytes: usize, inflight: u32, n: u32) -> Case {
    Case { name: "call", regime, bytes, inflight, n }
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some(SERVE) => callee::serve(&args[1..]),
        Some("plot" | "table") => show::main(&args),
        _ => {
            let pace = if args.iter().any(|arg| arg == "--quick") { Pace::QUICK } else { Pace::FULL };
            common::main(CASES, || {
                PEERS.iter().map(|&peer| Box::new(Turns { peer, pace }) as Box<dyn System>).collect()
            })
        }
    }
}
