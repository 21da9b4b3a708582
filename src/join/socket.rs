//! The control socket: packets with descriptors and credentials.

use super::{Credentials, Kind, Packet};
use crate::error::{Error, JoinError, Result};
use crate::wake::{Deadline, poll_until};
use core::mem::MaybeUninit;
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, IoSlice};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
    sockopt,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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
        let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
        let mut len = size_of_val(&peer) as libc::socklen_t;
        // By libc, as in `recv`.
        // SAFETY: writes what is passed, within its length.
        let asked = unsafe {
            let peer = (&raw mut peer).cast();
            libc::getsockopt(self.0.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, peer, &mut len)
        };
        if asked != 0 {
            return Err(Error::io("ask who the host is")(last_errno()));
        }
        Ok(peer.into())
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
            if poll_until(&mut fds, deadline).map_err(Error::io("wait for a handshake packet"))? == 0 {
                return Err(JoinError::NobodyInTime.into());
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
        let message = match recv(self.0.as_fd(), &mut bytes) {
            Ok(message) => message,
            Err(Errno::CONNRESET) => return Err(JoinError::HungUp.into()),
            Err(e) => return Err(Error::io("receive a handshake packet")(e)),
        };
        if message.len == 0 {
            return Err(JoinError::HungUp.into());
        }
        if message.truncated {
            return Err(JoinError::Malformed { what: "more than fits one" }.into());
        }
        let packet = Packet::expect(&bytes[..message.len], kind)?;
        Ok(Received { packet, fds: message.fds, credentials: message.credentials })
    }
}

/// What `recvmsg` has received.
struct Raw {
    len: usize,
    truncated: bool,
    fds: Vec<OwnedFd>,
    credentials: Option<Credentials>,
}

/// Receives one packet without waiting.
///
/// By libc: rustix takes the process id in credentials for one that is never 0, which that of a process of a foreign pid
/// namespace is.
fn recv(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Raw, Errno> {
    // Room for MAX_FDS descriptors and one set of credentials, and no more, so that more are told by MSG_CTRUNC.
    let mut control = [0u64; 10];
    let mut buffer = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: plain data, for which zero means nothing.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    (message.msg_iov, message.msg_iovlen) = (&raw mut buffer, 1);
    (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control) as _);
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: all that the message names lives here, and has the length that it says.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) };
    let len = usize::try_from(len).map_err(|_| last_errno())?;
    let truncated = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    let mut raw = Raw { len, truncated, fds: Vec::new(), credentials: None };
    // SAFETY: the kernel has filled in the control messages, so their headers and lengths are right, and each descriptor
    // is new and nobody's.
    unsafe {
        let mut part = libc::CMSG_FIRSTHDR(&message);
        while let Some(header) = part.as_ref() {
            let data = libc::CMSG_DATA(part);
            let len = header.cmsg_len - (data.addr() - part.addr());
            match (header.cmsg_level, header.cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    let fds = (0..len / size_of::<RawFd>()).map(|at| data.cast::<RawFd>().add(at).read_unaligned());
                    raw.fds.extend(fds.map(|fd| OwnedFd::from_raw_fd(fd)));
                }
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if len >= size_of::<libc::ucred>() => {
                    raw.credentials = Some(data.cast::<libc::ucred>().read_unaligned().into());
                }
                _ => {}
            }
            part = libc::CMSG_NXTHDR(&message, part);
        }
    }
    Ok(raw)
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
