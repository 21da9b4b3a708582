//! What every benchmark shares: the machine it runs on, the floor it divides by, the way it takes turns and reports.
//!
//! A benchmark is a list of [`Case`]s and a few [`System`]s that can run them, handed to [`main`]. The
//! [floor](floor::Floor) always runs too: the least that two processes on this machine cost, with nothing in between.
//! Systems [take turns](measure::take_turns), and the [report] puts each figure beside its ratio to the floor of the
//! same run. Nothing here knows the library that is measured.

#![allow(dead_code, reason = "each benchmark uses its part of the folder")]

pub mod floor;
pub mod machine;
pub mod measure;
pub mod options;
pub mod process;
pub mod report;
pub mod tally;

use std::process::ExitCode;
use std::{env, fs};

use floor::Floor;
use measure::{Case, System, take_turns};
use options::{Options, USAGE};

/// Runs a benchmark as its command line asks. `systems` is called on the pinned thread, so that threads which a system
/// starts share the measuring side's CPU.
pub fn main(cases: &[Case], systems: impl FnOnce() -> Vec<Box<dyn System>>) -> ExitCode {
    match run(cases, systems) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn run(cases: &[Case], systems: impl FnOnce() -> Vec<Box<dyn System>>) -> Result<(), String> {
    let options = Options::parse(env::args().skip(1))?;
    if options.help {
        println!("{USAGE}");
        return Ok(());
    }
    let cases = options.select(cases)?;
    machine::claim_cpus().map_err(|e| format!("cannot pin to two CPUs: {e}"))?;
    println!("{}\n{}", machine::describe(), tally::describe(options.rounds()));
    let mut systems = systems();
    for system in &systems {
        if let Some(configuration) = system.configuration() {
            println!("{:<12} {configuration}", system.name());
        }
    }
    println!();
    let rows = take_turns(&cases, options.rounds(), &mut Floor, &mut systems);
    print!("{}", report::table(&rows));
    if let Some(file) = &options.json {
        fs::write(file, report::json(&rows)).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    Ok(())
}
