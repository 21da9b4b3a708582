//! The thread of ours that drives every bus which has no other driver.

use super::{Driven, Pace, Turn};
use crate::error::{Error, Result};
use crate::sync::{ForkGuard, spin_loop};
use core::mem::MaybeUninit;
use core::task::Waker;
use rustix::event::epoll::{self, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

/// Started by the first bus that needs it; it stays. A forked child starts its own.
static REACTOR: Mutex<Option<(ForkGuard, Arc<Reactor>)>> = Mutex::new(None);

struct Reactor {
    epoll: OwnedFd,
    /// Says that there are new buses, or that some may have gone.
    nudge: OwnedFd,
    new: Mutex<New>,
}

/// Buses that the thread has not seen yet, and the last token that was given away.
#[derive(Default)]
struct New {
    buses: Vec<(u64, Bus)>,
    last: u64,
}

struct Bus {
    bus: Weak<dyn Driven>,
    /// Our own, so that it can be taken off the epoll instance whoever else has it.
    fd: OwnedFd,
}

const NUDGE: u64 = 0;
/// So many looks at the buses that are awake go by until those asleep are looked at.
const LOOKS: u32 = 64;

/// Drives this bus from now on.
///
/// # Errors
/// [`Error::Io`]; [`Error::Unsupported`] if it has no descriptor.
pub fn adopt(bus: Arc<dyn Driven>) -> Result<()> {
    let fd = bus.events()?.try_clone_to_owned().map_err(Error::std_io("duplicate a descriptor"))?;
    let mut reactor = REACTOR.lock().unwrap_or_else(PoisonError::into_inner);
    let reactor = match &*reactor {
        Some((guard, reactor)) if !guard.forked() => reactor,
        _ => {
            let guard = ForkGuard::new().map_err(Error::io("map the fork guard"))?;
            &reactor.insert((guard, Reactor::start()?)).1
        }
    };
    let mut new = reactor.new.lock().unwrap_or_else(PoisonError::into_inner);
    new.last += 1;
    let token = new.last;
    epoll::add(&reactor.epoll, &fd, epoll::EventData::new_u64(token), EventFlags::IN)
        .map_err(Error::io("watch a bus"))?;
    new.buses.push((token, Bus { bus: Arc::downgrade(&bus), fd }));
    drop(new);
    reactor.nudge();
    Ok(())
}

/// A bus may be about to go.
pub fn sweep() {
    let reactor = REACTOR.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, reactor)) = reactor.as_ref().filter(|(guard, _)| !guard.forked()) {
        reactor.nudge();
    }
}

impl Reactor {
    fn start() -> Result<Arc<Self>> {
        let io = Error::io;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io("create an epoll instance"))?;
        let nudge = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io("create an eventfd"))?;
        epoll::add(&epoll, &nudge, epoll::EventData::new_u64(NUDGE), EventFlags::IN).map_err(io("watch an eventfd"))?;
        let reactor = Arc::new(Self { epoll, nudge, new: Mutex::default() });
        let run = reactor.clone();
        let thread = thread::Builder::new().name("busway-reactor".into()).spawn(move || run.run());
        thread.map_err(Error::std_io("start a thread that drives async code"))?;
        Ok(reactor)
    }

    fn run(&self) -> ! {
        let mut buses = BTreeMap::new();
        let mut awake: Vec<(u64, Pace)> = Vec::new();
        let mut woken = Vec::new();
        let mut looks = 0u32;
        loop {
            if awake.is_empty() || looks.is_multiple_of(LOOKS) {
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                let mut events = [MaybeUninit::uninit(); 32];
                // Interrupted by a signal is like being woken for nothing.
                let ready = epoll::wait(&self.epoll, &mut events, if awake.is_empty() { None } else { Some(&now) });
                for event in ready.map_or(&mut [][..], |(ready, _)| ready) {
                    match event.data.u64() {
                        NUDGE => self.welcome(&mut buses, &mut awake),
                        token => self.wake(&mut buses, token, &mut awake),
                    }
                }
            }
            looks = looks.wrapping_add(1);
            awake.retain_mut(|(token, pace)| {
                let bus = buses.get(token).and_then(|bus: &Bus| bus.bus.upgrade());
                let turn = bus.map_or(Turn::Over, |bus| pace.turn(&*bus, &mut woken));
                if turn == Turn::Over {
                    self.forget(&mut buses, *token);
                }
                turn == Turn::Again
            });
            woken.drain(..).for_each(Waker::wake);
            spin_loop();
        }
    }

    fn nudge(&self) {
        let _ = rustix::io::write(&self.nudge, &1u64.to_ne_bytes());
    }

    /// Takes in new buses, and looks at all once: one that is about to go closes its descriptor, which then wakes nobody.
    fn welcome(&self, buses: &mut BTreeMap<u64, Bus>, awake: &mut Vec<(u64, Pace)>) {
        let _ = rustix::io::read(&self.nudge, &mut [0; 8]);
        let new = core::mem::take(&mut self.new.lock().unwrap_or_else(PoisonError::into_inner).buses);
        let tokens: Vec<_> = new.iter().map(|(token, _)| *token).collect();
        buses.extend(new);
        let gone: Vec<_> =
            buses.iter().filter(|(_, bus)| bus.bus.strong_count() == 0).map(|(token, _)| *token).collect();
        gone.into_iter().for_each(|token| self.forget(buses, token));
        tokens.into_iter().for_each(|token| self.wake(buses, token, awake));
    }

    fn wake(&self, buses: &mut BTreeMap<u64, Bus>, token: u64, awake: &mut Vec<(u64, Pace)>) {
        match buses.get(&token).and_then(|bus| bus.bus.upgrade()) {
            Some(bus) => {
                bus.take_in();
                if awake.iter().all(|(other, _)| *other != token) {
                    let mut pace = Pace::default();
                    pace.wake(&*bus);
                    awake.push((token, pace));
                }
            }
            None => self.forget(buses, token),
        }
    }

    fn forget(&self, buses: &mut BTreeMap<u64, Bus>, token: u64) {
        if let Some(bus) = buses.remove(&token) {
            let _ = epoll::delete(&self.epoll, &bus.fd);
        }
    }
}
