//! What async code waits by: tasks that wait for a bus, and the driver that wakes them.
//!
//! # Protocol
//!
//! A task that finds nothing leaves its waker: in the line of what it waits for (requests, room, slots), or at the place of
//! its reply. One *driver* for each bus wakes them: a task of the user's runtime, or a thread of ours. While it is awake it
//! looks in turn with them; asleep it waits for the bus's one descriptor, which the other side rings where it sees the *mark* of
//! an event loop. The mark stands only while somebody waits, so a bus whose replies come within a poll rings nobody.
//!
//! ```text
//! task:    look; leave the waker, and one more waits; fence(SeqCst)
//!          the driver is asleep: wake it, if it is to spin; else set the mark anew, fence(SeqCst)
//!          look again; nothing: pending
//! driver:  wake whom there is something for; nothing for a while:
//!          asleep = true; fence(SeqCst); somebody waits: set the mark, fence(SeqCst), look for all of them again
//!          nothing: wait for the descriptor; then asleep = false, the mark is cleared, and so on
//! peer:    publish; fence(SeqCst); the mark is set: ring (`wake`)
//! ```
//!
//! Asleep and waiting are each written before the other is read, so one of the two sets the mark; mark and publication
//! likewise, so either the peer rings or whoever has set the mark sees what was published.
//!
//! Of the tasks in a line one is woken at a time, the one that has waited longest. It is *on its way* until it has looked, or is
//! dropped: then whoever leaves wakes the next, if there is still something. So nothing waits beside a task unless another one
//! is on its way to it.

mod driver;
mod line;
#[cfg(not(busway_loom))]
mod reactor;
mod replies;
#[cfg(feature = "tokio")]
mod tokio;
#[cfg(feature = "tokio")]
pub use self::tokio::drive as drive_on_tokio;

use crate::call::Stop;
use crate::error::{Error, Result};
use crate::sync::{self, AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, fence, mutant};
use crate::wake::Deadline;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
pub use driver::{Driver, Pace, Readable, Turn};
use line::Line;
use replies::Replies;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// What tasks wait for in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests; in a pool of the queues whose bits are set.
    Requests = 0,
    /// Room to send; so.
    Room = 1,
    /// Slots; of the classes whose bits are set.
    Slots = 2,
    /// That what is under way comes to an end.
    Drained = 3,
}

const KINDS: [Kind; 4] = [Kind::Requests, Kind::Room, Kind::Slots, Kind::Drained];

/// How long a task sleeps at most that nobody has to ring for: for room, slots and the end.
const RECHECK: Duration = Duration::from_millis(10);

/// What a mark is set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The reply at this place.
    Reply(u32),
    /// Those in this line.
    Line(Kind),
    /// Everybody.
    All,
}

/// A bus that tasks can wait for.
pub trait Driven: Send + Sync {
    /// Who waits.
    fn tasks(&self) -> &Tasks;
    /// Publishes requests that were held back for the driver's next turn.
    fn uncork(&self) {}
    /// Tells the other side of a request that was published without. `fenced`: there was a fence in between.
    fn tell(&self, fenced: bool) {
        let _ = fenced;
    }
    /// Whether the reply to the call at this place has come.
    fn has_reply(&self, place: u32) -> bool;
    /// Before [`has`](Self::has) is asked, without a lock held.
    fn prepare(&self) {}
    /// Of `bits`, those for which there may be something in this line.
    fn has(&self, kind: Kind, bits: u32) -> u32;
    /// Sets the mark of an event loop, or renews it: the next publication rings the descriptor. What it is set for may be all
    /// that is new since it was set last.
    fn mark(&self, what: What);
    /// Clears it.
    fn unmark(&self);
    /// Takes in what has made the descriptor readable.
    fn take_in(&self);
    /// Makes the descriptor readable at this point, at the latest.
    fn ring_at(&self, at: Deadline);
    /// How the bus ended, or that it waits no longer.
    fn stopped(&self, deadline: Deadline) -> Result<(), Stop>;
    /// How long a driver should look in turn before it sleeps, in nanoseconds.
    fn patience(&self) -> u64;
    /// Whether that has paid.
    fn learn(&self, paid: bool);
    /// There was something when the driver woke.
    fn woken_rightly(&self) {}
    /// Whether this is a forked child.
    fn forked(&self) -> bool;
    /// What to wait on.
    ///
    /// # Errors
    /// There is none.
    fn events(&self) -> Result<BorrowedFd<'_>>;
    /// Somebody who may have been woken for this has left the line.
    fn left(&self, kind: Kind) {
        let _ = kind;
    }
    /// The same bus, owned.
    fn shared(&self) -> Arc<dyn Driven>;
}

