//! How a request gets to the filter and its verdict back.

mod busway;
mod uds;

use crate::format::request::Outgoing;
use ::busway::Deadline;
use bytes::Bytes;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Why there is no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The filter process is gone: another one may do it.
    #[error("the filter died")]
    Died,
    /// It did not answer in time.
    #[error("the filter did not answer in time")]
    Late,
    /// It is there, and what it says is of no use.
    #[error("the filter did not answer by the rules")]
    Broken,
    /// The request is longer than any payload.
    #[error("the request is too long for the filter")]
    TooLong,
}

/// The bytes of a verdict, in private memory.
#[derive(Clone, Debug)]
pub enum Reply {
    /// As most are.
    Short(u8, [u8; Reply::SHORT]),
    /// Too long for that.
    Long(Bytes),
}

impl Reply {
    const SHORT: usize = 64;

    /// The reply that `copy` copies.
    pub fn new(len: usize, copy: impl FnOnce(&mut [u8])) -> Self {
        if len <= Self::SHORT {
            let mut bytes = [0; Self::SHORT];
            copy(&mut bytes[..len]);
            Reply::Short(len as u8, bytes)
        } else {
            let mut bytes = vec![0; len];
            copy(&mut bytes);
            Reply::Long(bytes.into())
        }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Reply::Short(len, bytes) => &bytes[..usize::from(*len)],
            Reply::Long(bytes) => bytes,
        }
    }

    /// A part of it, as given by [`bytes`](Self::bytes), to be kept.
    pub fn share(&self, part: &[u8]) -> Bytes {
        match self {
            Reply::Short(..) => Bytes::copy_from_slice(part),
            Reply::Long(bytes) => bytes.slice_ref(part),
        }
    }
}

/// A filter process and the way to it.
#[derive(Debug)]
pub struct Filter {
    way: Way,
    /// How many verdicts it has given.
    answered: AtomicU64,
    hung: Notify,
}

#[derive(Debug)]
enum Way {
    Busway(busway::Filter),
    Uds(uds::Filter),
}

/// Over what a filter process is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// A link.
    Busway,
    /// A Unix socket.
    Uds,
}

impl Filter {
    /// Spawns a filter process. Within a tokio runtime, from a thread that may block.
    ///
    /// # Errors
    /// It cannot be started, or does not join.
    pub fn spawn(command: Command, over: Over) -> anyhow::Result<Self> {
        let way = match over {
            Over::Busway => Way::Busway(busway::Filter::spawn(command)?),
            Over::Uds => Way::Uds(uds::Filter::spawn(command)?),
        };
        Ok(Self { way, answered: AtomicU64::new(0), hung: Notify::new() })
    }

    /// Has the filter judge a request until a point in time, which is `left` away: whichever of the two the way has use for.
    ///
    /// # Errors
    /// Why there is no verdict.
    pub async fn judge(&self, request: &Outgoing<'_>, until: Deadline, left: Duration) -> Result<Reply, Failure> {
        let before = self.answered.load(Ordering::Relaxed);
        let reply = match &self.way {
            Way::Busway(filter) => filter.judge(request, until).await,
            Way::Uds(filter) => filter.judge(request, left).await,
        };
        match reply {
            Ok(_) => _ = self.answered.fetch_add(1, Ordering::Relaxed),
            // For a whole deadline it has answered nobody.
            Err(Failure::Late) if self.answered.load(Ordering::Relaxed) == before => self.hung.notify_one(),
            Err(_) => {}
        }
        reply
    }

    /// Waits until the process answers nobody for a whole deadline.
    pub async fn hung(&self) {
        self.hung.notified().await;
    }

    /// Waits until the process is gone, or cannot be reached any more.
    pub async fn gone(&self) {
        match &self.way {
            Way::Busway(filter) => filter.gone().await,
            Way::Uds(filter) => filter.gone().await,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        match &self.way {
            Way::Busway(filter) => filter.id(),
            Way::Uds(filter) => filter.id(),
        }
    }

    /// Kills the process. That it is dead already is no error.
    pub fn kill(&self) {
        let id = i32::try_from(self.id()).ok().and_then(rustix::process::Pid::from_raw);
        // It is reaped when this is dropped, so until then nobody else has its number.
        let _ = id.map(|id| rustix::process::kill_process(id, rustix::process::Signal::KILL));
    }
}
