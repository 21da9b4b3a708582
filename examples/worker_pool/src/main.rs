//! A host and four worker processes compute the SHA-256 of every file under a directory. Half way a worker is killed without
//! a word, and replaced.
//!
//! `cargo run --release -p worker_pool -- DIR`, where `--list` before DIR prints the sums as `sha256sum` would, and `--worker PROGRAM`
//! has another program do the work than this one: `ffi/examples/worker.c` is one.
//!
//! Each file has one accepted result, which the host checks against a computation of its own.

mod host;
mod worker;

use anyhow::{Context, Result};
use busway::Plugin;
use lexopt::Arg;
use std::path::PathBuf;
use std::process::{ExitCode, exit};

const USAGE: &str = "usage: worker_pool [--list] [--worker PROGRAM] DIR";

struct Arguments {
    dir: PathBuf,
    list: bool,
    worker: Option<PathBuf>,
}

fn arguments() -> Result<Arguments> {
    let (mut dir, mut list, mut worker) = (None, false, None);
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("list") => list = true,
            Arg::Long("worker") => worker = Some(arguments.value()?.into()),
            Arg::Short('h') | Arg::Long("help") => {
                println!("{USAGE}");
                exit(0);
            }
            Arg::Value(value) if dir.is_none() => dir = Some(value.into()),
            other => return Err(other.unexpected()).context(USAGE),
        }
    }
    Ok(Arguments { dir: dir.context(USAGE)?, list, worker })
}

fn main() -> ExitCode {
    let done =
        if Plugin::is_spawned() { worker::run() } else { arguments().and_then(|arguments| host::run(&arguments)) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("worker_pool: {e:#}");
            ExitCode::FAILURE
        }
    }
}
