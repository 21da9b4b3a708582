//! A member's descriptor, for whoever has an event loop.
//!
//! Others wake this process by futex, which an event loop cannot wait for. So the first use starts a thread that sleeps on a bell
//! of the place, and makes an eventfd readable whenever that rings. It rings only while the loop is *armed*:
//!
//! ```text
//! loop:     armed = 1; the bits of its place, and the flags of its calls, as a thread that sleeps; fence(SeqCst); look
//!           nothing: waits for the descriptor; then armed = 0, and its bits as a thread that wakes
//! waker:    claims the bit, or sees the flag; armed != 0: events + 1; wake
//! thread:   sleeps while events has the value that it saw last; else makes the eventfd readable
//! ```
//!
//! What the waker claims was released after `armed`, so it sees that too. A loop that was woken owes the others to hand on what
//! it does not take itself, which the receive after it does.

use super::member::Seat;
use super::parking::{Kind, Rows};
use super::watch::ring;
use super::words::Place;
use crate::error::{Error, Result};
use crate::region::{Array, Region};
use crate::slots::owned::Handle;
use crate::sync::{self, AtomicBool, AtomicU64, ForkGuard, FutexWord, Mutex, Ordering, fence, futex_wait, futex_wake};
use core::num::NonZeroU32;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

/// The descriptor of one member, and what it waits for.
#[derive(Debug)]
pub struct Descriptor {
    ready: Arc<OwnedFd>,
    quit: Arc<AtomicBool>,
    places: Array<Place>,
    place: u16,
    /// What the loop is marked asleep for: bits of rows, by kind.
    armed: Mutex<[u32; 3]>,
    /// When it is woken whatever happens, or `u64::MAX`.
    due: Arc<AtomicU64>,
    guard: ForkGuard,
    /// The thread sleeps on a word in it.
    _region: Arc<Region>,
}

/// Makes an eventfd unreadable.
fn drain(eventfd: &OwnedFd) {
    let _ = rustix::io::read(eventfd, &mut [0; 8]);
}

impl Place {
    /// Wakes the event loop of this place, if it is armed.
    pub fn ring_loop(&self) {
        if self.armed.0.load(Ordering::Relaxed) != 0 {
            self.ring_events();
        }
    }

    /// Wakes it in any case.
    pub fn ring_events(&self) {
        self.events.0.fetch_add(1, Ordering::Release);
        futex_wake(&self.events.0, u32::MAX, false);
    }
}

impl Descriptor {
    fn new(seat: &Seat) -> Result<Self> {
        let ready =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(Error::io("create an eventfd"))?;
        let descriptor = Self {
            ready: Arc::new(ready),
            quit: Arc::new(AtomicBool::new(false)),
            places: seat.view.places,
            place: seat.place,
            armed: Mutex::new([0; 3]),
            due: Arc::new(AtomicU64::new(u64::MAX)),
            guard: ForkGuard::new().map_err(Error::io("map the fork guard"))?,
            _region: seat.view.region.clone(),
        };
        let (ready, quit, due) = (descriptor.ready.clone(), descriptor.quit.clone(), descriptor.due.clone());
        let (places, place, region) = (descriptor.places, descriptor.place, seat.view.region.clone());
        // Before it is armed: the thread may begin later.
        let mut seen = descriptor.place().events.0.load(Ordering::Acquire);
        let relay = move || {
            let events = &places.at(place.into()).events.0;
            while !quit.load(Ordering::Acquire) {
                let now = events.load(Ordering::Acquire);
                let at = due.load(Ordering::Acquire);
                let passed = at <= sync::now()
                    && due.compare_exchange(at, u64::MAX, Ordering::AcqRel, Ordering::Relaxed).is_ok();
                if now == seen && !passed {
                    futex_wait(FutexWord::shared(events, seen), (at != u64::MAX).then_some(at));
                } else {
                    seen = now;
                    ring(&ready);
                }
            }
            // Whoever drives async code finds that there is nothing left to drive.
            ring(&ready);
            drop(region);
        };
        let thread = thread::Builder::new().name("busway-events".into()).spawn(relay);
        thread.map_err(Error::std_io("start a thread that relays wake-ups"))?;
        Ok(descriptor)
    }

    fn place(&self) -> &Place {
        self.places.at(self.place.into())
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if !self.guard.forked() {
            self.quit.store(true, Ordering::Release);
            self.place().ring_events();
        }
    }
}

