//! The handshake, packet by packet, for sides that do not keep to it.

use busway::region::{MAGIC, VERSION};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socket_with,
};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub const HELLO: u32 = 1;
pub const OFFER: u32 = 2;
pub const ACK: u32 = 3;
pub const GO: u32 = 4;
pub const REFUSE: u32 = 5;

/// The 40 bytes of a packet.
pub fn packet(kind: u32, nonce: u64) -> Vec<u8> {
    let words = [MAGIC, u64::from(kind) << 32 | u64::from(VERSION), 0, nonce, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A packet that was received.
#[derive(Debug)]
pub struct Received {
    pub kind: u32,
    pub nonce: u64,
    pub reason: u32,
    pub fds: Vec<OwnedFd>,
}

pub fn seqpacket() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket")
}

pub fn send(to: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).expect("send a packet");
}

/// The next packet; `None` if the other side has hung up.
pub fn receive(from: impl AsFd) -> Option<Received> {
    let mut bytes = [0; 100];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(&mut bytes)];
    let len = match recvmsg(from, buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
        Ok(message) => message.bytes,
        Err(Errno::CONNRESET) => 0,
        Err(e) => panic!("receive a packet: {e}"),
    };
    let fds = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds = fds.flatten().collect();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    (len > 0).then(|| {
        assert_eq!(len, 40);
        Received { kind: (word(8) >> 32) as u32, nonce: word(24), reason: word(32) as u32, fds }
    })
}
