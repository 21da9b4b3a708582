//! Sockets, epoll instances and a timer.

use crate::error::{Error, Result};
use crate::sync::{self, AtomicBool, AtomicU32, Mutex, Ordering, PeerWord};
use crate::wake::Deadline;
use core::mem::MaybeUninit;
use rustix::event::epoll::EventFlags;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::net::{RecvFlags, SendFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What to wait on, for everything that can happen to one end of a link.
///
/// The doorbell proper is a socket, not an eventfd: a peer that holds the same eventfd can fill it and make it blocking, so
/// that our ring blocks; on a socket every send of ours says `MSG_DONTWAIT`. Two kinds of sleepers watch it, each by an epoll
/// instance of its own, which also shows the control socket, the pidfds of the peer and a private eventfd, the *nudge*: the
/// *threads* that sleep in an operation, one of them for all, and a user's *event loop*, for which the instance is a
/// descriptor like any other. Whichever takes a ring in before the other has seen it nudges the other.
#[derive(Debug)]
pub struct Doorbell {
    socket: OwnedFd,
    watched: Vec<OwnedFd>,
    threads: Watch,
    events: Watch,
    /// Whether an event loop may be asleep.
    armed: AtomicBool,
    /// How often the peer had rung when the socket was read last.
    read_at: AtomicU32,
    timer: Timer,
}

/// Makes an epoll instance readable at some time.
#[derive(Debug)]
pub struct Timer {
    token: u64,
    set: Mutex<Set>,
}

/// What a timer is set to.
#[derive(Debug)]
struct Set {
    fd: Option<OwnedFd>,
    /// When it rings; `u64::MAX` for never.
    at: u64,
}

/// An epoll instance and its own nudge.
#[derive(Debug)]
struct Watch {
    epoll: OwnedFd,
    nudge: OwnedFd,
}

/// So many rings may lie unread in the socket. Reading takes a system call, and longer the more there is; a socket that holds
/// some 270 is full, and cannot be rung.
const UNREAD: u32 = 8;
const HUNG_UP: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

const SOCKET: u64 = 0;
const NUDGE: u64 = 1;
const WATCHED: u64 = 2;
const TIMER: u64 = 3;

/// What a look at the descriptors has found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// The peer has rung.
    pub rung: bool,
    /// The socket hung up, or a watched descriptor became readable.
    pub alarm: bool,
}

impl Watch {
    fn new(socket: &OwnedFd, watched: &[OwnedFd]) -> Result<Self> {
        let io = Error::io;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io("create an epoll instance"))?;
        let nudge = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io("create an eventfd"))?;
        let add = |fd: &OwnedFd, token, flags| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(token), flags).map_err(io("watch a descriptor"))
        };
        let flags = EventFlags::IN | EventFlags::RDHUP;
        // Told of each ring once, so that what is rung need not be read before the next sleep.
        add(socket, SOCKET, flags | EventFlags::ET)?;
        add(&nudge, NUDGE, flags)?;
        watched.iter().try_for_each(|fd| add(fd, WATCHED, flags))?;
        Ok(Self { epoll, nudge })
    }

    fn nudge(&self) {
        let _ = rustix::io::write(&self.nudge, &1u64.to_ne_bytes());
    }
}

impl Timer {
    /// One that is not set, and is told by this token.
    pub fn new(token: u64) -> Self {
        Self { token, set: Mutex::new(Set { fd: None, at: u64::MAX }) }
    }

    /// Makes `epoll` readable at this point, or before it. Always the same one.
    ///
    /// # Errors
    /// What the system says.
    pub fn ring_at(&self, epoll: &OwnedFd, at: Deadline) -> Result<()> {
        let Some(at) = at.until() else { return Ok(()) };
        let mut set = self.set.lock();
        if set.at <= at {
            return Ok(()); // it rings before that
        }
        let fd = match set.fd.take() {
            Some(fd) => fd,
            None => {
                let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
                let fd = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(Error::io("create a timer"))?;
                epoll::add(epoll, &fd, epoll::EventData::new_u64(self.token), EventFlags::IN)
                    .map_err(Error::io("watch a timer"))?;
                fd
            }
        };
        let time = Timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as _ };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: time };
        let result = timerfd_settime(&fd, TimerfdTimerFlags::ABSTIME, &once);
        set.fd = Some(fd);
        result.map_err(Error::io("set a timer"))?;
        set.at = at;
        Ok(())
    }

    /// It has rung.
    pub fn take_in(&self) {
        let mut set = self.set.lock();
        set.at = u64::MAX;
        if let Some(fd) = &set.fd {
            let _ = rustix::io::read(fd, &mut [0; 8]);
        }
    }
}