/// The tasks that wait for one bus.
#[derive(Debug)]
pub struct Tasks {
    lines: [Line; 4],
    replies: Replies,
    /// How many let others run first before they wait.
    yielded: AtomicU32,
    /// How many the driver has woken at the last look that found any.
    woken: AtomicU32,
    /// The earliest deadline of any of them, or before it; `u64::MAX` for none.
    due: AtomicU64,
    /// Turns of a spin loop that a poll may take before it is pending.
    poll_spin: AtomicU32,
    /// How often polls have done so.
    spins: AtomicU32,
    /// Requests may be held back until the driver's next turn.
    corked: AtomicBool,
    driven: AtomicBool,
    /// Our thread has driven it.
    #[cfg(not(busway_loom))]
    adopted: AtomicBool,
    /// The driver waits for the descriptor.
    asleep: AtomicBool,
    driver: Mutex<Sleeper>,
}

/// A driver that is a task, and asleep.
#[derive(Debug, Default)]
struct Sleeper {
    waker: Option<Waker>,
    /// Somebody has taken the waker, to wake it.
    roused: bool,
}

impl Tasks {
    /// Nobody, for a bus with so many places for replies.
    pub fn new(places: u32) -> Self {
        Self {
            lines: KINDS.map(|_| Line::default()),
            replies: Replies::new(places),
            yielded: AtomicU32::new(0),
            woken: AtomicU32::new(0),
            due: AtomicU64::new(u64::MAX),
            poll_spin: AtomicU32::new(crate::wake::turns(POLL_SPIN)),
            spins: AtomicU32::new(0),
            corked: AtomicBool::new(false),
            driven: AtomicBool::new(false),
            #[cfg(not(busway_loom))]
            adopted: AtomicBool::new(false),
            asleep: AtomicBool::new(true),
            driver: Mutex::default(),
        }
    }

    /// How long a poll may look before it is pending.
    pub fn set_poll_spin(&self, time: Duration) {
        self.poll_spin.store(crate::wake::turns(time), Ordering::Relaxed);
    }

    /// Whoever calls this drives the bus from now on.
    ///
    /// # Errors
    /// There is a driver.
    pub fn claim(&self) -> Result<()> {
        if self.driven.swap(true, Ordering::AcqRel) {
            return Err(Error::Unsupported { what: "a second driver" });
        }
        Ok(())
    }

    /// There is no driver any more: whoever waits finds another.
    pub fn unclaim(&self, bus: &(impl Driven + ?Sized)) {
        let sleeper = core::mem::take(&mut *self.driver.lock());
        drop(sleeper);
        bus.unmark();
        self.asleep.store(true, Ordering::SeqCst);
        self.driven.store(false, Ordering::Release);
        // A task that leaves its waker from here on sees that there is no driver, or else this sees it.
        fence(Ordering::SeqCst);
        self.uncork(bus);
        let mut woken = Vec::new();
        self.wake_all(&mut woken);
        woken.into_iter().for_each(Waker::wake);
    }

    /// The bus is about to go, and its descriptor with it, which then wakes nobody: the driver finds that out now.
    pub fn dismiss(&self) {
        if let Some(driver) = self.take_sleeper() {
            driver.wake();
        }
        #[cfg(not(busway_loom))]
        if self.adopted.load(Ordering::Acquire) {
            reactor::sweep();
        }
    }

