//! The host's side of the handshake.

use super::{Credentials, Identity, Kind, Packet, Refusal, Socket};
use crate::error::{Error, JoinError, Result};
use crate::wake::Deadline;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use std::os::fd::{AsFd, BorrowedFd};

/// A process that has said hello.
#[derive(Debug)]
pub struct Guest {
    socket: Socket,
    identity: Identity,
    deadline: Deadline,
}

impl Guest {
    /// Waits until `hello_by` for the hello of who is on the other end; the rest of the handshake may take until `deadline`.
    /// `also` becomes readable when waiting is in vain.
    ///
    /// # Errors
    /// As [`Socket::expect`]; [`JoinError::Identity`].
    pub fn greet(socket: Socket, hello_by: Deadline, deadline: Deadline, also: Option<BorrowedFd<'_>>) -> Result<Self> {
        let hello = socket.expect(Kind::Hello, hello_by, also).inspect_err(|e| {
            // The refusal carries our version, which is what a process of another one will report.
            if matches!(e, Error::VersionMismatch { .. }) {
                let _ = socket.send(&Packet::refuse(Refusal::Version), &[]);
            }
        })?;
        let identity = hello.credentials.ok_or(JoinError::Identity { what: "no credentials came with its hello" });
        match identity.map_err(Error::from).and_then(Identity::of) {
            Ok(identity) => Ok(Self { socket, identity, deadline }),
            Err(e) => {
                let _ = socket.send(&Packet::refuse(Refusal::Identity), &[]);
                Err(e)
            }
        }
    }

    /// Who wants in.
    pub fn credentials(&self) -> Credentials {
        self.identity.credentials
    }

    /// Hands out `files`, and last a pidfd of this process; waits until the other one has mapped them. `place` is that of a
    /// member of a pool, 0 for a link.
    ///
    /// # Errors
    /// As [`Socket::send`] and [`Socket::expect`]; [`JoinError::Identity`].
    pub fn offer(&self, place: u32, files: &[BorrowedFd<'_>]) -> Result<()> {
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).map_err(Error::io("open a pidfd of this process"))?;
        let offer = Packet { place, ..Packet::new(Kind::Offer).with_nonce(nonce()) };
        let files: Vec<_> = files.iter().copied().chain([pidfd.as_fd()]).collect();
        self.socket.send(&offer, &files)?;
        let ack = self.socket.expect(Kind::Ack, self.deadline, Some(self.identity.pidfd.as_fd()))?;
        if ack.packet.nonce != offer.nonce {
            return Err(JoinError::Malformed { what: "an acknowledgement of something else" }.into());
        }
        self.identity.confirm(ack.credentials.ok_or(JoinError::Identity { what: "no credentials" })?)
    }

    /// Checks that it lives, and so still has its process id.
    ///
    /// # Errors
    /// [`JoinError::HungUp`].
    pub fn check_alive(&self) -> Result<()> {
        self.identity.confirm(self.identity.credentials)
    }

    /// Tells it that it may begin. What remains is the socket, whose closing is a hint that the process is gone, and who it is.
    ///
    /// # Errors
    /// As [`Socket::send`].
    pub fn go(self) -> Result<(Socket, Identity)> {
        self.socket.send(&Packet::new(Kind::Go), &[])?;
        Ok((self.socket, self.identity))
    }

    /// Tells it that it is not admitted.
    pub fn refuse(&self, reason: Refusal) {
        // It may have gone already.
        let _ = self.socket.send(&Packet::refuse(reason), &[]);
    }
}

/// A number that a plugin cannot know before it was told.
fn nonce() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
