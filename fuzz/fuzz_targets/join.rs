//! The whole handshake, over a real socket, with a client that says what it likes, with any descriptors.
#![no_main]

use busway::internals::join::{Kind, Packet};
use busway::{Config, Geometry, Host, Listener, SizeClass};
use busway_fuzz::{Step, mutate, steps};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{SealFlags, fcntl_add_seals};
use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

fn listener() -> &'static Listener {
    static LISTENER: OnceLock<Listener> = OnceLock::new();
    LISTENER.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("busway-fuzz-{}", std::process::id()));
        let geometry = Geometry { entries: 8, cells: 8, classes: vec![SizeClass { size: 64, count: 1 }] };
        // A client that falls silent is hung up by the end of its steps, long before.
        let host = Host::new(Config::default().geometry(geometry)).patience(Duration::from_secs(5));
        host.listen(path).expect("listen")
    })
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("our descriptors").count()
}

/// What a client does with its steps.
fn client(socket: &OwnedFd, steps: impl Iterator<Item = Step>) {
    let (mut nonce, mut files) = (0, Vec::new());
    for Step { what, a, b, c, value } in steps.take(20) {
        let (mut packet, mut len, mut fds) = (Packet::new(Kind::Hello), size_of::<Packet>(), 0);
        match what % 6 {
            0 => {}
            1 => packet = Packet::new(Kind::Ack).with_nonce(nonce),
            2 => {
                // One that is nearly right, of any length, with any descriptors.
                packet = Packet::new([Kind::Hello, Kind::Ack, Kind::Refuse, Kind::Go][usize::from(a & 3)]);
                let word =
                    &mut bytemuck::cast_slice_mut::<_, u32>(core::slice::from_mut(&mut packet))[usize::from(b % 10)];
                *word ^= value;
                (len, fds) = (usize::from(c), usize::from(a >> 2) % 17);
            }
            3 => {
                fds = usize::from(a) % 17;
                packet = packet.with_nonce(nonce);
            }
            4 => {
                (nonce, files) = match offer(socket) {
                    Some(offer) => offer,
                    None => return,
                };
                continue;
            }
            _ => {
                if let Some(file) = files.get(usize::from(a)) {
                    let seals = SealFlags::from_bits_truncate(u32::from(b));
                    let _ = (fcntl_add_seals(file, seals), rustix::fs::ftruncate(file, value.into()));
                }
                continue;
            }
        }
        let bytes = [bytemuck::bytes_of(&packet), &[a; 300]].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(17))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = vec![socket.as_fd(); fds];
        if fds > 0 {
            control.push(SendAncillaryMessage::ScmRights(&rights));
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if sendmsg(socket, &[IoSlice::new(&bytes[..len])], &mut control, flags).is_err() {
            return;
        }
    }
}

/// Waits for an offer; `None` when the host has hung up, or does not answer.
fn offer(socket: &OwnedFd) -> Option<(u64, Vec<OwnedFd>)> {
    let limit = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&limit)).ok().filter(|ready| *ready > 0)?;
    let mut packet = Packet::new(Kind::Hello);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(bytemuck::bytes_of_mut(&mut packet))];
    let received = recvmsg(socket, buffers, &mut control, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT).ok()?;
    let files = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files = files.flatten().collect();
    (received.bytes > 0).then_some((packet.nonce, files))
}

fuzz_target!(|data: &[u8]| {
    let listener = listener();
    let before = descriptors();
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
    connect(&socket, &SocketAddrUnix::new(listener.path()).expect("an address")).expect("connect");
    let steps: Vec<_> = steps(data).collect();
    thread::scope(|threads| {
        let client = threads.spawn(move || {
            client(&socket, steps.into_iter());
            drop(socket);
        });
        if let Ok(link) = listener.accept(Duration::from_secs(5)).and_then(|guest| guest.admit()) {
            assert!(link.max_payload() == 64);
        }
        // Wholly gone, for the sanitizer that looks for leaks.
        client.join().expect("no panic");
    });
    assert_eq!(descriptors(), before, "descriptors are left open");
});

fuzz_mutator!(|data: &mut [u8], size: usize, max: usize, seed: u32| {
    mutate(data, size, max, seed, |data, size, max| fuzzer_mutate(data, size, max))
});
