//! A child process that joins over a socket which it inherits.

use super::{Guest, Socket};
use crate::error::{Error, JoinError, Result};
use crate::sync::ForkGuard;
use crate::wake::{Deadline, poll_until};
use core::time::Duration;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};

/// The environment variable that names the inherited socket.
pub const SOCKET_VARIABLE: &str = "BUSWAY_SOCKET";

/// A child that is never left behind: dropped, it gets a moment to exit by itself, is killed if it does not, and reaped.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    grace: Duration,
    guard: ForkGuard,
}

impl Child {
    /// Spawns a child and lets `join` finish its handshake, which it has begun; `join` also gets the child's pidfd.
    ///
    /// # Errors
    /// [`JoinError::ChildExited`], [`JoinError::NobodyInTime`], what `join` says, I/O errors. The child is then killed and
    /// reaped.
    pub fn spawn<T>(
        mut command: Command,
        patience: Duration,
        join: impl FnOnce(Guest, OwnedFd) -> Result<T>,
    ) -> Result<(T, Self)> {
        let deadline = Deadline::after(patience);
        let (socket, theirs) = Socket::pair()?;
        // The lowest three are the child's standard input, output and error, whatever they are here.
        let theirs = rustix::io::fcntl_dupfd_cloexec(theirs, 3).map_err(Error::io("duplicate a socket"))?;
        let number = theirs.as_raw_fd();
        command.env(SOCKET_VARIABLE, number.to_string());
        // SAFETY: runs between fork and exec; makes one system call on a descriptor that is open there, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                let fd = BorrowedFd::borrow_raw(number);
                Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
            });
        }
        let guard = ForkGuard::new().map_err(Error::io("map the fork guard"))?;
        let child = command.spawn().map_err(Error::std_io("spawn a plugin"))?;
        drop(theirs);
        let mut child = Self { child, grace: Duration::ZERO, guard };
        let joined = pidfd_open(Pid::from_child(&child.child), PidfdFlags::empty())
            .map_err(Error::io("open a pidfd for the child"))
            .and_then(|pidfd| join(Guest::greet(socket, deadline, deadline, Some(pidfd.as_fd()))?, pidfd));
        match joined {
            Ok(joined) => {
                child.grace = Duration::from_secs(1);
                Ok((joined, child))
            }
            Err(Error::Join(JoinError::HungUp)) => match child.wait_exit(Deadline::after(Duration::from_millis(200))) {
                Some(status) => Err(JoinError::ChildExited { status }.into()),
                None => Err(JoinError::HungUp.into()),
            },
            Err(e) => Err(e),
        }
    }

    /// Process id of the child.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether this is a forked copy, whose child it is not.
    pub fn forked(&self) -> bool {
        self.guard.forked()
    }

    /// Kills the child at once.
    ///
    /// # Errors
    /// What the system says.
    pub fn kill(&self) -> Result<()> {
        if self.forked() {
            return Err(Error::Forked);
        }
        // Not reaped before it is dropped, so the pid is its own.
        kill_process(Pid::from_child(&self.child), Signal::KILL).map_err(Error::io("kill a plugin"))
    }

    /// How the child ended, if it does by then.
    fn wait_exit(&mut self, deadline: Deadline) -> Option<ExitStatus> {
        if let Ok(pidfd) = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()) {
            let _ = poll_until(&mut [PollFd::new(&pidfd, PollFlags::IN)], deadline);
        }
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the child to exit until `deadline`, and for a second in any case; then kills it.
    ///
    /// # Errors
    /// What the system says.
    pub fn end(&mut self, deadline: Deadline) -> io::Result<ExitStatus> {
        let limit = deadline.remaining().map_or(Deadline::NEVER, |left| Deadline::after(left.max(self.grace)));
        if let Some(status) = self.wait_exit(limit) {
            return Ok(status);
        }
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.forked() {
            let _ = self.end(Deadline::after(Duration::ZERO));
        }
    }
}