impl Doorbell {
    /// Watches `socket`, our end of the doorbell, and `watched`: descriptors that become readable when the peer is gone.
    pub fn new(socket: OwnedFd, watched: Vec<OwnedFd>) -> Result<Self> {
        let (threads, events) = (Watch::new(&socket, &watched)?, Watch::new(&socket, &watched)?);
        let timer = Timer::new(TIMER);
        Ok(Self { socket, watched, threads, events, armed: AtomicBool::new(false), read_at: AtomicU32::new(0), timer })
    }

    /// Rings at the peer's end. Never blocks; a full socket has rung already, a closed one has nobody to hear.
    pub fn ring(&self) {
        let _ = rustix::net::send(&self.socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    /// Wakes the thread of our own that waits.
    pub fn nudge(&self) {
        self.threads.nudge();
    }

    /// Wakes the thread that waits and the event loop, whatever happened.
    pub fn nudge_all(&self) {
        self.threads.nudge();
        self.events.nudge();
    }

    /// Says whether an event loop may sleep from now on.
    pub fn arm(&self, armed: bool) {
        self.armed.store(armed, Ordering::SeqCst);
    }

    /// Makes the descriptor of the event loop readable at this point, or before it.
    pub fn ring_at(&self, at: Deadline) {
        if self.timer.ring_at(&self.events.epoll, at).is_err() {
            self.events.nudge(); // better too early than never
        }
    }

    /// Waits until something happens or until `until`, and takes it in. `rings` is where the peer counts its rings. Returns
    /// whether there is an alarm.
    pub fn wait(&self, until: Option<u64>, rings: &PeerWord) -> bool {
        let timeout = until.map(|until| {
            let left = until.saturating_sub(sync::now());
            Timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as _ }
        });
        let seen = self.take_in(&self.threads, timeout.as_ref(), rings);
        if seen.rung && self.armed.load(Ordering::SeqCst) {
            self.events.nudge();
        }
        seen.alarm
    }

    /// Takes in, for the event loop, what made its descriptor readable. If the peer has rung, that may have been for a
    /// thread that waits: [`nudge`](Self::nudge) it.
    pub fn look(&self, rings: &PeerWord) -> Seen {
        self.take_in(&self.events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }), rings)
    }

    fn take_in(&self, watch: &Watch, timeout: Option<&Timespec>, rings: &PeerWord) -> Seen {
        let mut events = [MaybeUninit::uninit(); 8];
        let mut seen = Seen::default();
        // Interrupted by a signal is like being woken for nothing.
        let Ok((events, _)) = epoll::wait(&watch.epoll, &mut events, timeout) else { return seen };
        for event in events {
            match event.data.u64() {
                SOCKET => {
                    seen.rung = true;
                    seen.alarm |= { event.flags }.intersects(HUNG_UP);
                    self.drain(rings.hint());
                }
                NUDGE => {
                    let _ = rustix::io::read(&watch.nudge, &mut [0; 8]);
                }
                TIMER => {
                    self.timer.take_in();
                }
                _ => seen.alarm = true,
            }
        }
        seen
    }

    /// Whether a watched descriptor is readable. Takes in no rings: they may be another thread's.
    pub fn alarmed(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.watched.iter().any(|fd| poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)).unwrap_or(0) > 0)
    }

    /// Empties the socket when the peer, which counts `rings`, has put enough into it since the last time.
    fn drain(&self, rings: u32) {
        if rings.wrapping_sub(self.read_at.load(Ordering::Relaxed)) >= UNREAD {
            self.read_at.store(rings, Ordering::Relaxed);
            let _ = rustix::net::recv(&self.socket, &mut [0; 512], RecvFlags::DONTWAIT);
        }
    }

    /// The descriptors that were given to watch.
    pub fn watched(&self) -> &[OwnedFd] {
        &self.watched
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.epoll.as_fd()
    }
}
