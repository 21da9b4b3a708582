//! Keeps one filter process going.

use super::gate::{Gate, count};
use crate::transport::{Filter, Over};
use anyhow::{Context, Result};
use std::env;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

/// A filter that lived shorter than this is not replaced at once.
const AT_ONCE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is started.
#[derive(Clone, Debug)]
pub struct Starter {
    /// The program; this one if there is none.
    pub program: Option<PathBuf>,
    /// How it is reached.
    pub over: Over,
}

impl Starter {
    async fn start(&self) -> Result<Arc<Filter>> {
        let Self { program, over } = self.clone();
        let spawn = move || {
            let program = program.map_or_else(env::current_exe, Ok)?;
            let mut command = Command::new(&program);
            if over == Over::Uds {
                command.arg(super::FILTER_ON_STDIN);
            }
            // In a group of its own: Ctrl-C is for the server, which has requests to finish.
            command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
            Filter::spawn(command, over).with_context(|| format!("start the filter {}", program.display()))
        };
        Ok(Arc::new(spawn_blocking(spawn).await??))
    }
}

/// Starts the first filter.
///
/// # Errors
/// It cannot be started; a server that cannot filter does not begin.
pub async fn begin(gate: &Gate, starter: &Starter) -> Result<()> {
    gate.filter.send_replace(Some(starter.start().await?));
    Ok(())
}

/// Replaces a filter that is gone or hangs, for ever.
pub async fn replace(gate: &Gate, starter: &Starter) {
    let (mut since, mut pause) = (Instant::now(), Duration::ZERO);
    loop {
        let filter = gate.filter.borrow().clone();
        if let Some(filter) = filter {
            tokio::select! {
                () = filter.gone() => eprintln!("filter {}: gone", filter.id()),
                () = filter.hung() => eprintln!("filter {}: hangs", filter.id()),
            }
            gate.filter.send_replace(None);
            filter.kill();
            bury(filter);
        }
        pause = if since.elapsed() > AT_ONCE { Duration::ZERO } else { (pause * 2).clamp(AT_ONCE / 10, LONGEST_PAUSE) };
        tokio::time::sleep(pause).await;
        since = Instant::now();
        match starter.start().await {
            Ok(filter) => {
                eprintln!("filter {}: takes over", filter.id());
                count(&gate.counters.replaced);
                gate.filter.send_replace(Some(filter));
            }
            Err(e) => eprintln!("{e:#}"),
        }
    }
}

/// Waits on a thread that may block until the last request has let go of a filter, and reaps it.
pub fn bury(filter: Arc<Filter>) {
    spawn_blocking(move || {
        let mut filter = filter;
        while let Err(shared) = Arc::try_unwrap(filter) {
            filter = shared;
            thread::sleep(Duration::from_millis(1));
        }
    });
}
