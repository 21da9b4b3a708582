//! A Unix stream socket, by system calls alone.

use std::io::stdin;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::bytes::End;
use crate::callee::{Callee, command};
use crate::common::measure::{Case, Sample};
use crate::measure::{Caller, Peer, Run};

/// The peer.
pub struct Uds;

impl Peer for Uds {
    fn name(&self) -> &'static str {
        "uds"
    }

    fn configuration(&self) -> String {
        "Unix stream socket, four bytes of length before each payload, 1 MiB of send buffer, readv and writev; \
         non-blocking (hot), blocking (parked); 64 in flight: gathered into one write, poll"
            .into()
    }

    fn runs(&self, _: &Case) -> bool {
        true
    }

    fn call(&self, run: &Run) -> Sample {
        let (ours, theirs) = pair();
        let mut command = command(self, &run.case, "");
        command.stdin(theirs);
        let callee = Callee::start(command);
        let (read, write) = twice(ours.into());
        let sample = measured(run, End::caller(read, write, &run.case));
        callee.end();
        sample
    }

    fn serve(&self, case: &Case, _: &str) {
        let (read, write) = twice(stdin().as_fd().try_clone_to_owned().expect("a socket"));
        End::answer(read, write, case);
    }
}

/// Lets go of the caller once it is measured, which ends the callee.
pub fn measured(run: &Run, mut caller: impl Caller) -> Sample {
    run.calls(&mut caller)
}

/// A pair of sockets that have room for the largest payload.
pub fn pair() -> (UnixStream, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    let size: libc::c_int = 1 << 20;
    for socket in [&ours, &theirs] {
        let (fd, value) = (socket.as_raw_fd(), (&raw const size).cast());
        // SAFETY: an open socket and a live integer of the size passed. The kernel caps what is too much.
        unsafe {
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, value, size_of_val(&size) as libc::socklen_t)
        };
    }
    (ours, theirs.into())
}

fn twice(socket: OwnedFd) -> (OwnedFd, OwnedFd) {
    (socket.try_clone().expect("a descriptor"), socket)
}
