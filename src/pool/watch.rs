//! Threads that watch descriptors: a member's its host, the host's its members.

use super::member::Seat;
use crate::call::Ended;
use crate::error::{Error, JoinError, Result};
use crate::sync::ForkGuard;
use crate::wake::{Deadline, poll_until};
use core::mem::MaybeUninit;
use core::ops::Range;
use core::time::Duration;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

/// A thread that watches. It ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    quit: Arc<OwnedFd>,
    guard: ForkGuard,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A forked child has the descriptor too, but not the thread.
        if !self.guard.forked() {
            ring(&self.quit);
        }
    }
}

/// Makes an eventfd readable.
pub(super) fn ring(eventfd: &OwnedFd) {
    let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
}

pub(super) fn new_eventfd() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(Error::io("create an eventfd"))
}

pub(super) fn spawn(watch: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = thread::Builder::new().name("busway-watch".into()).spawn(watch);
    thread.map(drop).map_err(Error::std_io("start a thread that watches"))
}

impl Watch {
    pub(super) fn start(watch: impl FnOnce(&OwnedFd) + Send + 'static) -> Result<Self> {
        Self::of(Arc::new(new_eventfd()?), watch)
    }

    /// As [`start`](Self::start); that it is to end is one of the things which `crowd` says.
    pub(super) fn start_with(crowd: &Crowd, watch: impl FnOnce() + Send + 'static) -> Result<Self> {
        let quit = Arc::new(new_eventfd()?);
        // A thread that is not told would stay for ever.
        crowd.watch(&quit, QUIT)?;
        Self::of(quit, |_| watch())
    }

    fn of(quit: Arc<OwnedFd>, watch: impl FnOnce(&OwnedFd) + Send + 'static) -> Result<Self> {
        let guard = ForkGuard::new().map_err(Error::io("map the fork guard"))?;
        let seen = quit.clone();
        spawn(move || watch(&seen))?;
        Ok(Self { quit, guard })
    }

    /// Watches the host of a pool: its pidfd, and the socket over which we joined, if any, which stays open as long.
    pub fn host(seat: Weak<Seat>, pidfd: OwnedFd, socket: Option<OwnedFd>) -> Result<Self> {
        Self::start(move |quit| {
            let mut fds: Vec<_> =
                [quit, &pidfd].into_iter().chain(&socket).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            // A signal of the program may interrupt it.
            while poll(&mut fds, None).is_err() {}
            if !fds[0].revents().is_empty() {
                return;
            }
            // A process that dies closes its sockets a moment before its pidfd says so.
            let moment = Deadline::after(Duration::from_millis(100));
            let died = poll_until(&mut [PollFd::new(&pidfd, PollFlags::IN)], moment).unwrap_or(0) > 0;
            if let Some(seat) = seat.upgrade() {
                // It may have closed the pool in order just before, which `ended` sees.
                if seat.ended().is_none() {
                    seat.end(if died { Ended::PeerDied } else { Ended::ByPeer });
                }
            }
        })
    }

    /// Watches the members of a pool, and recovers those who die or leave.
    pub fn members(seat: Weak<Seat>, crowd: Arc<Crowd>) -> Result<Self> {
        Self::start_with(&crowd.clone(), move || {
            loop {
                for place in crowd.ready(None) {
                    let Some(seat) = seat.upgrade().filter(|_| place != QUIT) else { return };
                    crowd.look(place as u16, || seat.recover(place as u16));
                }
            }
        })
    }
}

/// What [`Crowd::ready`] says of the descriptor by which a thread is told to end.
pub(super) const QUIT: u64 = u64::MAX;

/// The members of a pool besides its host.
#[derive(Debug)]
pub struct Crowd {
    epoll: OwnedFd,
    /// By place: pidfd and socket, which become readable when the member is gone; `None` while it joins or is recovered.
    members: Mutex<BTreeMap<u16, Option<Vec<OwnedFd>>>>,
    recovered: Condvar,
}

impl Crowd {
    /// Nobody.
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::io("create an epoll instance"))?;
        Ok(Self { epoll, members: Mutex::default(), recovered: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Option<Vec<OwnedFd>>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on [`ready`](Self::ready) says `token` while the descriptor is readable.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn watch(&self, fd: &OwnedFd, token: u64) -> Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags).map_err(Error::io("watch a descriptor"))
    }

    /// Waits until something that is watched is readable; returns the tokens. None after `limit`, or for no reason.
    pub(super) fn ready(&self, limit: Option<&Timespec>) -> Vec<u64> {
        let mut events = [MaybeUninit::uninit(); 16];
        let ready = epoll::wait(&self.epoll, &mut events, limit);
        ready.map_or(Vec::new(), |(ready, _)| ready.iter().map(|event| event.data.u64()).collect())
    }

    /// Keeps a place for somebody who joins.
    ///
    /// # Errors
    /// [`JoinError::Taken`] if there is none.
    pub fn reserve(&self, places: Range<u16>) -> Result<u16> {
        let mut members = self.lock();
        let free = |members: &BTreeMap<u16, _>| places.clone().find(|place| !members.contains_key(place));
        let place = free(&members).ok_or(JoinError::Taken { what: "all places of the pool" })?;
        members.insert(place, None);
        Ok(place)
    }

    /// Who has joined is watched from now on.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn joined(&self, place: u16, watched: Vec<OwnedFd>) -> Result<()> {
        let mut members = self.lock();
        let result = watched.iter().try_for_each(|fd| self.watch(fd, place.into()));
        result.inspect_err(|_| self.forget(&watched))?;
        members.insert(place, Some(watched));
        Ok(())
    }

    /// Whether somebody has the place, who may be joining or being recovered.
    #[cfg(feature = "shm-name")]
    pub fn has(&self, place: u16) -> bool {
        self.lock().contains_key(&place)
    }

    /// A place is free again; who had it was recovered, or never began.
    pub fn free(&self, place: u16) {
        let gone = self.lock().remove(&place);
        gone.flatten().inspect(|fds| self.forget(fds));
        self.recovered.notify_all();
    }

    /// How many members there are, those who are joining or being recovered among them.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Waits until there are no more than `count` members, also by `taken`, which a [`free`](Self::free) follows when it changes.
    pub fn wait(&self, count: usize, deadline: Deadline, taken: impl Fn() -> usize) -> bool {
        let mut members = self.lock();
        while members.len().max(taken()) > count {
            let left = deadline.remaining().unwrap_or(Duration::MAX);
            if left.is_zero() {
                return false;
            }
            members = self.recovered.wait_timeout(members, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Watches these no more. A forked child may have them open still, which would keep them here.
    fn forget(&self, fds: &[OwnedFd]) {
        for fd in fds {
            let _ = epoll::delete(&self.epoll, fd);
        }
    }

    /// Recovers who has the place, by `recover`, if they are gone.
    pub(super) fn look<R>(&self, place: u16, recover: impl FnOnce() -> R) {
        let gone = {
            let mut members = self.lock();
            let Some(member) = members.get_mut(&place) else { return };
            // What was ready may have been closed since, and the place be another's.
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let ready = |fd: &OwnedFd| poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)).unwrap_or(0) > 0;
            member.take_if(|fds| fds.iter().any(ready))
        };
        if let Some(fds) = gone {
            self.forget(&fds);
            recover();
            self.free(place);
        }
    }
}
