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
use super::words::Place;
use crate::error::{Error, Result};
use crate::region::{Array, Region};
use crate::slots::owned::Handle;
use crate::sync::{AtomicBool, ForkGuard, FutexWord, Mutex, Ordering, fence, futex_wait, futex_wake};
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
    armed: Mutex<Option<Rows>>,
    guard: ForkGuard,
    /// The thread sleeps on a word in it.
    _region: Arc<Region>,
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
            armed: Mutex::new(None),
            guard: ForkGuard::new().map_err(Error::io("map the fork guard"))?,
            _region: seat.view.region.clone(),
        };
        let (ready, quit) = (descriptor.ready.clone(), descriptor.quit.clone());
        let (places, place, region) = (descriptor.places, descriptor.place, seat.view.region.clone());
        // Before it is armed: the thread may begin later.
        let mut seen = descriptor.place().events.0.load(Ordering::Acquire);
        let relay = move || {
            let events = &places.at(place.into()).events.0;
            while !quit.load(Ordering::Acquire) {
                let now = events.load(Ordering::Acquire);
                if now == seen {
                    futex_wait(FutexWord::shared(events, seen), None);
                } else {
                    seen = now;
                    let _ = rustix::io::write(&*ready, &1u64.to_ne_bytes());
                }
            }
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

    /// Says that an event loop is about to sleep, for these queues and for the replies to all calls of this process. Returns
    /// false if there is something to receive, or the pool has ended.
    pub(super) fn arm(&self, queues: Option<Rows>) -> Result<bool> {
        self.descriptor()?;
        let Some(descriptor) = self.descriptor.get() else { return Ok(false) };
        self.disarm();
        descriptor.place().armed.0.store(1, Ordering::Release);
        if let Some(queues) = queues {
            self.parking.park(&self.view, queues);
            *descriptor.armed.lock() = Some(queues);
        }
        for index in 0..self.table.count() {
            let Some(word) = self.table.header(index).map(|header| header.word()) else { continue };
            if word.caller() == self.place {
                // One that has ended meanwhile is seen by its caller's look.
                let _ = self.table.sleep(Handle { index, generation: word.generation() });
            }
        }
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
        descriptor.place().armed.0.store(0, Ordering::Relaxed);
        let _ = rustix::io::read(&*descriptor.ready, &mut [0; 8]);
        if let Some(queues) = descriptor.armed.lock().take() {
            self.parking.unpark(&self.view, queues);
            self.owes.fetch_or(queues.bits.get(), Ordering::Relaxed);
            fence(Ordering::SeqCst);
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
