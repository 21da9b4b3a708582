//! A socket at a path, for processes that connect.

use super::{Guest, Socket};
use crate::error::{Error, JoinError, Result};
use crate::sync::ForkGuard;
use crate::wake::{Deadline, poll_until};
use core::time::Duration;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with, sockopt,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A listening socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct Door {
    socket: OwnedFd,
    path: PathBuf,
    guard: ForkGuard,
}

pub(super) fn new_socket() -> Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(Error::io("create a socket"))
}

pub(super) fn address(path: &Path) -> Result<SocketAddrUnix> {
    SocketAddrUnix::new(path).map_err(Error::io("use the path of a socket"))
}

impl Door {
    /// Listens at `path`. A file that a dead listener left behind is replaced.
    ///
    /// # Errors
    /// I/O errors, among them that somebody else listens there.
    pub fn open(path: &Path) -> Result<Self> {
        let (path, address) = (path.to_path_buf(), address(path)?);
        let guard = ForkGuard::new().map_err(Error::io("map the fork guard"))?;
        let socket = new_socket()?;
        // Before anybody connects, so that the very first packet says who sent it.
        sockopt::set_socket_passcred(&socket, true).map_err(Error::io("ask for credentials"))?;
        let mut bound = bind(&socket, &address);
        // Refused also by a file that is no socket, which is not ours to remove.
        if bound == Err(Errno::ADDRINUSE)
            && std::fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_socket())
            && connect(new_socket()?, &address) == Err(Errno::CONNREFUSED)
        {
            let _ = std::fs::remove_file(&path);
            bound = bind(&socket, &address);
        }
        bound.map_err(Error::io("bind a socket"))?;
        let door = Self { socket, path, guard };
        listen(&door.socket, 128).map_err(Error::io("listen on a socket"))?;
        Ok(door)
    }

    /// Waits until `deadline` for the next process that connects and says hello; what follows may take `patience`.
    ///
    /// # Errors
    /// [`JoinError::NobodyInTime`] if nobody connects. Any other error is about one process that did.
    pub fn accept(&self, deadline: Deadline, patience: Duration) -> Result<Guest> {
        let ready = poll_until(&mut [PollFd::new(&self.socket, PollFlags::IN)], deadline);
        if ready.map_err(Error::io("wait for a connection"))? == 0 {
            return Err(JoinError::NobodyInTime.into());
        }
        let socket = retry_on_intr(|| accept_with(&self.socket, SocketFlags::CLOEXEC));
        let socket = socket.map_err(Error::io("accept a connection"))?;
        sockopt::set_socket_passcred(&socket, true).map_err(Error::io("ask for credentials"))?;
        Guest::greet(Socket::from_fd(socket), deadline.sooner(patience), Deadline::after(patience), None)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Door {
    /// Readable when somebody connects.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if !self.guard.forked() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
