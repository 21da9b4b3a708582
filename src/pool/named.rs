//! Pools by name: members that no socket led to the host take a place themselves.
//!
//! # Protocol
//!
//! ```text
//! join:   `who` of a place: 0 -> own process;        `joins` + 1, wake
//! leave:  last of all, `who` |= LEFT;                `joins` + 1, wake
//! host:   whenever `joins` changes, each place: nobody: nothing; LEFT: recover; not watched yet: open a pidfd, and look
//!         again whether it is that process; readable later, or dead now: recover
//! after recovery: `who` = 0
//! ```
//!
//! Who is killed between its two steps has nothing in hand, and is found when the next one comes, who says so also when it
//! finds no place, or when the host waits for members to go.
//!
//! `joins` is a futex and not a descriptor, so a thread of the host sleeps on it and passes on to the one that watches, which
//! alone decides about places.

use super::host::{self, HOST, Host, Memory};
use super::member::Seat;
use super::watch::{Crowd, QUIT, Watch, new_eventfd, ring, spawn};
use super::words::{self, Control, LEFT, Place, View};
use super::{Member, Pool, PoolConfig};
use crate::call::Ended;
use crate::error::{Error, JoinError, Result};
use crate::region::{Array, Name, NamedHost, Process, Region, open_named};
use crate::sync::{FutexWord, Ordering, futex_wait, futex_wake};
use crate::wake::Idle;
use rustix::event::Timespec;
use std::sync::{Arc, Weak};

/// A process's presence in a pool by name. Dropping it leaves.
#[derive(Debug)]
pub struct Presence {
    control: Array<Control>,
    places: Array<Place>,
    place: u16,
    /// Kept beside the arrays, which lie in it.
    region: Arc<Region>,
}

impl Presence {
    fn new(view: &View, place: u16) -> Self {
        Self { control: view.control, places: view.places, place, region: view.region.clone() }
    }

    /// Takes a place.
    fn join(view: &View) -> Result<Self> {
        let own = Process::own()?.bits();
        let free = |place: &u32| {
            // Acquire: the last one who had the place was recovered.
            view.places.at(*place).who.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let place = (u32::from(HOST) + 1..view.places.count()).find(free);
        // Where nobody has the place, there is nobody to leave it.
        let presence = Self::new(view, place.map_or(HOST, |place| place as u16));
        presence.tell();
        if place.is_some() { Ok(presence) } else { Err(JoinError::Taken { what: "all places of the pool" }.into()) }
    }

    /// Makes the host look around.
    pub fn tell(&self) {
        let joins = &self.control.joins.0;
        joins.fetch_add(1, Ordering::Release);
        futex_wake(joins, u32::MAX, false);
    }

    /// How many places are taken, the host's aside.
    pub fn taken(&self) -> usize {
        (0..self.places.count()).filter(|place| self.places.at(*place).who.load(Ordering::Relaxed) != 0).count()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if self.region.forked() {
            return;
        }
        if self.place != HOST {
            self.places.at(self.place.into()).who.fetch_or(LEFT, Ordering::Release);
        }
        self.tell();
    }
}

impl Seat {
    /// Recovers who has left or died, and watches who has come. Returns whether all who are there are watched.
    fn look_around(&self, crowd: &Crowd) -> bool {
        let mut all = true;
        for place in HOST + 1..self.view.places.count() as u16 {
            let who = self.view.places.at(place.into()).who.load(Ordering::Acquire);
            let Some(process) = Process::from_bits(who & !LEFT) else { continue };
            let left = who & LEFT != 0;
            if !left && crowd.has(place) {
                continue;
            }
            match process.pidfd() {
                Ok(Some(pidfd)) if !left => all &= crowd.joined(place, vec![pidfd]).is_ok(),
                Err(_) if !left && !process.is_dead() => all = false,
                _ => {
                    self.vacate(place);
                    crowd.free(place);
                }
            }
        }
        all
    }

