//! An HTTP server whose requests pass through a filter in a process of its own, which can block, rewrite or answer them, and
//! may be killed at any time.
//!
//! `cargo run --release -p http_filter`, then the `curl` lines that it prints; `--help` has the options.
//!
//! It executes itself again as its filter, unless `--plugin` names another program.

use busway::Plugin;
use http_filter::plugin;
use http_filter::server::{self, options::Options};
use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let is_filter = Plugin::is_spawned() || env::args_os().nth(1).is_some_and(|first| first == server::FILTER_ON_STDIN);
    let done = if is_filter { plugin::run() } else { Options::from_env().and_then(|options| server::run(&options)) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("http_filter: {e:#}");
            ExitCode::FAILURE
        }
    }
}
