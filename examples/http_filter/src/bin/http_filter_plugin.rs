//! The filter alone, for `http_filter --plugin PATH`: what a filter of your own would be.

use std::process::ExitCode;

fn main() -> ExitCode {
    match http_filter::plugin::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("http_filter_plugin: {e:#}");
            ExitCode::FAILURE
        }
    }
}
