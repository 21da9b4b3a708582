//! The few options of a benchmark.

use std::path::PathBuf;

use super::measure::Case;

/// What `--help` says.
pub const USAGE: &str = "\
usage: cargo bench --bench NAME -- [--quick] [--only SUBSTRING] [--json FILE]
       cargo run --release -- [--quick] [--only SUBSTRING] [--json FILE]      (in benches/peers)
  --quick           a smoke run of a few rounds; its figures are rough
  --only SUBSTRING  only cases whose name (case/regime/bytes/inflight, such as call/hot/32/1) contains it
  --json FILE       also write the rows to FILE";

/// What the user asked for.
#[derive(Default)]
pub struct Options {
    pub quick: bool,
    pub only: String,
    pub json: Option<PathBuf>,
    pub help: bool,
}

impl Options {
    /// Reads the arguments after the program's name. Errors say which one is wrong.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut args = args.into_iter();
        let mut options = Self::default();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} wants a value"));
            match arg.as_str() {
                // Cargo's mark on whatever it runs as a benchmark.
                "--bench" => {}
                "--quick" => options.quick = true,
                "--only" => options.only = value()?,
                "--json" => options.json = Some(value()?.into()),
                "--help" | "-h" => options.help = true,
                _ => return Err(format!("unknown option {arg}")),
            }
        }
        Ok(options)
    }

    /// How often to run each case. With 61 rounds the ratio of equal systems stays within a few percent of one, even
    /// on a virtual machine whose CPUs are moved about.
    pub fn rounds(&self) -> u32 {
        if self.quick { 5 } else { 61 }
    }

    /// The cases that were asked for.
    pub fn select(&self, cases: &[Case]) -> Result<Vec<Case>, String> {
        let chosen: Vec<_> = cases.iter().copied().filter(|case| case.to_string().contains(&self.only)).collect();
        if chosen.is_empty() { Err(format!("no case contains {:?}", self.only)) } else { Ok(chosen) }
    }
}
