//! A pipe each way, as between a host and a plugin that talks on its standard input and output.

use std::io::{stdin, stdout};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Stdio;

use super::bytes::End;
use super::uds::measured;
use crate::callee::{Callee, command};
use crate::common::measure::{Case, Sample};
use crate::measure::{Peer, Run};

/// The peer.
pub struct Pipe;

impl Peer for Pipe {
    fn name(&self) -> &'static str {
        "pipe"
    }

    fn configuration(&self) -> String {
        "the callee's standard input and output, pipes of 1 MiB; otherwise as uds".into()
    }

    fn runs(&self, _: &Case) -> bool {
        true
    }

    fn call(&self, run: &Run) -> Sample {
        let mut command = command(self, &run.case, "");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut callee = Callee::start(command);
        let child = callee.child();
        let read = OwnedFd::from(child.stdout.take().expect("a pipe"));
        let write = OwnedFd::from(child.stdin.take().expect("a pipe"));
        for fd in [&read, &write] {
            // SAFETY: plain numbers and an open pipe. Where the kernel allows less, the pipe stays as it is.
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) };
        }
        let sample = measured(run, End::caller(read, write, &run.case));
        callee.end();
        sample
    }

    fn serve(&self, case: &Case, _: &str) {
        let read = stdin().as_fd().try_clone_to_owned().expect("a pipe");
        let write = stdout().as_fd().try_clone_to_owned().expect("a pipe");
        End::answer(read, write, case);
    }
}
