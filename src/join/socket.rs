//! The control socket: packets with descriptors and credentials.

use super::{Credentials, Kind, Packet};
use crate::error::{Error, JoinError, Result};
use crate::wake::Deadline;
use core::mem::MaybeUninit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Descriptors that one packet may carry.
const MAX_FDS: usize = 8;

/// One end of a control socket.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// A packet that came, and what came with it.
#[derive(Debug)]
pub struct Received {
    /// The packet.
    pub packet: Packet,
    /// Descriptors, all of them close-on-exec. Those that nobody takes are closed with this.
    pub fds: Vec<OwnedFd>,
    /// Who sent it, if the kernel was asked to say.
    pub credentials: Option<Credentials>,
}

impl Socket {
    /// Takes over a connected socket.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Two connected ends; the first one learns who writes to it.
    pub fn pair() -> Result<(Self, Self)> {
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(Error::io("create a socket pair"))?;
        sockopt::set_socket_passcred(&ours, true).map_err(Error::io("ask for credentials"))?;
        Ok((Self(ours), Self(theirs)))
    }

    /// The process that made the socket pair, or that listens: for the side that did not.
    pub fn peer(&self) -> Result<Credentials> {
        Credentials::from_kernel(&sockopt::socket_peercred(&self.0).map_err(Error::io("ask who the host is"))?)
    }

    /// The descriptor, for the doorbell to watch.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a packet with descriptors. Does not block: the handshake never has more under way than fits.
    pub fn send(&self, packet: &Packet, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Error::Unsupported { what: "so many descriptors in one packet" });
        }
        let bytes = IoSlice::new(bytemuck::bytes_of(packet));
        match sendmsg(&self.0, &[bytes], &mut control, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(_) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => Err(JoinError::HungUp.into()),
            Err(e) => Err(Error::io("send a handshake packet")(e)),
        }
    }

    /// Waits for the next packet, which must be of this kind, or until `also` becomes readable.
    ///
    /// # Errors
    /// [`JoinError::NobodyInTime`], [`JoinError::HungUp`] (also if `also` is readable and no packet is), or what
    /// [`Packet::expect`] says.
    pub fn expect(&self, kind: Kind, deadline: Deadline, also: Option<BorrowedFd<'_>>) -> Result<Received> {
        loop {
            let mut fds = Vec::from([PollFd::new(&self.0, PollFlags::IN)]);
            fds.extend(also.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
            let left = deadline
                .remaining()
                .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
            match poll(&mut fds, left.as_ref()) {
                Ok(0) => return Err(JoinError::NobodyInTime.into()),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(Error::io("wait for a handshake packet")(e)),
            }
            let readable = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
            if readable(0) {
                return self.receive(kind);
            }
            if readable(1) {
                return Err(JoinError::HungUp.into());
            }
        }
    }

    fn receive(&self, kind: Kind) -> Result<Received> {
        let mut bytes = [0; 2 * size_of::<Packet>()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(message) => message,
            Err(Errno::CONNRESET) => return Err(JoinError::HungUp.into()),
            Err(e) => return Err(Error::io("receive a handshake packet")(e)),
        };
        let (mut fds, mut credentials) = (Vec::new(), None);
        for part in control.drain() {
            match part {
                RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
                RecvAncillaryMessage::ScmCredentials(cred) => credentials = Some(Credentials::from_kernel(&cred)),
                _ => {}
            }
        }
        if message.bytes == 0 {
            return Err(JoinError::HungUp.into());
        }
        if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(JoinError::Malformed { what: "more than fits one" }.into());
        }
        let packet = Packet::expect(&bytes[..message.bytes], kind)?;
        Ok(Received { packet, fds, credentials: credentials.transpose()? })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