impl Seat {
    /// The descriptor; the first time it is made.
    pub(super) fn descriptor(&self) -> Result<BorrowedFd<'_>> {
        if self.forked() {
            return Err(Error::Forked);
        }
        if let Some(descriptor) = self.descriptor.get() {
            return Ok(descriptor.ready.as_fd());
        }
        // Of two that were made at once one is dropped again.
        let made = Descriptor::new(self)?;
        Ok(self.descriptor.get_or_init(|| made).ready.as_fd())
    }

    /// Marks the event loop asleep for rows of each kind, and no others.
    pub(super) fn park_loop(&self, rows: [u32; 3]) {
        let Some(descriptor) = self.descriptor.get() else { return };
        let mut armed = descriptor.armed.lock();
        let each = |bits: [u32; 3]| {
            let kinds = [Kind::Requests, Kind::Room, Kind::Slots].into_iter().zip(bits);
            kinds.filter_map(|(kind, bits)| NonZeroU32::new(bits).map(|bits| Rows { kind, bits }))
        };
        each(*armed).for_each(|rows| self.parking.unpark(&self.view, rows));
        // What was claimed until now is ours to hand on.
        self.owes.fetch_or(armed[Kind::Requests as usize], Ordering::Relaxed);
        descriptor.place().armed.0.store(1, Ordering::Release);
        for rows in each(rows) {
            self.parking.park(&self.view, rows);
        }
        *armed = rows;
    }

    /// From now on who wakes a thread of this place, or a caller, wakes its event loop.
    pub(super) fn arm_loop(&self) {
        if let Some(descriptor) = self.descriptor.get() {
            descriptor.place().armed.0.store(1, Ordering::Release);
        }
    }

    /// Asks whoever answers this call to ring for it.
    pub(super) fn park_call(&self, index: u32) {
        let Some(word) = self.table.header(index).map(|header| header.word()) else { return };
        if word.caller() == self.place {
            // One that has ended meanwhile is seen by its caller's look.
            let _ = self.table.sleep(Handle { index, generation: word.generation() });
        }
    }

    /// Says that an event loop is about to sleep, for these queues and for the replies to all calls of this process. Returns
    /// false if there is something to receive, or the pool has ended.
    pub(super) fn arm(&self, queues: Option<Rows>) -> Result<bool> {
        self.descriptor()?;
        let Some(descriptor) = self.descriptor.get() else { return Ok(false) };
        drain(&descriptor.ready);
        self.park_loop([queues.map_or(0, |queues| queues.bits.get()), 0, 0]);
        (0..self.table.count()).for_each(|index| self.park_call(index));
        fence(Ordering::SeqCst);
        let waits = |queue: u8| !self.rings[usize::from(queue)].is_empty(&self.table);
        Ok(self.ended().is_none() && !queues.is_some_and(|queues| queues.numbers().any(waits)))
    }

    /// Says that it does not sleep any more.
    pub(super) fn disarm(&self) {
        if self.forked() {
            return;
        }
        let Some(descriptor) = self.descriptor.get() else { return };
        self.unpark_loop();
        drain(&descriptor.ready);
    }

    /// The event loop is awake.
    pub(super) fn unpark_loop(&self) {
        self.park_loop([0; 3]);
        if let Some(descriptor) = self.descriptor.get() {
            descriptor.place().armed.0.store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    /// Makes the descriptor readable at this point, or before it.
    pub(super) fn ring_loop_at(&self, at: u64) {
        let Some(descriptor) = self.descriptor.get() else { return };
        if descriptor.due.fetch_min(at, Ordering::AcqRel) > at {
            descriptor.place().ring_events();
        }
    }

    /// Takes in what has made the descriptor readable.
    pub(super) fn take_in_events(&self) {
        if let Some(descriptor) = self.descriptor.get() {
            drain(&descriptor.ready);
        }
    }

    /// Hands on what an event loop was woken for and has not taken.
    #[cold]
    pub(super) fn pay(&self) {
        if let Some(bits) = NonZeroU32::new(self.owes.swap(0, Ordering::Relaxed)) {
            self.hand_on(Rows { kind: Kind::Requests, bits });
        }
    }

    /// After a reply whose caller sleeps, by futex or by an event loop.
    pub(super) fn wake_caller(&self, slot: Handle, caller: u16) {
        if let Some(bell) = self.table.bell(slot.index) {
            futex_wake(bell, 1, false);
        }
        if u32::from(caller) < self.view.places.count() {
            self.view.places.at(caller.into()).ring_loop();
        }
    }

    /// The bits of queues that an event loop was woken for and that nobody has looked at since.
    #[inline(always)]
    pub(super) fn owes(&self) -> bool {
        self.owes.load(Ordering::Relaxed) != 0
    }
}
