//! The descriptor of an end: a socket that the peer rings, and what else ends a long sleep.

use crate::error::{Error, Result};
use crate::sync;
use core::mem::MaybeUninit;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// One descriptor to wait on, for everything that can happen to one end of a link.
///
/// The doorbell proper is a socket, not an eventfd: a peer that holds the same eventfd can fill it and make it blocking, so
/// that our ring blocks; on a socket every send of ours says `MSG_DONTWAIT`. Together with the control socket, the pidfds of
/// the peer and a private eventfd (to nudge our own poller) it is watched by one epoll instance, which is itself a
/// descriptor that any event loop can wait on.
#[derive(Debug)]
pub struct Doorbell {
    epoll: OwnedFd,
    socket: OwnedFd,
    nudge: OwnedFd,
    watched: Vec<OwnedFd>,
}

const SOCKET: u64 = 0;
const NUDGE: u64 = 1;
const WATCHED: u64 = 2;

impl Doorbell {
    /// Watches `socket`, our end of the doorbell, and `watched`: descriptors that become readable when the peer is gone.
    pub fn new(socket: OwnedFd, watched: Vec<OwnedFd>) -> Result<Self> {
        let io = Error::io;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io("create an epoll instance"))?;
        let nudge = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io("create an eventfd"))?;
        let add = |fd: BorrowedFd<'_>, token| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN | epoll::EventFlags::RDHUP)
                .map_err(io("watch a descriptor"))
        };
        add(socket.as_fd(), SOCKET)?;
        add(nudge.as_fd(), NUDGE)?;
        for fd in &watched {
            add(fd.as_fd(), WATCHED)?;
        }
        Ok(Self { epoll, socket, nudge, watched })
    }

    /// Rings at the peer's end. Never blocks; a full socket has rung already, a closed one has nobody to hear.
    pub fn ring(&self) {
        let _ = rustix::net::send(&self.socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Wakes the thread of our own that polls.
    pub fn nudge(&self) {
        let _ = rustix::io::write(&self.nudge, &1u64.to_ne_bytes());
    }

    /// Waits until something happens or until `until`, then takes in the rings. Returns whether there is an alarm: the
    /// socket hung up, or a watched descriptor became readable.
    pub fn wait(&self, until: Option<u64>) -> bool {
        let timeout = until.map(|until| {
            let left = until.saturating_sub(sync::now());
            Timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as _ }
        });
        let mut events = [MaybeUninit::uninit(); 4];
        // Interrupted by a signal is like being woken for nothing.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut events, timeout.as_ref()) else { return false };
        let mut alarm = false;
        for event in events {
            match event.data.u64() {
                SOCKET => alarm |= self.drain(),
                NUDGE => {
                    let _ = rustix::io::read(&self.nudge, &mut [0; 8]);
                }
                _ => alarm = true,
            }
        }
        alarm
    }

    /// Whether a watched descriptor is readable. Takes in no rings: they may be another thread's.
    pub fn alarmed(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.watched.iter().any(|fd| poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)).unwrap_or(0) > 0)
    }

    /// Takes in the rings; returns whether the peer has hung up. One read takes all that a ring-once-per-sleep peer sends.
    fn drain(&self) -> bool {
        let mut rings = [0; 256];
        matches!(rustix::net::recv(&self.socket, &mut rings, RecvFlags::DONTWAIT), Ok((_, 0)) | Err(Errno::CONNRESET))
    }

    /// The descriptors that were given to watch.
    pub fn watched(&self) -> &[OwnedFd] {
        &self.watched
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
