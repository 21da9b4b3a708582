//! What a report looks like to a reader: its rows as a table in Markdown, and as a plot.

mod rows;
mod svg;
mod table;

use std::process::ExitCode;
use std::{fs, io};

use rows::Rows;

const USAGE: &str = "\
usage: cargo run --release -- table FILE
       cargo run --release -- plot FILE -o SVG
  FILE  what an earlier run has written (--json FILE)";

/// Runs `table` or `plot`, with the words behind it.
pub fn main(args: &[String]) -> ExitCode {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["table", file] => read(file).map(|rows| print!("{}", table::markdown(&rows))),
        ["plot", file, "-o", svg] => {
            read(file).and_then(|rows| fs::write(svg, svg::plot(&rows)).map_err(|e| format!("cannot write {svg}: {e}")))
        }
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn read(file: &str) -> Result<Rows, String> {
    let bad = |e: &dyn std::fmt::Display| format!("cannot read {file}: {e}");
    let text = fs::read_to_string(file).map_err(|e: io::Error| bad(&e))?;
    Rows::parse(&text).map_err(|e| bad(&e))
}
