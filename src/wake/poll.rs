//! Waiting for descriptors.

use super::Deadline;
use rustix::event::{PollFd, Timespec, poll};
use rustix::io::{Errno, Result};

/// Waits until something happens to one of these descriptors, or until `deadline`; returns to how many. A signal of the program does
/// not end it.
pub fn poll_until(fds: &mut [PollFd<'_>], deadline: Deadline) -> Result<usize> {
    loop {
        let left = deadline.remaining();
        let left = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match poll(fds, left.as_ref()) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
