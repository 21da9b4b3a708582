//! The driver of a bus: wakes its tasks.

use super::{Driven, What};
use crate::error::Result;
use crate::sync::{self, Ordering, fence, mutant};
use crate::wake::Deadline;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll, Waker, ready};
use std::io;
use std::sync::{Arc, Weak};

/// What tells a task when a descriptor is readable: a reactor's handle on it.
///
/// ```
/// # struct Handle(std::os::fd::OwnedFd);
/// # impl Handle { fn poll_readable(&self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> { std::task::Poll::Pending } }
/// use std::task::{Context, Poll};
///
/// /// As `async_io::Async` has it, on which smol and others build.
/// struct Watched(Handle);
///
/// impl busway::Readable for Watched {
///     fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
///         self.0.poll_readable(cx)
///     }
/// }
/// ```
pub trait Readable {
    /// Ready once the descriptor has become readable since it was ready last. Else pending, and the task is woken then. It may
    /// be ready for nothing.
    ///
    /// # Errors
    /// What the reactor says; the driver then ends, and the next task that waits finds another.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Has this task polled again, behind all others that can run, and best after a look at the reactor.
    fn later(&mut self, cx: &mut Context<'_>) {
        cx.waker().wake_by_ref();
    }
}

/// The task that wakes those who wait for one bus. Spawn it; it ends with the bus.
///
/// Dropping it leaves the bus to the next driver: another one, or else a thread of ours, which the next task that has to wait starts.
#[must_use = "a driver does nothing unless it is spawned"]
pub struct Driver<R> {
    bus: Weak<dyn Driven>,
    source: R,
    pace: Pace,
    asleep: bool,
    woken: Vec<Waker>,
}

/// What a driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Look again, after others had their turn.
    Again,
    /// Wait for the descriptor.
    Sleep,
    /// Nothing: the bus has ended.
    Over,
}

/// How long a driver looks before it sleeps.
#[derive(Debug, Default)]
pub struct Pace {
    /// Until when; `None` after a sleep.
    until: Option<u64>,
    /// How long each time.
    patience: u64,
    /// Turns since the descriptor was looked at.
    turns: u32,
}

/// After so many turns without a sleep the descriptor is looked at, every 4 ms or so: it also says that the other side has died.
const TURNS: u32 = 1 << 12;

impl Pace {
    /// Looks once for all tasks of a bus. Whoever is in `woken` is to be woken by the caller, without a lock held.
    pub fn turn(&mut self, bus: &(impl Driven + ?Sized), woken: &mut Vec<Waker>) -> Turn {
        self.turn_beside(bus, woken, None)
    }

    /// As [`turn`](Self::turn), beside a receiver of the caller's own: whether it has just received something. If this is to sleep,
    /// the mark is set, and the receiver has to look again.
    pub fn turn_beside(
        &mut self,
        bus: &(impl Driven + ?Sized),
        woken: &mut Vec<Waker>,
        received: Option<bool>,
    ) -> Turn {
        let tasks = bus.tasks();
        if bus.stopped(Deadline::NEVER).is_err() {
            tasks.wake_all(woken);
            return Turn::Over;
        }
        tasks.uncork(bus);
        let found = tasks.dispatch(bus, woken) || received == Some(true);
        let waits = received.is_some();
        if found || waits || tasks.any() {
            let now = sync::now();
            if self.until.is_none() {
                self.patience = bus.patience();
                if found {
                    bus.woken_rightly();
                }
            } else if found && self.patience > 0 {
                bus.learn(true);
            }
            let until = match self.until {
                Some(until) if !found => until,
                _ => now.saturating_add(self.patience),
            };
            self.until = Some(until);
            if found || now < until {
                self.turns += 1;
                if self.turns == TURNS {
                    self.turns = 0;
                    bus.take_in();
                }
                return Turn::Again;
            }
        }
        self.fall_asleep(bus, woken, waits)
    }

    fn fall_asleep(&mut self, bus: &(impl Driven + ?Sized), woken: &mut Vec<Waker>, waits: bool) -> Turn {
        let tasks = bus.tasks();
        tasks.asleep.store(true, Ordering::SeqCst);
        if !mutant("tasks: driver without fence") {
            fence(Ordering::SeqCst);
        }
        tasks.uncork(bus);
        if waits || tasks.any() {
            bus.mark(What::All);
            fence(Ordering::SeqCst);
            let found = !mutant("tasks: driver without a second look") && tasks.dispatch(bus, woken);
            if found || bus.stopped(Deadline::NEVER).is_err() {
                self.wake(bus);
                return Turn::Again;
            }
            if self.until.is_some() && self.patience > 0 {
                bus.learn(false);
            }
            let due = tasks.due.load(Ordering::Relaxed);
            if due != u64::MAX {
                bus.ring_at(Deadline::from_nanos(due));
            }
        }
        self.until = None;
        Turn::Sleep
    }

    /// The driver is awake again.
    pub fn wake(&mut self, bus: &(impl Driven + ?Sized)) {
        bus.tasks().awake();
        bus.unmark();
    }
}

impl<R: Readable> Driver<R> {
    pub(crate) fn new(bus: Arc<dyn Driven>, source: R) -> Result<Self> {
        bus.tasks().claim()?;
        Ok(Self { bus: Arc::downgrade(&bus), source, pace: Pace::default(), asleep: false, woken: Vec::new() })
    }

    /// While asleep: whether to wake, because the descriptor is readable or a task wants this driver to look in turn.
    fn wait(&mut self, bus: &dyn Driven, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.source.poll_readable(cx)?.is_ready() {
            bus.take_in();
            return Poll::Ready(Ok(()));
        }
        if bus.tasks().is_roused(cx.waker()) { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl<R: Readable + Unpin> Future for Driver<R> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(bus) = this.bus.upgrade().filter(|bus| !bus.forked()) else { return Poll::Ready(()) };
        let mut turn = if this.asleep { Turn::Sleep } else { Turn::Again };
        loop {
            if turn == Turn::Sleep {
                this.asleep = true;
                if ready!(this.wait(&*bus, cx)).is_err() {
                    return Poll::Ready(());
                }
                this.asleep = false;
                this.pace.wake(&*bus);
            }
            turn = this.pace.turn(&*bus, &mut this.woken);
            this.woken.drain(..).for_each(Waker::wake);
            match turn {
                Turn::Over => return Poll::Ready(()),
                Turn::Again => {
                    this.source.later(cx);
                    return Poll::Pending;
                }
                Turn::Sleep => {}
            }
        }
    }
}

impl<R> Drop for Driver<R> {
    fn drop(&mut self) {
        let Some(bus) = self.bus.upgrade().filter(|bus| !bus.forked()) else { return };
        bus.tasks().unclaim(&*bus);
    }
}

impl<R> core::fmt::Debug for Driver<R> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Driver").field("asleep", &self.asleep).finish_non_exhaustive()
    }
}
