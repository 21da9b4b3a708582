//! The plot.
use std::process::ExitCode;
/// Draws.
pub fn main(_: &[String]) -> ExitCode { ExitCode::SUCCESS }
