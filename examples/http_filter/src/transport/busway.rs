//! The filter process over a link.

use super::{Failure, Reply};
use crate::format::request::Outgoing;
use crate::plugin::JUDGE;
use busway::{Config, Error, Geometry, Host, Idle, Pending, Process, SizeClass};
use slab::Slab;
use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// A filter process at the other end of a link.
#[derive(Debug)]
pub struct Filter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    process: Process,
    waiting: Mutex<Slab<(Pending<'static>, Waker)>>,
    gone: Notify,
}

fn geometry() -> Geometry {
    let classes = [
        (128, 2048),
        (256, 2048),
        (1024, 2048),
        (4096, 512),
        (16 << 10, 128),
        (64 << 10, 64),
        (256 << 10, 16),
        (1 << 20, 8),
    ];
    Geometry { entries: 2048, cells: 2048, classes: classes.map(|(size, count)| SizeClass { size, count }).into() }
}

impl Filter {
    pub fn spawn(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(std::process::Stdio::null());
        let process = Host::new(Config::default().geometry(geometry()).idle(Idle::Park)).spawn(command)?;
        let shared = Arc::new(Shared { process, waiting: Mutex::default(), gone: Notify::new() });
        let fd = shared.process.as_fd().try_clone_to_owned()?;
        #[allow(deprecated)]
        let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
        Handle::current().spawn(drive(fd, Arc::downgrade(&shared)));
        Ok(Self { shared })
    }

    pub async fn judge(&self, request: &Outgoing<'_>, deadline: Instant) -> Result<Reply, Failure> {
        let link = &self.shared.process;
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let mut loan = loop {
            match link.try_loan(request.len()) {
                Ok(loan) => break loan,
                Err(Error::Full) => tokio::task::yield_now().await,
                Err(e) => return Err(failure(&e)),
            }
        };
        request.write(&mut loan);
        let pending = link.try_submit(JUDGE, loan, left).map_err(|e| failure(&e))?;
        let pending = if pending.is_ready() { pending } else { self.wait(pending.into_owned()).await };
        match pending.wait() {
            Ok(message) => Ok(Reply::new(message.len(), |to| message.bytes().copy_to(to))),
            Err(e) => Err(failure(&e)),
        }
    }

    async fn wait(&self, pending: Pending<'static>) -> Pending<'static> {
        let mut pending = Some(pending);
        let mut place = None;
        poll_fn(|context| {
            let mut waiting = self.shared.waiting();
            if let Some(call) = pending.take() {
                place = Some(waiting.insert((call, context.waker().clone())));
                return Poll::Pending;
            }
            let at = place.unwrap();
            if waiting[at].0.is_ready() {
                return Poll::Ready(waiting.remove(at).0);
            }
            Poll::Pending
        })
        .await
    }

    pub async fn gone(&self) {
        while !self.shared.process.is_closed() {
            self.shared.gone.notified().await;
        }
    }

    pub fn id(&self) -> u32 {
        self.shared.process.id()
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Slab<(Pending<'static>, Waker)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(&self) -> bool {
        let waiting = self.waiting();
        let mut any = false;
        for (_, (pending, waker)) in &*waiting {
            if pending.is_ready() {
                waker.wake_by_ref();
                any = true;
            }
        }
        any
    }
}

async fn drive(fd: AsyncFd<OwnedFd>, shared: Weak<Shared>) {
    loop {
        {
            let Some(shared) = shared.upgrade() else { return };
            if shared.process.is_closed() {
                shared.sweep();
                shared.gone.notify_one();
                return;
            }
            shared.process.arm();
            if shared.sweep() {
                shared.process.disarm();
                drop(shared);
                tokio::task::yield_now().await;
                continue;
            }
        }
        if let Ok(mut guard) = fd.readable().await {
            guard.clear_ready();
        }
        let Some(shared) = shared.upgrade() else { return };
        shared.process.disarm();
    }
}

fn failure(error: &Error) -> Failure {
    match error {
        Error::PeerDied { .. } | Error::Closed | Error::Cancelled | Error::Poisoned { .. } => Failure::Died,
        Error::Timeout { .. } | Error::Full => Failure::Late,
        Error::TooLarge { .. } => Failure::TooLong,
        _ => Failure::Broken,
    }
}
