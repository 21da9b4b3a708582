//! Which process a word of shared memory names, and whether it still lives.

use crate::error::{Error, Result};
use std::{fs, io};

/// A process, by pid and start time: one that dies and whose pid is used again is not mistaken for its successor.
/// (Unless the kernel goes round all its pids within one clock tick.)
///
/// 63 bits, never 0: start time in clock ticks since boot 41, pid 22. What it says holds within one pid namespace and
/// one time namespace, which is [`namespaces`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u64);

const PID_BITS: u32 = 22; // the kernel's own bound, PID_MAX_LIMIT
const START_BITS: u32 = 41;
const PID: u64 = (1 << PID_BITS) - 1;
const START: u64 = (1 << START_BITS) - 1;
/// Miri and loom have no processes.
const ALONE: bool = cfg!(any(miri, busway_loom));

impl Process {
    /// This process.
    ///
    /// # Errors
    /// [`Error::Io`] if `/proc` does not say when it began.
    pub fn own() -> Result<Self> {
        if ALONE {
            return Ok(Self(1));
        }
        let pid = std::process::id();
        let start = start_time(pid).map_err(Error::std_io("read when this process began"))?;
        Ok(Self((start & START) << PID_BITS | u64::from(pid) & PID))
    }

    /// For a word.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// From a word; what it names may never have existed.
    pub fn from_bits(bits: u64) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }

    /// Its process id.
    pub fn pid(self) -> u32 {
        (self.0 & PID) as u32
    }

    /// Whether it is gone, zombies included. Where the kernel does not tell, it lives. Some microseconds of system
    /// calls.
    #[cfg(not(any(miri, busway_loom)))]
    pub fn is_dead(self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use rustix::io::Errno;
        use rustix::process::{Pid, PidfdFlags, pidfd_open, test_kill_process};
        let Some(pid) = Pid::from_raw(self.pid() as i32) else { return true };
        if test_kill_process(pid) == Err(Errno::SRCH) {
            return true;
        }
        // After this the pid cannot be used anew while we look at its start time, or it is and both differ.
        if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0) {
                return true;
            }
        }
        // Hidden from us (`hidepid`), it lives.
        start_time(self.pid()).is_ok_and(|start| start & START != self.0 >> PID_BITS)
    }

    /// A pidfd of it, which becomes readable when it dies; `None` if it is dead.
    ///
    /// # Errors
    /// What the kernel says, which may have no pidfds, or no more descriptors.
    #[cfg(feature = "shm-name")]
    pub fn pidfd(self) -> rustix::io::Result<Option<std::os::fd::OwnedFd>> {
        use rustix::io::Errno;
        use rustix::process::{Pid, PidfdFlags, pidfd_open};
        let Some(pid) = Pid::from_raw(self.pid() as i32) else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // Alive after this, it is the one behind the descriptor, and not another that got the pid.
            Ok(pidfd) => Ok((!self.is_dead()).then_some(pidfd)),
            Err(Errno::SRCH) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// As the native one.
    #[cfg(any(miri, busway_loom))]
    pub fn is_dead(self) -> bool {
        false
    }
}

/// When a process began, in clock ticks since boot.
fn start_time(pid: u32) -> io::Result<u64> {
    // That of its first thread is the same, and emulators such as qemu, which answer for `/proc/self/stat` with times of their
    // own, let it through.
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{pid}/stat"))?;
    // Field 22. The second one, a name in parentheses, may hold anything.
    let start = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)?.parse().ok());
    start.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The pid namespace and the time namespace of this process: only within both do processes agree on pids and start
/// times.
///
/// # Errors
/// [`Error::Io`] without `/proc`.
pub fn namespaces() -> Result<[u64; 2]> {
    use std::os::unix::fs::MetadataExt;
    if ALONE {
        return Ok([0; 2]);
    }
    let of = |name: &str| fs::metadata(format!("/proc/self/ns/{name}")).map(|of| of.ino());
    let pid = of("pid").map_err(Error::std_io("read the pid namespace"))?;
    // Linux before 5.6 has no time namespaces.
    Ok([pid, of("time").unwrap_or(0)])
}

#[cfg(all(test, not(any(miri, busway_loom))))]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_dead_once_it_is_killed_reaped_or_another() {
        let own = Process::own().unwrap();
        assert!(!own.is_dead());
        assert_eq!((own.pid(), Process::from_bits(own.bits())), (std::process::id(), Some(own)));
        let earlier = Process(own.0 - (1 << PID_BITS));
        assert!(earlier.is_dead(), "the same pid, begun at another time");
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let start = start_time(child.id()).unwrap();
        let named = Process(start << PID_BITS | u64::from(child.id()));
        assert!(!named.is_dead());
        child.kill().unwrap();
        // A zombie until it is waited for. The kill takes its time.
        while !named.is_dead() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(named.is_dead());
    }

    #[test]
    fn what_names_no_process_is_dead() {
        assert_eq!(Process::from_bits(0), None);
        for bits in [1 << PID_BITS, u64::MAX, PID] {
            assert!(Process(bits).is_dead());
        }
    }
}