    /// Recovers a place, which the next one may take then.
    fn vacate(&self, place: u16) {
        self.recover(place);
        self.view.places.at(place.into()).who.store(0, Ordering::Release);
    }
}

const ARRIVALS: u64 = QUIT - 1;

/// Watches the members of a pool by name, those who come among them.
fn watch(seat: &Arc<Seat>, crowd: &Arc<Crowd>) -> Result<Watch> {
    let arrivals = Arc::new(new_eventfd()?);
    crowd.watch(&arrivals, ARRIVALS)?;
    relay(Arc::downgrade(seat), seat.view.region.clone(), seat.view.control, arrivals.clone())?;
    let (seat, crowd) = (Arc::downgrade(seat), crowd.clone());
    Watch::start_with(&crowd.clone(), move || {
        // Without descriptors to spare, nobody says when a member dies.
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut all = true;
        loop {
            let ready = crowd.ready((!all).then_some(&second));
            let Some(seat) = seat.upgrade().filter(|_| !ready.contains(&QUIT)) else { return };
            for place in ready.iter().filter(|token| **token < ARRIVALS) {
                crowd.look(*place as u16, || seat.vacate(*place as u16));
            }
            if !all || ready.contains(&ARRIVALS) {
                // Before the look, so that who comes meanwhile is looked for again.
                let _ = rustix::io::read(&arrivals, &mut [0; 8]);
                all = seat.look_around(&crowd);
            }
        }
    })
}

/// Rings `arrivals` whenever `joins` changes, for as long as there is the seat, whose [`Presence`] wakes this in the end.
fn relay(
    seat: Weak<Seat>,
    region: Arc<Region>,
    control: Array<Control>,
    arrivals: Arc<std::os::fd::OwnedFd>,
) -> Result<()> {
    spawn(move || {
        let _mapped = region;
        loop {
            let joins = control.joins.0.load(Ordering::Acquire);
            if seat.strong_count() == 0 {
                return;
            }
            ring(&arrivals);
            futex_wait(FutexWord::shared(&control.joins.0, joins), None);
        }
    })
}

impl Pool {
    /// Makes a pool that other processes of this user open [by name](Member::open_named), without a socket. Its memory is
    /// allocated here. The name is free again once this is dropped, or this process is dead: what a dead host left is removed
    /// by the next one of the same name. Never blocks on another process.
    ///
    /// A name has from 1 to 64 characters of `A-Z`, `a-z`, `0-9`, `_`, `.` and `-`, and does not begin with a dot.
    ///
    /// Two files in `/dev/shm` have the name. No descriptor is passed on, so [`spawn`](Self::spawn) and
    /// [`listen`](Self::listen) answer [`Error::Unsupported`], and the size of the memory is not sealed: whoever may open it, which
    /// are the processes of this user, can cut it short, and all members that touch it then get a SIGBUS.
    ///
    /// ```no_run
    /// use busway::pool::{Member, Pool, PoolConfig};
    /// use busway::{Deadline, Idle};
    ///
    /// // In one process:
    /// let pool = Pool::create_named("thumbnails", &PoolConfig::new(["work"]))?;
    /// let reply = pool.queue("work")?.call(1, b"hello", Deadline::NEVER)?;
    ///
    /// // In others:
    /// let member = Member::open_named("thumbnails", Idle::default())?;
    /// member.worker(["work"])?.serve(|request| drop(request.reply(b"hello to you")))?;
    /// # Ok::<(), busway::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`JoinError::InvalidName`]; [`JoinError::Taken`] if a host that lives has the name; [`JoinError::Identity`] if a file in
    /// `/dev/shm` that would be the pool's is not of this user alone; [`JoinError::Geometry`] for a configuration out of bounds;
    /// I/O errors.
    pub fn create_named(name: &str, config: &PoolConfig) -> Result<Self> {
        let (name, table) = (Name::new(name)?, words::plan(config)?);
        let (named, (seat, crowd)) = NamedHost::create(name, table.len(), |region| {
            let (seat, crowd) = host::begin(region, &table, config)?;
            // Also wakes the thread below, in the end.
            let _ = seat.presence.set(Presence::new(&seat.view, HOST));
            seat.watched_by(watch(&seat, &crowd)?);
            Ok((seat, crowd))
        })?;
        Ok(Self::of(Host { memory: Memory::Named(named), crowd, seat, patience: config.patience }))
    }
}

impl Member {
    /// Joins the pool of this name that another process of this user [made](Pool::create_named), or this one; `idle` is what a
    /// waiting thread does. Never blocks on another process.
    ///
    /// Leave before `exec`: the process goes on living then, so the host does not take it for gone, and what it had under way ends only
    /// when it dies. So it is for members with a host that execs.
    ///
    /// ```no_run
    /// use busway::Idle;
    /// use busway::pool::Member;
    ///
    /// let member = Member::open_named("thumbnails", Idle::default())?;
    /// member.worker(["work"])?.serve(|request| drop(request.reply(b"done")))?;
    /// # Ok::<(), busway::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`JoinError::NoHost`] if there is none, or it has died, or is not ready yet; [`JoinError::InvalidName`];
    /// [`JoinError::Identity`] if the host lives in another pid namespace or time namespace, or the files are not of this user
    /// alone; [`JoinError::Taken`] if there are as many members as there may be, those who left a moment ago included; [`Error::VersionMismatch`];
    /// [`JoinError::BadMagic`], [`JoinError::Geometry`] if the memory is not that of a pool; [`Error::Closed`] if the pool is
    /// closed; I/O errors.
    pub fn open_named(name: &str, idle: Idle) -> Result<Self> {
        let (region, host) = open_named(&Name::new(name)?)?;
        let view = host::view(region)?;
        let presence = Presence::join(&view)?;
        let seat = Seat::new(view, presence.place, idle);
        let _ = seat.presence.set(presence);
        let pidfd = host.pidfd().map_err(Error::io("open a pidfd for the host"))?.ok_or(JoinError::NoHost)?;
        seat.watched_by(Watch::host(Arc::downgrade(&seat), pidfd, None)?);
        match seat.ended() {
            None => Ok(Self::new(seat)),
            Some(Ended::PeerDied) => Err(JoinError::NoHost.into()),
            Some(ended) => Err(ended.refusal()),
        }
    }
}