    /// Whether the driver waits for the descriptor.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::SeqCst)
    }

    /// Wakes those whose time has passed.
    pub fn wake_due(&self) {
        let mut woken = Vec::new();
        self.expire(sync::now(), &mut woken);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Whether anybody waits, for anything.
    #[inline(always)]
    pub fn any(&self) -> bool {
        self.anyone_else(self.yielded.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn anyone_else(&self, yielded: u32) -> bool {
        self.replies.len() + yielded > 0 || self.lines.iter().any(|line| line.len() > 0)
    }

    /// Whether anybody waits in this line.
    pub fn anyone(&self, kind: Kind) -> bool {
        self.lines[kind as usize].len() > 0
    }

    /// Somebody has a deadline: the driver has to wake by then.
    fn expect(&self, bus: &(impl Driven + ?Sized), deadline: Deadline) {
        let Some(at) = deadline.until() else { return };
        if at < self.due.load(Ordering::Relaxed) && self.due.fetch_min(at, Ordering::AcqRel) > at {
            bus.ring_at(deadline);
        }
    }

    /// After the waker was left: makes sure that the driver comes to it. Then look again.
    fn entered(&self, bus: &(impl Driven + ?Sized), what: What, deadline: Deadline) -> Result<()> {
        self.expect(bus, deadline);
        if !mutant("tasks: entered without fence") {
            fence(Ordering::SeqCst);
        }
        if !self.driven.load(Ordering::Acquire) {
            self.adopt(bus)?;
        }
        if self.asleep.load(Ordering::Relaxed) && !mutant("tasks: a driver asleep is left asleep") {
            self.rouse(bus, what);
        }
        Ok(())
    }

    /// Wakes the driver, if it is a task and has something to do at once; else sets the mark.
    #[cold]
    fn rouse(&self, bus: &(impl Driven + ?Sized), what: What) {
        let wakes = self.corked.load(Ordering::Relaxed) || bus.patience() > 0;
        let driver = if wakes { self.take_sleeper() } else { None };
        match driver {
            Some(driver) => driver.wake(),
            None => {
                self.uncork(bus);
                bus.mark(what);
                fence(Ordering::SeqCst);
            }
        }
    }

    /// Takes the waker of a driver asleep, which counts as awake from now on: it looks for everybody as soon as it has its turn.
    fn take_sleeper(&self) -> Option<Waker> {
        let mut driver = self.driver.lock();
        let waker = driver.waker.take();
        if waker.is_some() {
            driver.roused = true;
            self.asleep.store(false, Ordering::SeqCst);
        }
        waker
    }

    /// The driver is about to wait for its descriptor, or was polled in between. Returns whether it should not.
    fn is_roused(&self, waker: &Waker) -> bool {
        let mut driver = self.driver.lock();
        if core::mem::take(&mut driver.roused) {
            return true;
        }
        if !driver.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            driver.waker = Some(waker.clone());
        }
        false
    }

    /// The driver is awake: nobody need wake it.
    fn awake(&self) {
        let sleeper = core::mem::take(&mut *self.driver.lock());
        drop(sleeper);
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Finds a driver for a bus that has none: our thread.
    #[cold]
    fn adopt(&self, bus: &(impl Driven + ?Sized)) -> Result<()> {
        #[cfg(not(busway_loom))]
        if !self.driven.swap(true, Ordering::AcqRel) {
            self.adopted.store(true, Ordering::Release);
            return reactor::adopt(bus.shared()).inspect_err(|_| self.unclaim(bus));
        }
        let _ = bus;
        Ok(())
    }

    /// Looks for everybody: takes out the wakers of those for whom there may be something. Returns whether there are any.
    fn dispatch(&self, bus: &(impl Driven + ?Sized), woken: &mut Vec<Waker>) -> bool {
        let before = woken.len();
        bus.prepare();
        self.replies.take(|place| bus.has_reply(place), woken);
        for kind in KINDS {
            let line = &self.lines[kind as usize];
            if line.len() > 0 {
                line.notify(|bits| bus.has(kind, bits), woken);
            }
        }
        let now = if self.due.load(Ordering::Relaxed) == u64::MAX { 0 } else { sync::now() };
        if now > 0 && now >= self.due.load(Ordering::Relaxed) {
            self.expire(now, woken);
        }
        let found = (woken.len() - before) as u32;
        if found > 0 && self.woken.load(Ordering::Relaxed) != found {
            self.woken.store(found, Ordering::Relaxed);
        }
        found > 0
    }

    /// Takes out those whose time has passed, and finds out who is next.
    #[cold]
    fn expire(&self, now: u64, woken: &mut Vec<Waker>) {
        // Whoever comes while this looks lowers it again.
        self.due.store(u64::MAX, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut next = self.replies.expire(now, woken);
        for line in &self.lines {
            next = next.min(line.expire(now, woken));
        }
        self.due.fetch_min(next, Ordering::AcqRel);
    }

    /// Everybody, at the end.
    fn wake_all(&self, woken: &mut Vec<Waker>) {
        self.replies.take(|_| true, woken);
        self.lines.iter().for_each(|line| line.take_all(woken));
    }

    /// What the tasks in a line wait for, all together.
    pub fn wanted(&self, kind: Kind) -> u32 {
        self.lines[kind as usize].wanted()
    }

    /// The places at which tasks wait for replies.
    pub fn places(&self) -> impl Iterator<Item = u32> {
        self.replies.places()
    }

    /// Something that tasks of this process wait for came about in this process.
    pub fn notify(&self, kind: Kind, bits: u32) {
        let mut woken = None;
        self.lines[kind as usize].notify_one(|wanted| wanted & bits, |waker| woken = Some(waker));
        if let Some(waker) = woken {
            waker.wake();
        }
    }

    /// Whether a request should be held back for the driver's next turn, which is behind those of all tasks that can run: there
    /// are others, or this one would not spin for its reply anyway; and the driver is awake, or a task, which is then woken.
    #[inline(always)]
    pub fn corks(&self, bus: &(impl Driven + ?Sized)) -> bool {
        let others = self.any() || self.woken.load(Ordering::Relaxed) > 1;
        (others || bus.patience() == 0) && (!self.asleep.load(Ordering::Relaxed) || self.driver.lock().waker.is_some())
    }

    /// Says whether requests are held back. Under the lock that they are held back under, and before the fence of a task that
    /// has left its waker.
    #[inline(always)]
    pub fn set_corked(&self, corked: bool) {
        self.corked.store(corked, Ordering::Relaxed);
    }

    /// Publishes what is held back.
    #[inline(always)]
    fn uncork(&self, bus: &(impl Driven + ?Sized)) {
        if self.corked.load(Ordering::Relaxed) && !mutant("tasks: the cork stays") {
            bus.uncork();
        }
    }

    /// Whether a task that waits for the first time should spin: not if other tasks would wait for this one.
    fn alone(&self, bus: &(impl Driven + ?Sized), stage: &Stage) -> bool {
        let yielded = self.yielded.load(Ordering::Relaxed) - u32::from(*stage == Stage::Yielded);
        // Of those who were woken together some may not have been polled yet.
        !self.anyone_else(yielded) && self.woken.load(Ordering::Relaxed) <= 1 && bus.patience() > 0
    }

    /// Looks a bounded number of times.
    fn spin<R>(&self, stage: &mut Stage, look: &mut impl FnMut() -> Option<R>) -> Spun<R> {
        let first = *stage == Stage::First;
        self.left(stage);
        // A task that finds whatever it waits for while it spins would never let another one begin.
        let spins = self.spins.load(Ordering::Relaxed).wrapping_add(1);
        self.spins.store(spins, Ordering::Relaxed);
        if first && spins.is_multiple_of(SPINS_IN_A_ROW) {
            *stage = Stage::Yielded;
            self.yielded.fetch_add(1, Ordering::Relaxed);
            return Spun::Yield;
        }
        for _ in 0..self.poll_spin.load(Ordering::Relaxed) {
            sync::spin_loop();
            if let Some(found) = look() {
                return Spun::Found(found);
            }
        }
        Spun::Wait
    }

    /// The task does not wait any more. Returns whether it may have left its waker.
    #[inline(always)]
    fn left(&self, stage: &mut Stage) -> bool {
        let was = core::mem::replace(stage, Stage::First);
        if was == Stage::Yielded {
            self.yielded.fetch_sub(1, Ordering::Relaxed);
        }
        was == Stage::Waits
    }
}

/// How far a task is in its wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    First,
    /// It lets others run first.
    Yielded,
    /// It has left its waker.
    Waits,
}

/// What came of a spin.
enum Spun<R> {
    Found(R),
    /// Nothing: wait.
    Wait,
    /// Let others run, and poll again.
    Yield,
}

/// `Some` unless it is that there is no room, which can be waited for.
pub fn unless_full<R>(tried: Result<R>) -> Option<Result<R>> {
    if matches!(tried, Err(Error::Full)) { None } else { Some(tried) }
}

/// How long a poll looks by default before it is pending.
const POLL_SPIN: Duration = Duration::from_micros(5);
/// One poll of so many is pending at once if there is nothing.
const SPINS_IN_A_ROW: u32 = 16;

/// A task that waits for one reply.
#[derive(Debug, Default)]
pub struct Caller {
    stage: Stage,
    /// Its request was published, and the other side was not told yet.
    untold: bool,
}

impl Caller {
    /// A task whose request was published just now without telling the other side, which its first poll does.
    #[inline(always)]
    pub fn untold() -> Self {
        Self { stage: Stage::First, untold: true }
    }

    /// Waits for the reply at `place` until `deadline`; `look` says whether it has come.
    pub fn poll(
        &mut self,
        bus: &(impl Driven + ?Sized),
        place: u32,
        deadline: Deadline,
        cx: &mut Context<'_>,
        mut look: impl FnMut() -> bool,
    ) -> Poll<Result<(), Waited>> {
        let mut look = || look().then_some(());
        let tasks = bus.tasks();
        let spun = match (look(), self.stage) {
            (Some(()), _) => Spun::Found(()),
            (None, Stage::Waits) => Spun::Wait,
            _ => {
                let alone = tasks.alone(bus, &self.stage);
                if alone && core::mem::take(&mut self.untold) {
                    bus.tell(false);
                }
                if alone { tasks.spin(&mut self.stage, &mut look) } else { Spun::Wait }
            }
        };
        match spun {
            Spun::Found(()) => {
                self.leave(bus, place);
                return Poll::Ready(Ok(()));
            }
            Spun::Yield => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Spun::Wait => {}
        }
        if let Err(stop) = bus.stopped(deadline) {
            // It may have taken others with it that were held back.
            if core::mem::take(&mut self.untold) {
                bus.tell(false);
            }
            self.leave(bus, place);
            // What was published before the end still counts.
            return Poll::Ready(look().ok_or(Waited::Stopped(stop)));
        }
        tasks.left(&mut self.stage);
        self.stage = Stage::Waits;
        tasks.replies.enter(place, cx.waker(), deadline);
        let entered = tasks.entered(bus, What::Reply(place), deadline);
        if core::mem::take(&mut self.untold) {
            bus.tell(true);
        }
        if let Err(error) = entered {
            self.leave(bus, place);
            return Poll::Ready(Err(Waited::Failed(error)));
        }
        if !mutant("tasks: no second look") && look().is_some() {
            self.leave(bus, place);
            return Poll::Ready(Ok(()));
        }
        if bus.stopped(Deadline::NEVER).is_err() {
            cx.waker().wake_by_ref(); // the driver may have ended before it could see this one
        }
        Poll::Pending
    }

    /// Waits no more. The place is another call's as soon as this one has ended, so before that.
    pub fn leave(&mut self, bus: &(impl Driven + ?Sized), place: u32) {
        if self.stage != Stage::First && bus.tasks().left(&mut self.stage) {
            bus.tasks().replies.leave(place);
        }
    }
}

/// Waits in a line until `look` finds something.
pub async fn wait<R>(
    bus: &(impl Driven + ?Sized),
    kind: Kind,
    bits: u32,
    deadline: Deadline,
    mut look: impl FnMut() -> Option<R>,
) -> Result<R, Waited> {
    let mut place = Place { bus, kind, bits, id: 0, stage: Stage::First };
    poll_fn(move |cx| place.poll(cx, deadline, &mut look)).await
}

/// Why a wait ended without what it was for.
#[derive(Debug)]
pub enum Waited {
    /// The bus has ended, or the time has passed.
    Stopped(Stop),
    /// There is no driver.
    Failed(Error),
}

impl Waited {
    /// As an error of what was not done.
    pub fn refusal(self) -> Error {
        match self {
            Waited::Stopped(stop) => stop.refusal(),
            Waited::Failed(error) => error,
        }
    }
}

/// A task's place in a line. Leaves it when dropped.
struct Place<'a, B: Driven + ?Sized> {
    bus: &'a B,
    kind: Kind,
    bits: u32,
    /// 0 while it is in none.
    id: u64,
    stage: Stage,
}

impl<B: Driven + ?Sized> Place<'_, B> {
    fn poll<R>(
        &mut self,
        cx: &mut Context<'_>,
        deadline: Deadline,
        look: &mut impl FnMut() -> Option<R>,
    ) -> Poll<Result<R, Waited>> {
        if let Some(found) = look() {
            self.leave();
            return Poll::Ready(Ok(found));
        }
        // In a forked child nobody looks.
        if self.bus.forked() {
            return Poll::Ready(Err(Waited::Failed(Error::Forked)));
        }
        let tasks = self.bus.tasks();
        if self.kind == Kind::Requests && self.stage != Stage::Waits {
            let alone = tasks.alone(self.bus, &self.stage);
            match if alone { tasks.spin(&mut self.stage, look) } else { Spun::Wait } {
                Spun::Found(found) => {
                    self.leave();
                    return Poll::Ready(Ok(found));
                }
                Spun::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Spun::Wait => {}
            }
        }
        let stopped = self.bus.stopped(deadline);
        if let Err(stop) = stopped {
            // What was published before the end still counts.
            let found = look();
            self.leave();
            return Poll::Ready(found.ok_or(Waited::Stopped(stop)));
        }
        tasks.left(&mut self.stage);
        self.stage = Stage::Waits;
        let until = match self.kind {
            Kind::Requests => deadline,
            // Not all that comes about rings.
            _ if cfg!(busway_loom) => deadline,
            _ => deadline.sooner(RECHECK),
        };
        self.id = tasks.lines[self.kind as usize].enter(self.id, self.bits, cx.waker(), until);
        if let Err(error) = tasks.entered(self.bus, What::Line(self.kind), until) {
            return Poll::Ready(Err(Waited::Failed(error)));
        }
        let found = if mutant("tasks: no second look") { None } else { look() };
        match found {
            Some(found) => {
                self.leave();
                Poll::Ready(Ok(found))
            }
            None if self.bus.stopped(Deadline::NEVER).is_err() => {
                cx.waker().wake_by_ref(); // the driver may have ended before it could see this one
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }

    /// Leaves the line; if it was on its way to something, or may have been, the next one is woken for what there still is.
    fn leave(&mut self) {
        let tasks = self.bus.tasks();
        if !tasks.left(&mut self.stage) {
            return;
        }
        let line = &tasks.lines[self.kind as usize];
        line.leave(core::mem::take(&mut self.id));
        self.bus.left(self.kind);
        if line.len() > 0 && !mutant("tasks: nothing handed on") {
            let mut woken = None;
            line.notify_one(|bits| self.bus.has(self.kind, bits), |waker| woken = Some(waker));
            if let Some(waker) = woken {
                waker.wake();
            }
        }
    }
}

impl<B: Driven + ?Sized> Drop for Place<'_, B> {
    fn drop(&mut self) {
        if !self.bus.forked() {
            self.leave();
        }
    }
}
