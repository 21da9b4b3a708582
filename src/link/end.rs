//! One end of a link: the two regions and the bells, and what this process knows about them.

use super::calls::Calls;
use super::intake::{Intake, IntakeWords, Nudge};
use super::sending::Tx;
use super::words::{self, BellView, View, state};
use crate::call::{Ended, Hold, Request, Stop};
use crate::error::{Error, Result, Violation};
use crate::ring::spsc::Producer;
use crate::slots::arena::{Arena, SizeClass};
use crate::sync::{
    self, AtomicBool, AtomicU32, AtomicU64, FutexWord, Mutex, Ordering, PeerWord, fence, futex_wake, mutant,
};
use crate::tasks::{Kind, Tasks};
use crate::wake::{Deadline, Doorbell, HOW_BITS, How, Idle, Marks, Ringer, Sleep, Spin, poll_until, ring_bell};
use core::ptr::NonNull;
use core::time::Duration;
use rustix::event::{PollFd, PollFlags};
use rustix::net::RecvFlags;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

/// A function that serves requests.
pub type Handler = dyn Fn(Request<'_>) + Send + Sync;

/// What one end was told to do its own way: see [`Config`](crate::Config).
#[derive(Clone, Debug)]
pub struct Options {
    pub idle: Idle,
    /// Whether the other side's payloads are handed out as slices.
    pub trusted: bool,
    /// How deep calls may nest on one thread.
    pub max_depth: u32,
    /// How long a reply waits at most for a slot of a side that is not trusted to give them back.
    pub reply_patience: Duration,
}

/// One end of a link.
pub struct End {
    pub(super) me: Weak<End>,
    pub ours: View<AtomicU32>,
    pub theirs: View<PeerWord>,
    pub bells: BellView,
    pub options: Options,
    pub(super) arena: Arena,
    pub(super) tx: Mutex<Tx>,
    pub(super) calls: Calls,
    pub(super) intake: Intake,
    pub(super) ringers: Ringers,
    pub(super) spin: Spin,
    pub(super) sleep: Sleep,
    pub(super) doorbell: Option<Doorbell>,
    /// How many of the descriptors that the doorbell watches are pidfds; they come first, control sockets after them.
    pub(super) pidfds: usize,
    /// How the link ended, as [`Ended`]; 0 while it has not.
    pub(super) ended: AtomicU32,
    /// Our position beyond which nothing is received any more, once it has ended.
    pub(super) over_at: AtomicU32,
    /// We close in order, and send nothing new.
    pub(super) draining: AtomicBool,
    /// The mark of a user's event loop.
    pub(super) armed: Mutex<Marks>,
    pub handler: OnceLock<Box<Handler>>,
    /// Async tasks that wait, once there were any.
    pub(super) tasks: OnceLock<Box<Tasks>>,
    pub(super) parks: AtomicU64,
    pub(super) wakes: AtomicU64,
    pub(super) full: AtomicU64,
    pub(super) violations: AtomicU64,
    pub(super) spins_missed: AtomicU64,
}

#[derive(Default)]
pub(super) struct Ringers {
    requests: Ringer,
    room: Ringer,
    slots: Ringer,
    anything: Ringer,
    /// `pos` when sleepers were last told of room.
    room_told_at: AtomicU32,
}

impl End {
    /// One end over its regions. `pidfds` of the `doorbell`'s watched descriptors come first and are pidfds.
    pub fn new(
        ours: View<AtomicU32>,
        theirs: View<PeerWord>,
        bells: BellView,
        doorbell: Option<Doorbell>,
        pidfds: usize,
        options: Options,
    ) -> Arc<Self> {
        let classes: Vec<_> = ours.classes.iter().map(|c| SizeClass { size: c.size, count: c.count }).collect();
        let (calls, cells) = Calls::new(theirs.cells.count(), 0);
        // SAFETY: the views live in the same end as all that is made of them here; the entries are in our region, `pos` in
        // the peer's.
        let (ring, intake) = unsafe {
            let pos = NonNull::from(&theirs.intake.pos.0);
            (
                Producer::new(ours.entries.base(), pos, ours.entries.count(), 0),
                Intake::new(theirs.entries, 0, ours.cells.count()),
            )
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            arena: Arena::new(&classes, theirs.released),
            tx: Mutex::new(Tx::new(ring, cells)),
            calls,
            intake,
            ringers: Ringers::default(),
            spin: Spin::new(options.idle),
            sleep: Sleep::default(),
            doorbell,
            pidfds,
            ended: AtomicU32::new(0),
            over_at: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            armed: Mutex::new(Marks::default()),
            handler: OnceLock::new(),
            tasks: OnceLock::new(),
            parks: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
            full: AtomicU64::new(0),
            violations: AtomicU64::new(0),
            spins_missed: AtomicU64::new(0),
            ours,
            theirs,
            bells,
            options,
        })
    }

    pub(super) fn hold(&self) -> Hold<'_> {
        Hold::Borrowed(self)
    }

    pub(super) fn intake_words(&self) -> IntakeWords<'_> {
        IntakeWords { pos: &self.ours.intake.pos.0, park: &self.ours.intake.park.0, bell: &self.bells.ours.requests.0 }
    }

    /// Whether this process was forked from the one that opened the link: nothing is mapped here, and nothing ours.
    #[inline(always)]
    pub fn forked(&self) -> bool {
        self.ours.forked()
    }

    // ---- the end of a link

    /// How the link ended, if it has.
    #[inline(always)]
    pub fn ended(&self) -> Option<Ended> {
        match self.ended.load(Ordering::Acquire) {
            0 => None,
            word => Ended::from_word(word),
        }
    }

    /// As [`ended`](Self::ended), looking at the peer's own word too.
    #[inline]
    pub(super) fn ended_now(&self) -> Option<Ended> {
        if self.theirs.control.state.0.hint() == state::CLOSED {
            self.end(Ended::ByPeer);
        }
        self.ended()
    }

    /// Ends the link, unless it has ended already, and wakes everybody on both sides. Returns how it ended.
    pub fn end(&self, how: Ended) -> Ended {
        if self.ended().is_none() {
            // What was sent before is received yet. Our position may be behind by all that is set aside.
            let pos = self.ours.intake.pos.0.load(Ordering::Relaxed);
            self.over_at.store(pos.wrapping_add(self.intake.limit() as u32), Ordering::Relaxed);
        }
        if let Err(word) = self.ended.compare_exchange(0, how.to_word(), Ordering::AcqRel, Ordering::Acquire) {
            return Ended::from_word(word).unwrap_or(how);
        }
        self.ours.control.state.0.store(state::CLOSED, Ordering::Release);
        fence(Ordering::SeqCst);
        futex_wake(&self.ended, u32::MAX, true);
        self.wake_everybody();
        how
    }

    /// Wakes every sleeper of both sides, whatever it waits for.
    fn wake_everybody(&self) {
        for bells in [&self.bells.ours, &self.bells.theirs] {
            for bell in [&bells.requests, &bells.room, &bells.slots] {
                ring_bell(&bell.0, u32::MAX);
            }
        }
        for cell in 0..self.ours.cells.count() {
            if words::asleep(self.theirs.call_words.at(cell).hint()) != 0 {
                ring_bell(self.bells.theirs.replies.at(cell), u32::MAX);
            }
            if words::asleep(self.ours.call_words.at(cell).load(Ordering::Relaxed)) != 0 {
                ring_bell(self.bells.ours.replies.at(cell), u32::MAX);
            }
        }
        if let Some(doorbell) = &self.doorbell {
            self.ring(doorbell);
            doorbell.nudge_all();
        }
    }

    /// The peer broke the protocol: gives the link up.
    #[cold]
    pub(super) fn poison(&self, violation: Violation) -> Error {
        self.violations.fetch_add(1, Ordering::Relaxed);
        self.end(Ended::Poisoned(violation)).refusal()
    }

    /// The descriptors say that the peer may be gone: finds out.
    pub(super) fn alarm(&self) {
        let Some(doorbell) = &self.doorbell else { return };
        if self.ended_now().is_some() {
            return;
        }
        let watched = doorbell.watched();
        let mut rings = [0; 1];
        let unasked = |fd: &OwnedFd| matches!(rustix::net::recv(fd, &mut rings, RecvFlags::DONTWAIT), Ok((_, 1..)));
        if watched[self.pidfds..].iter().any(unasked) {
            self.poison(Violation::ControlMessage);
            return;
        }
        // The first pidfd is that of the process that attached: if only its wrapper died, it lives and may take calls yet.
        let now = Deadline::from_nanos(1);
        let died = poll_until(&mut [PollFd::new(&watched[0], PollFlags::IN)], now).unwrap_or(0) > 0;
        if !died && !doorbell.settle() {
            return; // nobody waits here until that is settled: other links may be this thread's too
        }
        // It may have closed the link in order just before. Alive, it has hung up, and nothing more will come.
        if self.ended_now().is_none() {
            self.end(if died { Ended::PeerDied } else { Ended::ByPeer });
        }
    }

    /// Finds out whether the peer is gone, for waits that sleep on something else than the doorbell.
    pub(super) fn look_for_alarm(&self) {
        if self.doorbell.as_ref().is_some_and(Doorbell::alarmed) {
            self.alarm();
        }
    }

    /// Whether this process may send. A side that drains takes no new requests, but those that finish old ones.
    #[inline]
    pub(super) fn usable(&self, nested: bool) -> Result<()> {
        if self.forked() {
            return Err(Error::Forked);
        }
        let word = self.theirs.control.state.0.hint();
        let draining = word != state::OPEN || self.draining.load(Ordering::Relaxed);
        if (draining && !(nested && word != state::CLOSED)) || self.ended.load(Ordering::Relaxed) != 0 {
            return Err(self.ended_now().map_or(Error::Closed, Ended::refusal));
        }
        Ok(())
    }

    /// Whether something that this process knows by itself speaks against sending, which [`usable`](Self::usable) then names:
    /// a look at private memory only.
    #[inline(always)]
    pub(super) fn doubtful(&self) -> bool {
        self.forked() || self.draining.load(Ordering::Relaxed) || self.ended.load(Ordering::Relaxed) != 0
    }

    // ---- waking the peer

    /// After publishing: one fence, one look at the gate; system calls only if somebody sleeps.
    #[inline]
    pub(super) fn notify(&self, entries: bool, slots: bool) {
        if !mutant("wake: waker without fence") {
            fence(Ordering::SeqCst);
        }
        self.notify_fenced(entries, slots);
    }

    /// Moves lines that the peer reads next to where it finds them sooner. Where both run on one CPU they are there already.
    #[inline]
    pub(super) fn demote(&self, base: NonNull<u8>, len: usize) {
        let cpu = self.ours.control.cpu.0.load(Ordering::Relaxed);
        if cpu == 0 || cpu != self.theirs.control.cpu.0.hint() {
            sync::demote(base, len);
        }
    }

    /// Publishes what a cork holds back, and tells the other side.
    pub(super) fn pull_cork(&self) {
        let corked = self.uncork(&mut self.tx.lock());
        if corked {
            self.notify(true, false);
        }
    }

    /// As [`notify`](Self::notify), after a fence.
    #[inline]
    pub(super) fn notify_fenced(&self, entries: bool, slots: bool) {
        if self.theirs.control.sleepers.0.hint() != 0 {
            self.notify_sleepers(entries, slots, 0);
        }
    }

    #[cold]
    fn notify_sleepers(&self, entries: bool, slots: bool, mut how: u32) {
        let (theirs, bells, ringers) = (&self.theirs, &self.bells.theirs, &self.ringers);
        if entries {
            how |= ringers.requests.ring(&theirs.intake.park.0, &bells.requests.0, 1);
        }
        if slots && !mutant("wake: slots ring nobody") {
            how |= ringers.slots.ring(&theirs.control.arena_wait.0, &bells.slots.0, u32::MAX);
        }
        let pos = self.ours.intake.pos.0.load(Ordering::Relaxed);
        // Another thread may have stored it after our fence; it then relies on this look at the mark.
        fence(Ordering::SeqCst);
        ringers.room_told_at.store(pos, Ordering::Relaxed);
        how |= ringers.room.ring_at(&theirs.lane.space_wait.0, &bells.room.0, pos, u32::MAX);
        // An event loop waits for anything, by the doorbell alone: no bell is rung under its mark.
        how |= ringers.anything.ring(&theirs.control.fd_armed.0, &bells.requests.0, 0);
        if how & How::Descriptor as u32 != 0
            && let Some(doorbell) = &self.doorbell
        {
            self.ring(doorbell);
        }
        self.wakes.fetch_add((how != 0).into(), Ordering::Relaxed);
    }

    fn ring(&self, doorbell: &Doorbell) {
        self.ours.control.rings.0.fetch_add(1, Ordering::Relaxed);
        doorbell.ring();
    }

    /// After taking requests: wakes senders that wait for room, if there is more of it than they were told.
    pub(super) fn notify_room(&self) {
        let pos = self.ours.intake.pos.0.load(Ordering::Relaxed);
        if self.ringers.room_told_at.swap(pos, Ordering::Relaxed) != pos {
            self.notify(false, false);
        }
    }

    /// After a reply: wakes the thread that waits for it, by its own mark.
    #[inline]
    pub(super) fn notify_caller(&self, cell: u32, generation: u32, slots: bool) {
        if !mutant("wake: replier without fence") {
            fence(Ordering::SeqCst);
        }
        if self.theirs.control.sleepers.0.hint() != 0 {
            self.notify_sleeping_caller(cell, generation, slots);
        }
    }

    #[cold]
    fn notify_sleeping_caller(&self, cell: u32, generation: u32, slots: bool) {
        let word = self.theirs.call_words.at(cell).hint();
        let how = if word >> HOW_BITS == generation { words::asleep(word) } else { 0 };
        if how == How::Futex as u32 {
            ring_bell(self.bells.theirs.replies.at(cell), 1);
        }
        self.notify_sleepers(false, slots, how);
    }

    /// After a batch of replies that were published without a fence of their own.
    pub(super) fn notify_batch(&self) {
        if !mutant("wake: batch without fence") {
            fence(Ordering::SeqCst);
        }
        if self.theirs.control.sleepers.0.hint() != 0 {
            self.notify_sleepers_of_batch();
        }
    }

    #[cold]
    fn notify_sleepers_of_batch(&self) {
        for cell in 0..self.ours.cells.count() {
            let word = self.theirs.call_words.at(cell).hint();
            let generation = word >> HOW_BITS;
            if words::asleep(word) != 0 && self.ours.cells.at(cell).word.load(Ordering::Relaxed) == generation {
                self.notify_sleeping_caller(cell, generation, false);
            }
        }
        self.notify_sleepers(false, true, 0);
    }

    /// A slot came free inside this process while threads of it wait for one.
    #[cold]
    pub(super) fn wake_loaners(&self) {
        if self.arena.stock().marks.wake_one(&self.bells.ours.slots.0) {
            self.nudge(Nudge(true));
        }
        if let Some(tasks) = self.tasks.get() {
            tasks.notify(Kind::Slots, u32::MAX);
        }
    }

    /// Whether a wait until `deadline` has to stop.
    pub(super) fn stopped(&self, deadline: Deadline) -> Result<(), Stop> {
        match self.ended_now() {
            Some(ended) => Err(Stop::Ended(ended)),
            None if deadline.has_passed() => Err(Stop::Deadline),
            None => Ok(()),
        }
    }

    /// Changes with all that is sent or received.
    pub(super) fn traffic(&self) -> u32 {
        self.ours.intake.pos.0.load(Ordering::Relaxed).wrapping_add(self.tx.lock().ring.next())
    }

    pub(super) fn nudge(&self, nudge: Nudge) {
        if let (Nudge(true), Some(doorbell)) = (nudge, &self.doorbell) {
            self.sleep.wake_pollers(doorbell);
        }
    }

    // ---- event loops

    /// The descriptor of this end.
    pub fn doorbell(&self) -> Option<&Doorbell> {
        self.doorbell.as_ref()
    }

    /// Marks an event loop as about to sleep on the descriptor; false if there is something to do already.
    pub fn arm(&self) -> bool {
        if self.forked() {
            return false;
        }
        self.mark_loop();
        fence(Ordering::SeqCst);
        !self.intake.ready(&self.intake_words()) && self.ended_now().is_none()
    }

    /// Sets the mark of an event loop, or sets it anew.
    pub(super) fn mark_loop(&self) {
        // Before the mark: whoever takes in a ring that came for it sees this.
        if let Some(doorbell) = &self.doorbell {
            doorbell.arm(true);
        }
        let mut armed = self.armed.lock();
        if armed.sleepers() == 0 {
            armed.enter(&self.ours.control.fd_armed.0, How::Descriptor);
            self.ours.control.sleepers.0.fetch_add(1, Ordering::Relaxed);
        } else {
            armed.renew(&self.ours.control.fd_armed.0);
        }
    }

    /// The event loop is awake again: takes in the rings of the doorbell.
    pub fn disarm(&self) {
        if self.forked() {
            return;
        }
        self.unmark_loop();
        self.take_in_rings();
    }

    /// Clears the mark.
    pub(super) fn unmark_loop(&self) {
        let mut armed = self.armed.lock();
        if armed.sleepers() > 0 {
            armed.leave(&self.ours.control.fd_armed.0, How::Descriptor);
            self.ours.control.sleepers.0.fetch_sub(1, Ordering::Relaxed);
        }
        drop(armed);
        if let Some(doorbell) = &self.doorbell {
            doorbell.arm(false);
        }
    }

    /// Takes in what has made the descriptor of an event loop readable.
    pub(super) fn take_in_rings(&self) {
        let Some(doorbell) = &self.doorbell else { return };
        let seen = doorbell.look(&self.theirs.control.rings.0, self.traffic());
        if seen.rung {
            self.sleep.wake_pollers(doorbell);
        }
        if seen.alarm {
            self.alarm();
        }
    }

    // ---- closing

    /// Closes in order: see [`Link::close`](crate::Link::close).
    pub fn close(&self, deadline: Deadline) {
        if self.begin_close() {
            while self.ended_now().is_none() && !deadline.has_passed() && !self.is_drained() {
                // Handlers of ours and of the peer finish without ringing anybody, so this looks every millisecond.
                let until = deadline.sooner(Duration::from_millis(1)).until();
                sync::futex_wait(FutexWord::private(&self.ended, 0), until);
                self.look_for_alarm();
            }
        }
        self.end(Ended::ByUs);
    }

    /// Sends nothing new from now on. Returns whether there is something to wait for.
    pub(super) fn begin_close(&self) -> bool {
        self.draining.store(true, Ordering::Relaxed);
        if self.ended().is_some() {
            return false;
        }
        self.pull_cork();
        // Another thread may have ended the link just now, which stays.
        let word = &self.ours.control.state.0;
        let _ = word.compare_exchange(state::OPEN, state::DRAINING, Ordering::Release, Ordering::Relaxed);
        true
    }

    /// Whether everything sent was taken, and no call is under way in either direction.
    pub(super) fn is_drained(&self) -> bool {
        let mut tx = self.tx.lock();
        self.sweep_given_up(&mut tx);
        self.theirs.intake.pos.0.load() == tx.ring.next()
            && self.calls.in_use(&mut tx.cells) == 0
            && !self.intake.any_busy()
            && !self.intake.ready(&self.intake_words())
    }
}
