//! Sockets, epoll instances and a timer.

use crate::error::{Error, Result};
use crate::sync::{self, AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, PeerWord};
use crate::wake::Deadline;
use core::mem::MaybeUninit;
use core::time::Duration;
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
///
/// A peer may ring as often as it likes, for nothing. So rings that nothing came with spend a budget, which is renewed when
/// something comes; over it the socket is left alone for a while after each ring, and looked at by timer.
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
    /// What had been sent and received at the last ring, and how many rings have come since that changed.
    traffic: AtomicU32,
    in_vain: AtomicU32,
    /// When whoever hung up is taken to live on; 0 while nobody has.
    settled_at: AtomicU64,
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
    /// Until when it leaves the socket alone; 0 if it does not.
    deaf_until: AtomicU64,
}

/// So many rings may lie unread in the socket. Reading takes a system call, and longer the more there is; a socket that holds
/// some 270 is full, and cannot be rung.
const UNREAD: u32 = 8;
/// So many rings may come with nothing. Where many replies are awaited most may find theirs taken by another thread.
const IN_VAIN: u32 = 256;
/// For how long the socket is then left alone, in nanoseconds.
const DEAF: u64 = 1_000_000;
/// A process that dies closes its sockets a moment before its pidfd says so.
const MOMENT: Duration = Duration::from_millis(100);
const RINGS: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);
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
        add(socket, SOCKET, RINGS)?;
        add(&nudge, NUDGE, flags)?;
        watched.iter().try_for_each(|fd| add(fd, WATCHED, flags))?;
        Ok(Self { epoll, nudge, deaf_until: AtomicU64::new(0) })
    }

    /// Looks at the socket again, which says what came meanwhile, if it was left alone for long enough.
    fn hear(&self, socket: &OwnedFd) {
        let until = self.deaf_until.load(Ordering::Relaxed);
        if until != 0 && sync::now() >= until {
            self.deaf_until.store(0, Ordering::Relaxed);
            let _ = epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(SOCKET), RINGS);
        }
    }

    /// Leaves the socket alone for a while; that it hung up is still seen.
    fn deafen(&self, socket: &OwnedFd) -> Deadline {
        let until = sync::now() + DEAF;
        let _ = epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(SOCKET), EventFlags::ET);
        self.deaf_until.store(until, Ordering::Relaxed);
        Deadline::from_nanos(until)
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
        Ok(Self {
            socket,
            watched,
            threads,
            events,
            armed: AtomicBool::new(false),
            read_at: AtomicU32::new(0),
            traffic: AtomicU32::new(0),
            in_vain: AtomicU32::new(0),
            settled_at: AtomicU64::new(0),
            timer: Timer::new(TIMER),
        })
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

    /// Waits until something happens or until `until`, and takes it in. `rings` is where the peer counts its rings, `traffic`
    /// changes with all that is sent or received. Returns whether there is an alarm.
    pub fn wait(&self, until: Option<u64>, rings: &PeerWord, traffic: u32) -> bool {
        self.threads.hear(&self.socket);
        let times = [self.threads.deaf_until.load(Ordering::Relaxed), self.settled_at.load(Ordering::Relaxed)];
        let until = until.into_iter().chain(times.into_iter().filter(|at| *at != 0)).min();
        let timeout = until.map(|until| {
            let left = until.saturating_sub(sync::now());
            Timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as _ }
        });
        let seen = self.take_in(&self.threads, timeout.as_ref(), rings, traffic);
        if seen.rung && self.armed.load(Ordering::SeqCst) {
            self.events.nudge();
        }
        seen.alarm
    }

    /// Takes in, for the event loop, what made its descriptor readable. If the peer has rung, that may have been for a
    /// thread that waits: [`nudge`](Self::nudge) it.
    pub fn look(&self, rings: &PeerWord, traffic: u32) -> Seen {
        self.events.hear(&self.socket);
        self.take_in(&self.events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }), rings, traffic)
    }

    fn take_in(&self, watch: &Watch, timeout: Option<&Timespec>, rings: &PeerWord, traffic: u32) -> Seen {
        let mut events = [MaybeUninit::uninit(); 8];
        let mut seen = Seen::default();
        // Interrupted by a signal is like being woken for nothing.
        let Ok((events, _)) = epoll::wait(&watch.epoll, &mut events, timeout) else { return seen };
        for event in events {
            match event.data.u64() {
                SOCKET => {
                    seen.rung = true;
                    seen.alarm |= { event.flags }.intersects(HUNG_UP);
                    self.take_ring(watch, rings.hint(), traffic);
                }
                NUDGE => {
                    let _ = rustix::io::read(&watch.nudge, &mut [0; 8]);
                }
                TIMER => {
                    self.timer.take_in();
                    // It may have been set for something sooner.
                    let now = sync::now();
                    for at in [&watch.deaf_until, &self.settled_at].map(|at| at.load(Ordering::Relaxed)) {
                        if at > now {
                            self.ring_at(Deadline::from_nanos(at));
                        }
                    }
                }
                _ => seen.alarm = true,
            }
        }
        seen.alarm |= self.is_settled();
        seen
    }

    /// What the peer has rung for was found: the next rings are heard.
    pub fn paid(&self) {
        self.in_vain.store(0, Ordering::Relaxed);
    }

    /// The peer has rung: counts what came with nothing, and empties the socket now and then.
    fn take_ring(&self, watch: &Watch, rings: u32, traffic: u32) {
        let in_vain = if self.traffic.swap(traffic, Ordering::Relaxed) == traffic {
            self.in_vain.fetch_add(1, Ordering::Relaxed)
        } else {
            self.in_vain.store(0, Ordering::Relaxed);
            0
        };
        if in_vain < IN_VAIN {
            return self.drain(rings);
        }
        // What is unread would ring again.
        self.empty();
        let until = watch.deafen(&self.socket);
        if core::ptr::eq(watch, &self.events) {
            self.ring_at(until);
        }
    }

    /// The peer is gone, or has hung up and lives: looks no more at what says so, but only whether it dies. Returns whether it has
    /// had a moment to, after which there is an alarm.
    pub fn settle(&self) -> bool {
        let at = Deadline::after(MOMENT);
        if self.settled_at.compare_exchange(0, at.as_nanos(), Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return self.is_settled();
        }
        for watch in [&self.threads, &self.events] {
            // Of the descriptors the first is that of the process that may die.
            for fd in self.watched.iter().skip(1).chain([&self.socket]) {
                let _ = epoll::delete(&watch.epoll, fd);
            }
        }
        self.ring_at(at);
        // Whoever sleeps there sleeps until then.
        self.threads.nudge();
        false
    }

    fn is_settled(&self) -> bool {
        let at = self.settled_at.load(Ordering::Relaxed);
        at != 0 && sync::now() >= at
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
            self.empty();
        }
    }

    fn empty(&self) {
        let _ = rustix::net::recv(&self.socket, &mut [0; 512], RecvFlags::DONTWAIT);
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
