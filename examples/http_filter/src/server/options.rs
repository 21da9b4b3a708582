//! The command line.

use anyhow::{Context, Result, bail};
use lexopt::{Arg, ValueExt};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::exit;
use std::str::FromStr;
use std::time::Duration;

const USAGE: &str = "\
usage: http_filter [OPTIONS]
  --filter MODE      none, inline (in this process), busway or uds (a process of its own); busway by default
  --fail MODE        what becomes of requests that cannot be filtered: closed (503, the default) or open (they pass)
  --deadline MS      how long the filter may take, 1000 by default
  --listen ADDR      127.0.0.1:8080 by default; port 0 chooses one
  --plugin PATH      the filter program; by default this program, executed again
  --max-body BYTES   longer bodies are refused (413); 262144 by default, at most 786432
  --threads N        threads of the server, 1 by default";

/// Where requests are filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nowhere.
    None,
    /// In this process.
    Inline,
    /// In a process over a link.
    Busway,
    /// In a process over a Unix socket.
    Uds,
}

/// What becomes of requests that cannot be filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// They are refused.
    Closed,
    /// They pass.
    Open,
}

/// What was chosen.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where requests are filtered.
    pub filter: Mode,
    /// What becomes of those that are not.
    pub fail: Fail,
    /// How long the filter may take.
    pub deadline: Duration,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The filter program, if it is not this one.
    pub plugin: Option<PathBuf>,
    /// The longest body, in bytes.
    pub max_body: usize,
    /// Threads of the server.
    pub threads: usize,
}

/// Leaves room for the headers in one payload.
const MAX_BODY: usize = 768 << 10;

impl Options {
    /// The options of this process; it exits if it was asked for help.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_env() -> Result<Self> {
        let mut options = Self {
            filter: Mode::Busway,
            fail: Fail::Closed,
            deadline: Duration::from_secs(1),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            plugin: None,
            max_body: 256 << 10,
            threads: 1,
        };
        options.parse(lexopt::Parser::from_env()).context(USAGE)?;
        Ok(options)
    }

    fn parse(&mut self, mut arguments: lexopt::Parser) -> Result<()> {
        while let Some(argument) = arguments.next()? {
            match argument {
                Arg::Long("filter") => self.filter = arguments.value()?.parse()?,
                Arg::Long("fail") => self.fail = arguments.value()?.parse()?,
                Arg::Long("deadline") => self.deadline = Duration::from_millis(arguments.value()?.parse()?),
                Arg::Long("listen") => self.listen = arguments.value()?.parse()?,
                Arg::Long("plugin") => self.plugin = Some(arguments.value()?.into()),
                Arg::Long("max-body") => self.max_body = arguments.value()?.parse()?,
                Arg::Long("threads") => self.threads = arguments.value()?.parse()?,
                Arg::Short('h') | Arg::Long("help") => {
                    println!("{USAGE}");
                    exit(0);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        if self.deadline.is_zero() || self.threads == 0 || self.max_body > MAX_BODY {
            bail!("--deadline and --threads are at least 1, --max-body is at most {MAX_BODY}");
        }
        Ok(())
    }
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Ok(match name {
            "none" => Mode::None,
            "inline" => Mode::Inline,
            "busway" => Mode::Busway,
            "uds" => Mode::Uds,
            _ => return Err("the filter is none, inline, busway or uds"),
        })
    }
}

impl FromStr for Fail {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "closed" => Ok(Fail::Closed),
            "open" => Ok(Fail::Open),
            _ => Err("it fails closed or open"),
        }
    }
}
