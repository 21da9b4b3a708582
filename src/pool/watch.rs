//! Threads that watch descriptors: a member's its host, the host's its members.

use super::member::Seat;
use crate::call::Ended;
use crate::error::{Error, JoinError, Result};
use crate::slots::owned::Recovered;
use crate::wake::Deadline;
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
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.quit, &1u64.to_ne_bytes());
    }
}

impl Watch {
    fn start(watch: impl FnOnce(&OwnedFd) + Send + 'static) -> Result<Self> {
        let quit = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let quit = Arc::new(quit.map_err(Error::io("create an eventfd"))?);
        let seen = quit.clone();
        let thread = thread::Builder::new().name("busway-watch".into()).spawn(move || watch(&seen));
        thread.map_err(Error::std_io("start a thread that watches"))?;
        Ok(Self { quit })
    }

    /// Watches the host of a pool: its pidfd, and the socket over which we joined, which stays open as long.
    pub fn host(seat: Weak<Seat>, pidfd: OwnedFd, socket: OwnedFd) -> Result<Self> {
        Self::start(move |quit| {
            let mut fds = [
                PollFd::new(quit, PollFlags::IN),
                PollFd::new(&pidfd, PollFlags::IN),
                PollFd::new(&socket, PollFlags::IN),
            ];
            // A signal of the program may interrupt it.
            while poll(&mut fds, None).is_err() {}
            if !fds[0].revents().is_empty() {
                return;
            }
            // A process that dies closes its sockets a moment before its pidfd says so.
            let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let died = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&moment)).unwrap_or(0) > 0;
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
        Self::start(move |quit| {
            let _ = crowd.watch(quit, QUIT);
            let mut events = [MaybeUninit::uninit(); 16];
            loop {
                let Ok((ready, _)) = epoll::wait(&crowd.epoll, &mut events, None) else { continue };
                for event in ready {
                    let place = event.data.u64();
                    let Some(seat) = seat.upgrade().filter(|_| place != QUIT) else { return };
                    crowd.look(place as u16, || seat.recover(place as u16));
                }
            }
        })
    }
}

const QUIT: u64 = u64::MAX;

/// The members of a pool besides its host.
#[derive(Debug)]
pub struct Crowd {
    epoll: OwnedFd,
    /// By place: pidfd and socket, which become readable when the member is gone; `None` while it joins or is recovered.
    members: Mutex<BTreeMap<u16, Option<[OwnedFd; 2]>>>,
    recovered: Condvar,
}

impl Crowd {
    /// Nobody.
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(Error::io("create an epoll instance"))?;
        Ok(Self { epoll, members: Mutex::default(), recovered: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Option<[OwnedFd; 2]>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch(&self, fd: &OwnedFd, token: u64) -> Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags).map_err(Error::io("watch a descriptor"))
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
    pub fn joined(&self, place: u16, pidfd: OwnedFd, socket: OwnedFd) -> Result<()> {
        let mut members = self.lock();
        self.watch(&pidfd, place.into())?;
        self.watch(&socket, place.into())?;
        members.insert(place, Some([pidfd, socket]));
        Ok(())
    }

    /// A place is free again; who had it was recovered, or never began.
    pub fn free(&self, place: u16) {
        self.lock().remove(&place);
        self.recovered.notify_all();
    }

    /// How many members there are, those who are joining or being recovered among them.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Waits until there are no more than `count` members.
    pub fn wait(&self, count: usize, deadline: Deadline) -> bool {
        let mut members = self.lock();
        while members.len() > count {
            let left = deadline.remaining().unwrap_or(Duration::MAX);
            if left.is_zero() {
                return false;
            }
            members = self.recovered.wait_timeout(members, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Recovers who has the place, by `recover`, if they are gone.
    fn look(&self, place: u16, recover: impl FnOnce() -> Recovered) {
        let gone = {
            let mut members = self.lock();
            let Some(member) = members.get_mut(&place) else { return };
            // What was ready may have been closed since, and the place be another's.
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            let ready = |fd: &OwnedFd| poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&now)).unwrap_or(0) > 0;
            member.take_if(|fds| fds.iter().any(ready))
        };
        if gone.is_some() {
            recover();
            self.free(place);
        }
    }
}
