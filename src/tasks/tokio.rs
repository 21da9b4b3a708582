//! Drivers on tokio.

use super::{Driven, Driver, Readable};
use crate::error::{Error, Result};
use core::pin::pin;
use core::task::{Context, Poll, ready};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

/// A descriptor that tokio's reactor watches.
struct Watched(AsyncFd<OwnedFd>);

impl Readable for Watched {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Cleared before what is there is taken in: what comes after that is told again.
        ready!(self.0.poll_read_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }

    fn later(&mut self, cx: &mut Context<'_>) {
        // Its first poll leaves the waker with the scheduler, which wakes it after a look at its reactor: a task that woke itself
        // would keep that from its sockets for 61 turns.
        let _ = pin!(::tokio::task::yield_now()).poll(cx);
    }
}

/// Spawns a driver on the current runtime.
pub fn drive(bus: Arc<dyn Driven>) -> Result<()> {
    let runtime =
        Handle::try_current().map_err(|_| Error::Unsupported { what: "tokio's reactor outside of a runtime" })?;
    let fd = bus.events()?.try_clone_to_owned().map_err(Error::std_io("duplicate a descriptor"))?;
    // SAFETY: an owned descriptor stays open, and the same, as long as it is owned.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        .map_err(|error| Error::std_io("watch a descriptor")(error.into_parts().1))?;
    runtime.spawn(Driver::new(bus, Watched(watched))?);
    Ok(())
}
