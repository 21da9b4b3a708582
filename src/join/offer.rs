//! The plugin's side of the handshake.

use super::child::SOCKET_VARIABLE;
use super::door::{address, new_socket};
use super::{Credentials, Kind, Packet, Refusal, Socket};
use crate::error::{Error, JoinError, Result};
use crate::wake::Deadline;
use core::time::Duration;
use rustix::io::retry_on_intr;
use rustix::net::{SocketType, connect, sockopt};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

/// How long the host may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a host has offered.
#[derive(Debug)]
pub struct Offer {
    /// Files to map.
    pub files: Vec<OwnedFd>,
    /// The place of this process in a pool, 0 for a link.
    pub place: u32,
    socket: Socket,
    pidfd: OwnedFd,
    nonce: u64,
    deadline: Deadline,
}

/// The host of a process that has joined.
#[derive(Debug)]
pub struct HostIdentity {
    /// Who it is.
    pub credentials: Credentials,
    /// Its pidfd, and the socket, which hangs up when it is gone.
    pub watched: [OwnedFd; 2],
}

impl Offer {
    /// Asks the host that spawned this process. Once: after that the number of the socket may be any other descriptor's.
    ///
    /// # Errors
    /// [`JoinError::NotAPlugin`], and as [`connect`](Self::connect).
    pub fn inherited() -> Result<Self> {
        Self::ask(inherited_socket()?)
    }

    /// Asks the host that listens at `path`.
    ///
    /// # Errors
    /// As [`Socket::send`] and [`Socket::expect`]; I/O errors.
    pub fn connect(path: &Path) -> Result<Self> {
        let (socket, address) = (new_socket()?, address(path)?);
        retry_on_intr(|| connect(&socket, &address)).map_err(Error::io("connect to a host"))?;
        Self::ask(Socket::from_fd(socket))
    }

    fn ask(socket: Socket) -> Result<Self> {
        let deadline = Deadline::after(PATIENCE);
        socket.send(&Packet::new(Kind::Hello), &[])?;
        let offer = socket.expect(Kind::Offer, deadline, None)?;
        let mut files = offer.fds;
        let pidfd = files.pop().ok_or(JoinError::Malformed { what: "an offer without descriptors" })?;
        Ok(Self { files, place: offer.packet.place, socket, pidfd, nonce: offer.packet.nonce, deadline })
    }

    /// Maps the files by `map`, and says so; waits until the host lets this process begin.
    ///
    /// # Errors
    /// What `map` says, of which the host is told that it failed; as [`Socket::expect`].
    pub fn accept<T>(self, map: impl FnOnce(Vec<OwnedFd>, u32) -> Result<T>) -> Result<(T, HostIdentity)> {
        let Self { files, place, socket, pidfd, nonce, deadline } = self;
        let mapped = map(files, place).inspect_err(|_| {
            let _ = socket.send(&Packet::refuse(Refusal::Failed), &[]);
        })?;
        socket.send(&Packet::new(Kind::Ack).with_nonce(nonce), &[])?;
        socket.expect(Kind::Go, deadline, Some(pidfd.as_fd()))?;
        Ok((mapped, HostIdentity { credentials: socket.peer()?, watched: [pidfd, socket.into_fd()] }))
    }
}

/// Whether this process, or one that it descends from, was spawned by a host.
pub fn is_spawned() -> bool {
    std::env::var_os(SOCKET_VARIABLE).is_some()
}

/// The socket that the host left open for us.
fn inherited_socket() -> Result<Socket> {
    static TAKEN: std::sync::Once = std::sync::Once::new();
    let mut first = false;
    TAKEN.call_once(|| first = true);
    let number = std::env::var(SOCKET_VARIABLE).ok().and_then(|n| n.parse().ok()).filter(|n| first && *n > 2);
    let number = number.ok_or(JoinError::NotAPlugin)?;
    // SAFETY: only looked at, by calls that fail if it is not open or no socket.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if sockopt::socket_type(borrowed) != Ok(SocketType::SEQPACKET) {
        return Err(JoinError::NotAPlugin.into());
    }
    // Our own children are not this host's plugins.
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)
        .map_err(Error::io("keep the socket from children"))?;
    // SAFETY: the host opened it for this process alone, and nobody else takes it.
    Ok(Socket::from_fd(unsafe { OwnedFd::from_raw_fd(number) }))
}
