//! The filter process over a link.

use super::{Failure, Reply};
use crate::format::request::Outgoing;
use crate::plugin::JUDGE;
use busway::{Config, Deadline, Error, Geometry, Host, Idle, Process, SizeClass};
use std::process::Command;
use std::time::Duration;
use tokio::sync::Notify;

/// A filter process at the other end of a link.
#[derive(Debug)]
pub struct Filter {
    process: Process,
    gone: Notify,
}

/// How long the server looks for a verdict while it has nothing else to do. Then it sleeps: the filter, and above all the
/// client, need the CPU more.
const SPIN: Duration = Duration::from_micros(5);

/// Enough for a call of each of 1,000 connections, most of them short.
fn geometry() -> Geometry {
    let classes =
        [(256, 2048), (1 << 10, 1024), (4 << 10, 512), (16 << 10, 128), (64 << 10, 64), (256 << 10, 16), (1 << 20, 8)];
    Geometry { entries: 2048, cells: 2048, classes: classes.map(|(size, count)| SizeClass { size, count }).into() }
}

impl Filter {
    /// Spawns a filter process. Within a tokio runtime.
    pub fn spawn(command: Command) -> anyhow::Result<Self> {
        let config = Config::default().geometry(geometry()).idle(Idle::Adaptive { spin: SPIN });
        let process = Host::new(config).spawn(command)?;
        process.drive_on_tokio()?;
        Ok(Self { process, gone: Notify::new() })
    }

    pub async fn judge(&self, request: &Outgoing<'_>, until: Deadline) -> Result<Reply, Failure> {
        let verdict = self.call(request, until).await;
        verdict.map_err(|error| {
            if self.process.is_closed() {
                self.gone.notify_one();
            }
            failure(&error)
        })
    }

    async fn call(&self, request: &Outgoing<'_>, until: Deadline) -> busway::Result<Reply> {
        let mut loan = self.process.loan_async(request.size(), until).await?;
        request.write(&mut loan);
        let verdict = self.process.call_async(JUDGE, loan, until).await?;
        Ok(Reply::new(verdict.len(), |to| verdict.bytes().copy_to(to)))
    }

    pub async fn gone(&self) {
        while !self.process.is_closed() {
            // Those who wait for a verdict hear of it at once; otherwise there is no hurry.
            let _ = tokio::time::timeout(Duration::from_millis(100), self.gone.notified()).await;
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::PeerDied { .. } | Error::Closed | Error::Cancelled | Error::Poisoned { .. } => Failure::Died,
        Error::Timeout { .. } => Failure::Late,
        Error::TooLarge { .. } => Failure::TooLong,
        _ => Failure::Broken,
    }
}
