//! A request and its reply between two processes, beside the floor of the same run.
//!
//! `cargo bench --bench rtt -- [--quick] [--only SUBSTRING] [--json FILE]`

mod common;

use std::process::ExitCode;
use std::{env, fs};

use common::floor::Floor;
use common::measure::{Case, Regime, System, take_turns};
use common::options::{Options, USAGE};
use common::{machine, report};

/// The cases, each with as many messages as take some 40 ms at the floor.
const CASES: &[Case] = &[
    case("call", Regime::Hot, 32, 100_000),
    case("call", Regime::Hot, 256, 60_000),
    case("call", Regime::Hot, 4096, 14_000),
    case("call", Regime::Hot, 65536, 1_400),
    case("call", Regime::Hot, 1 << 20, 160),
    case("call-in", Regime::Hot, 4096, 25_000),
    case("call-in", Regime::Hot, 65536, 2_500),
    case("call-in", Regime::Hot, 1 << 20, 300),
    case("call", Regime::ParkedSame, 32, 15_000),
    case("call", Regime::ParkedCross, 32, 3_000),
    case("event", Regime::Hot, 32, 4_000_000),
];

const fn case(name: &'static str, regime: Regime, bytes: usize, n: u32) -> Case {
    Case { name, regime, bytes, inflight: 1, n }
}

/// The floor, and what is measured against it.
fn systems() -> Vec<Box<dyn System>> {
    vec![Box::new(Floor)]
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<(), String> {
    let options = Options::parse(env::args().skip(1))?;
    if options.help {
        println!("{USAGE}");
        return Ok(());
    }
    let cases = options.select(CASES)?;
    machine::claim_cpus().map_err(|e| format!("cannot pin to two CPUs: {e}"))?;
    println!("{}\n", machine::describe());
    let rows = take_turns(&cases, options.rounds(), &mut systems());
    print!("{}", report::table(&rows));
    if let Some(file) = &options.json {
        fs::write(file, report::json(&rows)).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    Ok(())
}
