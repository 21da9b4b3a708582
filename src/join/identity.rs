//! Who the other process is, for as long as it lives.

use crate::error::{Error, JoinError, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Who the other process is, as the kernel said when it joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id, in this process's pid namespace; 0 of a host outside of it.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Credentials {
    /// This process.
    pub fn own() -> Self {
        if cfg!(miri) {
            return Self { pid: 1, uid: 0, gid: 0 }; // Miri has no users
        }
        let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
        Self { pid: std::process::id(), uid: uid.as_raw(), gid: gid.as_raw() }
    }
}

impl From<libc::ucred> for Credentials {
    fn from(cred: libc::ucred) -> Self {
        // No process id is negative.
        Self { pid: cred.pid.try_into().unwrap_or(0), uid: cred.uid, gid: cred.gid }
    }
}

/// A process that is known by its pidfd: one that dies and whose pid is used again is not mistaken for its successor.
#[derive(Debug)]
pub struct Identity {
    /// What the kernel said about it.
    pub credentials: Credentials,
    /// Becomes readable when it dies.
    pub pidfd: OwnedFd,
}

impl Identity {
    /// Opens a pidfd for the process. Until a second message with the same credentials has come and the pidfd still says
    /// alive, it might be another process that got the pid meanwhile.
    ///
    /// # Errors
    /// [`JoinError::Identity`] for a process of a foreign pid namespace, which has none here: nobody could tell when it dies.
    pub fn of(credentials: Credentials) -> Result<Self> {
        let pid = i32::try_from(credentials.pid).ok().and_then(Pid::from_raw);
        let what = "it lives in a pid namespace that is not visible here; start it in that of its host, or within";
        let pid = pid.ok_or(JoinError::Identity { what })?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(Error::io("open a pidfd for the other process"))?;
        Ok(Self { credentials, pidfd })
    }

    /// Checks that the process which sent a message with these credentials is the one behind the pidfd.
    pub fn confirm(&self, credentials: Credentials) -> Result<()> {
        if credentials != self.credentials {
            return Err(JoinError::Identity { what: "two messages came from two processes" }.into());
        }
        if is_dead(self.pidfd.as_fd()) {
            return Err(JoinError::HungUp.into());
        }
        Ok(())
    }
}

fn is_dead(pidfd: BorrowedFd<'_>) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)).unwrap_or(0) > 0
}
