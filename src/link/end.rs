//! One end of a link: both regions, and what this process knows about them.

use super::calls::{Calls, FreeCells};
use super::intake::{Intake, IntakeWords, Nudge, Taken};
use super::words::{self, Body, Counters, View, entry, reply, state};
use crate::call::{Bus, Data, Head, Hold, Loan, Message, Outcome, Payload, Pending, Place, Request, Ticket, reject};
use crate::error::{Error, Result, Violation};
use crate::ring::spsc::Producer;
use crate::slots::SlotRef;
use crate::slots::arena::{Arena, SizeClass, SlotId};
use crate::sync::{self, AtomicBool, AtomicU32, AtomicU64, FutexWord, Mutex, MutexGuard, Ordering, PeerWord, fence, futex_wake};
use crate::wake::{Bell, Deadline, Doorbell, HOW_BITS, How, Idle, Marks, Sleep, Spin, Spot, starts_with_futex};
use core::cell::Cell;
use core::ptr::NonNull;
use core::time::Duration;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

/// A function that serves requests.
pub type Handler = dyn Fn(Request<'_>) + Send + Sync;

/// What a thread of this process may wait for besides a reply, unless it says otherwise.
#[derive(Clone, Debug)]
pub struct Options {
    pub idle: Idle,
    /// Whether the other side's payloads are handed out as slices.
    pub trusted: bool,
    /// How deep calls may nest on one thread.
    pub max_depth: u32,
}

/// One end of a link.
pub struct End {
    me: Weak<End>,
    pub ours: View<AtomicU32>,
    pub theirs: View<PeerWord>,
    pub options: Options,
    arena: Arena,
    tx: Mutex<Tx>,
    calls: Calls,
    intake: Intake,
    /// Which of our reply cells carry a call of the peer that we have taken and not answered.
    busy: Box<[AtomicBool]>,
    bells: Bells,
    spin: Spin,
    sleep: Sleep,
    doorbell: Option<Doorbell>,
    /// The peer's control socket, if there is one; the doorbell watches a duplicate.
    pidfds: usize,
    /// How the link ended, as [`Ended`]; 0 while it has not.
    ended: AtomicU32,
    /// We close in order, and send nothing new.
    draining: AtomicBool,
    /// The mark of a user's event loop.
    armed: Mutex<Marks>,
    pub handler: OnceLock<Box<Handler>>,
    parks: AtomicU64,
    wakes: AtomicU64,
    full: AtomicU64,
    violations: AtomicU64,
    spins_missed: AtomicU64,
}

struct Tx {
    ring: Producer<Body>,
    cells: FreeCells,
    space: Marks,
    sent: u64,
    sent_bytes: u64,
}

#[derive(Default)]
struct Bells {
    entries: Bell,
    space: Bell,
    slots: Bell,
    anything: Bell,
    /// `pos` when the peer's senders were last rung.
    space_rung_at: AtomicU32,
}

/// Why a link is no longer usable; the lowest bits of `ended`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    ByUs,
    ByPeer,
    PeerDied,
    Poisoned(Violation),
}

impl Ended {
    fn to_word(self) -> u32 {
        match self {
            Ended::ByUs => 1,
            Ended::ByPeer => 2,
            Ended::PeerDied => 3,
            Ended::Poisoned(violation) => 16 + violation as u32,
        }
    }

    fn from_word(word: u32) -> Option<Self> {
        use Violation::*;
        Some(match word {
            0 => return None,
            1 => Ended::ByUs,
            2 => Ended::ByPeer,
            3 => Ended::PeerDied,
            word => {
                let all = [Position, SlotReference, ReplyCell, EntryKind, InlineLength, ReplyStatus, ControlMessage];
                Ended::Poisoned(all.into_iter().find(|v| *v as u32 == word - 16).unwrap_or(Position))
            }
        })
    }

    /// As the answer to an operation that has not begun.
    fn refusal(self) -> Error {
        match self {
            Ended::ByUs | Ended::ByPeer => Error::Closed,
            Ended::PeerDied => Error::PeerDied { maybe_executed: false },
            Ended::Poisoned(reason) => Error::Poisoned { reason },
        }
    }

    /// As the answer to a call under way, whose request the other side had `taken` from the ring.
    fn interruption(self, taken: bool) -> Error {
        match self {
            Ended::ByUs | Ended::ByPeer => Error::Cancelled,
            // A dead process takes nothing any more, so what it had not taken was not executed.
            Ended::PeerDied => Error::PeerDied { maybe_executed: taken },
            Ended::Poisoned(reason) => Error::Poisoned { reason },
        }
    }
}

/// Why a wait ended without what it waited for.
enum Stop {
    Deadline,
    Ended(Ended),
}

impl Stop {
    /// As the answer to an operation that did nothing.
    fn refusal(self) -> Error {
        match self {
            Stop::Deadline => Error::Timeout { maybe_executed: false },
            Stop::Ended(ended) => ended.refusal(),
        }
    }
}

thread_local! {
    /// How many nested calls this thread is serving.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// With `Idle::Spin`, after this many turns the descriptors are looked at: about every 100 ms.
const ALARM_TURNS: u32 = 1 << 22;

impl End {
    /// One end over its two regions. `pidfds` of the `doorbell`'s watched descriptors come first and are pidfds.
    pub fn new(
        ours: View<AtomicU32>,
        theirs: View<PeerWord>,
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
            (Producer::new(ours.entries.base(), pos, ours.entries.count(), 0), Intake::new(theirs.entries, 0))
        };
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            arena: Arena::new(&classes, theirs.released),
            tx: Mutex::new(Tx { ring, cells, space: Marks::default(), sent: 0, sent_bytes: 0 }),
            calls,
            intake,
            busy: (0..ours.cells.count()).map(|_| AtomicBool::new(false)).collect(),
            bells: Bells::default(),
            spin: Spin::new(options.idle),
            sleep: Sleep::default(),
            doorbell,
            pidfds,
            ended: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            armed: Mutex::new(Marks::default()),
            handler: OnceLock::new(),
            parks: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
            full: AtomicU64::new(0),
            violations: AtomicU64::new(0),
            spins_missed: AtomicU64::new(0),
            ours,
            theirs,
            options,
        })
    }

    fn hold(&self) -> Hold<'_> {
        Hold::Borrowed(self)
    }

    fn intake_words(&self) -> IntakeWords<'_> {
        IntakeWords { pos: &self.ours.intake.pos.0, park: &self.ours.intake.park.0, bell: &self.theirs.lane.bell.0 }
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
    fn ended_now(&self) -> Option<Ended> {
        if self.theirs.control.state.0.hint() == state::CLOSED {
            self.end(Ended::ByPeer);
        }
        self.ended()
    }

    /// Ends the link, unless it has ended already, and wakes everybody on both sides. Returns how it ended.
    pub fn end(&self, how: Ended) -> Ended {
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
        let ours = &self.ours;
        for bell in [&ours.lane.bell.0, &ours.control.released_bell.0] {
            bell.fetch_add(1, Ordering::Release);
            futex_wake(bell, u32::MAX, false);
        }
        futex_wake(&ours.intake.pos.0, u32::MAX, false);
        for cell in 0..ours.cells.count() {
            if self.theirs.call_words.at(cell).hint() & ((1 << HOW_BITS) - 1) != 0 {
                futex_wake(&ours.cells.at(cell).word, u32::MAX, false);
            }
        }
        if let Some(doorbell) = &self.doorbell {
            doorbell.ring();
            doorbell.nudge();
        }
        // Our own threads that sleep by futex look again within the first stage of their sleep.
    }

    /// The peer broke the protocol: gives the link up.
    #[cold]
    fn poison(&self, violation: Violation) -> Error {
        self.violations.fetch_add(1, Ordering::Relaxed);
        self.end(Ended::Poisoned(violation)).refusal()
    }

    /// The descriptors say that the peer may be gone: finds out.
    fn alarm(&self) {
        let Some(doorbell) = &self.doorbell else { return };
        if self.ended_now().is_some() {
            return;
        }
        let (pidfds, control) = doorbell.watched().split_at(self.pidfds);
        let mut rings = [0; 1];
        let unasked = |fd: &OwnedFd| matches!(rustix::net::recv(fd, &mut rings, RecvFlags::DONTWAIT), Ok((_, 1..)));
        if control.iter().any(unasked) {
            self.poison(Violation::ControlMessage);
            return;
        }
        // A process that dies closes its sockets a moment before its pidfd says so.
        let mut fds: Vec<_> = pidfds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let died = poll(&mut fds, Some(&moment)).unwrap_or(0) > 0;
        // It may have closed the link in order just before. Alive, it has hung up, and nothing more will come.
        if self.ended_now().is_none() {
            self.end(if died { Ended::PeerDied } else { Ended::ByPeer });
        }
    }

    /// Whether this process may send. A side that drains takes no new requests, but those that finish old ones.
    #[inline]
    fn usable(&self, nested: bool) -> Result<()> {
        if sync::forked() {
            return Err(Error::Forked);
        }
        let word = self.theirs.control.state.0.hint();
        let draining = word != state::OPEN || self.draining.load(Ordering::Relaxed);
        if (draining && !(nested && word == state::DRAINING)) || self.ended.load(Ordering::Relaxed) != 0 {
            return Err(self.ended_now().map_or(Error::Closed, Ended::refusal));
        }
        Ok(())
    }

    // ---- waking the peer

    /// After publishing: one fence, one look at the gate; system calls only if somebody sleeps.
    #[inline]
    fn notify(&self, entries: bool, slots: bool) {
        fence(Ordering::SeqCst);
        if self.theirs.control.sleepers.0.hint() != 0 {
            self.notify_sleepers(entries, slots, 0);
        }
    }

    #[cold]
    fn notify_sleepers(&self, entries: bool, slots: bool, mut how: u32) {
        let (ours, theirs, bells) = (&self.ours, &self.theirs, &self.bells);
        if entries {
            how |= bells.entries.ring(&theirs.intake.park.0, &ours.lane.bell.0, true, 1);
        }
        if slots {
            how |= bells.slots.ring(&theirs.control.arena_wait.0, &ours.control.released_bell.0, true, u32::MAX);
        }
        let pos = ours.intake.pos.0.load(Ordering::Relaxed);
        if bells.space_rung_at.swap(pos, Ordering::Relaxed) != pos {
            how |= bells.space.ring(&theirs.lane.space_wait.0, &ours.intake.pos.0, false, u32::MAX);
        }
        // An event loop waits for anything; its bell is the doorbell alone.
        how |= bells.anything.ring(&theirs.control.fd_armed.0, &ours.control.released_bell.0, false, 0);
        if how & How::Descriptor as u32 != 0 && let Some(doorbell) = &self.doorbell {
            doorbell.ring();
        }
        self.wakes.fetch_add((how != 0).into(), Ordering::Relaxed);
    }

    /// After a reply: wakes the thread that waits for it, by its own mark.
    #[inline]
    fn notify_caller(&self, cell: u32, generation: u32, slots: bool) {
        fence(Ordering::SeqCst);
        if self.theirs.control.sleepers.0.hint() != 0 {
            self.notify_sleeping_caller(cell, generation, slots);
        }
    }

    #[cold]
    fn notify_sleeping_caller(&self, cell: u32, generation: u32, slots: bool) {
        let word = self.theirs.call_words.at(cell).hint();
        let how = if word >> HOW_BITS == generation { word & ((1 << HOW_BITS) - 1) } else { 0 };
        if how == How::Futex as u32 {
            futex_wake(&self.ours.cells.at(cell).word, 1, false);
        }
        self.notify_sleepers(false, slots, how);
    }

    fn nudge(&self, nudge: Nudge) {
        if let (Nudge(true), Some(doorbell)) = (nudge, &self.doorbell) {
            self.sleep.wake_pollers(doorbell);
        }
    }

    // ---- waiting

    /// Waits until `look` finds something: spins, then sleeps under the mark of `spot`. Returns what it found and whether a
    /// spin found it. `recheck` bounds each sleep, for what rings nobody.
    fn wait<R>(
        &self,
        spot: &impl Spot,
        deadline: Deadline,
        spin: bool,
        recheck: Option<Duration>,
        mut look: impl FnMut() -> Option<R>,
    ) -> Result<(R, bool), Stop> {
        let (turns, yields) = if spin { self.spin.begin(&self.ours.control.cpu.0, &self.theirs.control.cpu.0) } else { (0, 0) };
        let mut turn = 0;
        while turn < turns {
            if let Some(found) = look() {
                self.spin.paid();
                return Ok((found, true));
            }
            sync::spin_loop();
            turn += 1;
            // The first 2 us or so cost no look at anything else.
            if turn.is_multiple_of(128) {
                if let Some(ended) = self.ended_now() {
                    return look().map(|found| (found, true)).ok_or(Stop::Ended(ended));
                }
                if deadline.has_passed() {
                    return Err(Stop::Deadline);
                }
                if turns == u32::MAX && turn >= ALARM_TURNS {
                    turn = 0;
                    if self.doorbell.as_ref().is_some_and(|d| d.wait(Some(1))) {
                        self.alarm();
                    }
                }
            }
        }
        if turns > 0 {
            self.spin.missed();
            self.spins_missed.fetch_add(1, Ordering::Relaxed);
        }
        for _ in 0..yields {
            if let Some(found) = look() {
                return Ok((found, false));
            }
            sync::yield_now();
        }
        let mut by_futex = starts_with_futex(&self.spin);
        loop {
            if let Some(found) = look() {
                return Ok((found, false));
            }
            if let Some(ended) = self.ended_now() {
                // What was published before the end still counts.
                return look().map(|found| (found, false)).ok_or(Stop::Ended(ended));
            }
            if deadline.has_passed() {
                return Err(Stop::Deadline);
            }
            self.parks.fetch_add(1, Ordering::Relaxed);
            let until = recheck.map_or(deadline, |limit| deadline.sooner(limit));
            let gate = &self.ours.control.sleepers.0;
            // Whoever ends the link wakes what it finds marked, so look for the end too after marking.
            let mut look_twice = || look().map(Some).or_else(|| self.ended_now().map(|_| None));
            let found = match &self.doorbell {
                Some(doorbell) if !by_futex => {
                    self.sleep.by_descriptor(gate, spot, until, &mut look_twice, doorbell, || self.alarm())
                }
                _ => {
                    let (found, long) = self.sleep.by_futex(gate, spot, until, &mut look_twice);
                    by_futex = !long;
                    found
                }
            };
            if let Some(Some(found)) = found {
                return Ok((found, false));
            }
        }
    }

    // ---- sending

    /// Loans memory for a request. Waits if there is a deadline to wait to.
    #[inline]
    pub fn loan(&self, len: usize, deadline: Option<Deadline>) -> Result<Loan<'_>> {
        if sync::forked() {
            return Err(Error::Forked);
        }
        let place = self.place(len, words::INLINE_REQUEST, deadline)?;
        // SAFETY: loaned just now, of this end, for `len` bytes.
        Ok(unsafe { Loan::new(place, len, self.hold()) })
    }

    /// Finds a place for `len` bytes, of which up to `inline` travel without a slot.
    #[inline]
    fn place(&self, len: usize, inline: usize, deadline: Option<Deadline>) -> Result<Place> {
        if len <= inline {
            return Ok(Place::Inline([0; 5]));
        }
        let class = self.arena.class_for(len).map_err(|max| Error::TooLarge { len, max })?;
        let slot = match self.arena.loan(class) {
            Some(slot) => slot,
            None => self.wait_loan(class, deadline)?,
        };
        let base = self.ours.classes[usize::from(class)].at(self.arena.index(slot));
        Ok(Place::Slot { base, slot })
    }

    #[cold]
    fn wait_loan(&self, class: u8, deadline: Option<Deadline>) -> Result<SlotId> {
        self.full.fetch_add(1, Ordering::Relaxed);
        // A reply that came too late may hold what we look for on the other side.
        self.sweep_given_up(&mut self.tx.lock());
        let deadline = deadline.ok_or(Error::Full)?;
        let spot = ArenaSpot(self);
        // A slot that another thread keeps warm in its place rings nobody.
        let recheck = Some(Duration::from_millis(10));
        match self.wait(&spot, deadline, true, recheck, || self.arena.loan(class)) {
            Ok((slot, _)) => Ok(slot),
            Err(stop) => Err(stop.refusal()),
        }
    }

    /// Publishes one request. `wait` says whether to wait for room until the deadline; `parent` makes it a nested call.
    ///
    /// The one way in which anything is sent.
    #[inline]
    fn send(
        &self,
        kind: u8,
        method: u32,
        payload: Payload<'_>,
        deadline: Deadline,
        wait: bool,
        parent: Option<u32>,
        notify: bool,
    ) -> Result<Option<Ticket>> {
        self.usable(parent.is_some())?;
        let mut body = Body { method, deadline: deadline.as_nanos(), ..Body::default() };
        let mut tag = u32::from(kind) | parent.map_or(0, |cell| (cell + 1) << 16);
        let len = payload.len();
        let loan = match payload {
            Payload::Bytes(bytes) => {
                let mut loan = self.loan(len, wait.then_some(deadline))?;
                loan.copy_from_slice(bytes);
                loan
            }
            Payload::Loan(loan) if !loan.belongs_to(core::ptr::from_ref(self).cast()) => {
                return Err(Error::Unsupported { what: "a loan of another link" });
            }
            Payload::Loan(loan) => loan,
        };
        // From here on only the room can be missing; the loan keeps the slot until there is some.
        let mut tx = self.tx.lock();
        let mut cell = None;
        if !self.room(&mut tx, kind, parent.is_some(), &mut cell)? {
            drop(tx);
            self.full.fetch_add(1, Ordering::Relaxed);
            if !wait {
                return Err(Error::Full);
            }
            tx = self.wait_room(kind, deadline, &mut cell)?;
        }
        let (place, _) = loan.into_parts();
        let slot = match place {
            Place::Inline(words) if len <= words::INLINE_REQUEST => {
                body.length = len as u32;
                body.inline.copy_from_slice(&words[..4]);
                None
            }
            Place::Inline(_) => unreachable!("an inline loan is no longer than asked for"),
            Place::Slot { slot, .. } => {
                let reference = if kind == entry::CALL { self.arena.ride(slot) } else { self.arena.lend(slot) };
                tag |= u32::from(entry::SLOT) << 8;
                body.inline[..2].copy_from_slice(&[reference.bits(), len as u64]);
                Some(slot)
            }
        };
        let position = tx.ring.next();
        let ticket = cell.map(|(cell, generation)| {
            body.call = u64::from(generation) << 32 | u64::from(cell);
            Ticket { cell, generation, position, slot, deadline }
        });
        tx.ring.publish(tag, body);
        tx.sent += 1;
        tx.sent_bytes += len as u64;
        drop(tx);
        if notify {
            self.notify(true, false);
        }
        Ok(ticket)
    }

    /// Whether the ring has room and, for a call, a cell is free, which is then taken.
    #[inline]
    fn room(&self, tx: &mut Tx, kind: u8, nested: bool, cell: &mut Option<(u32, u32)>) -> Result<bool> {
        if !tx.cells.given_up.is_empty() {
            self.sweep_given_up(tx);
        }
        // An eighth is kept for calls made while serving one.
        let (entries, cells) = (self.ours.entries.count(), self.theirs.cells.count());
        let (entries, cells) = if nested { (0, 0) } else { (entries / 8, cells / 8) };
        if !tx.ring.has_room(1, entries).map_err(|lied| self.poison(lied.into()))? {
            return Ok(false);
        }
        if kind == entry::CALL {
            *cell = self.calls.take(&mut tx.cells, cells);
            return Ok(cell.is_some());
        }
        Ok(true)
    }

    #[cold]
    fn wait_room(&self, kind: u8, deadline: Deadline, cell: &mut Option<(u32, u32)>) -> Result<MutexGuard<'_, Tx>> {
        loop {
            let freed = self.calls.freed();
            let mut tx = self.tx.lock();
            if self.room(&mut tx, kind, false, cell)? {
                return Ok(tx);
            }
            let no_cell = tx.ring.has_room(1, self.ours.entries.count() / 8).map_err(|lied| self.poison(lied.into()))?;
            drop(tx);
            if no_cell {
                self.calls.wait_freed(freed, deadline);
                if let Some(ended) = self.ended_now() {
                    return Err(ended.refusal());
                }
                if deadline.has_passed() {
                    return Err(Error::Timeout { maybe_executed: false });
                }
            } else {
                let look = || {
                    let mut tx = self.tx.lock();
                    tx.ring.has_room(1, self.ours.entries.count() / 8).map_or(Some(()), |room| room.then_some(()))
                };
                self.wait(&SpaceSpot(self), deadline, true, None, look).map_err(Stop::refusal)?;
            }
        }
    }

    /// Sends an event.
    #[inline]
    pub fn event(&self, method: u32, payload: Payload<'_>, deadline: Deadline, wait: bool, notify: bool) -> Result<()> {
        self.send(entry::EVENT, method, payload, deadline, wait, None, notify).map(drop)
    }

    /// Sends a call.
    #[inline]
    pub fn submit(&self, method: u32, payload: Payload<'_>, deadline: Deadline, wait: bool, notify: bool) -> Result<Pending<'_>> {
        match self.send(entry::CALL, method, payload, deadline, wait, None, notify)? {
            Some(ticket) => Ok(Pending::new(ticket, self.hold())),
            None => unreachable!("a call has a cell"),
        }
    }

    /// Sends a call and waits for its reply.
    #[inline]
    pub fn call(&self, method: u32, payload: Payload<'_>, deadline: Deadline) -> Result<Message<'_>> {
        let Some(ticket) = self.send(entry::CALL, method, payload, deadline, true, None, true)? else {
            unreachable!("a call has a cell")
        };
        let data = self.finish_call(&ticket)?;
        // SAFETY: received here just now.
        Ok(unsafe { Message::new(data, self.hold()) })
    }

    /// Wakes the peer for everything sent with `notify: false`.
    pub fn flush(&self) {
        self.notify(true, false);
    }

    // ---- replies

    #[inline(always)]
    fn arrived(&self, ticket: &Ticket) -> bool {
        self.theirs.cells.at(ticket.cell).word.hint() == ticket.generation
    }

    /// Waits for a reply and takes it; gives the call up when the wait ends without.
    #[inline]
    fn finish_call(&self, ticket: &Ticket) -> Result<Data> {
        if sync::forked() {
            return Err(Error::Forked);
        }
        if !self.arrived(ticket) {
            self.wait_reply(ticket)?;
        }
        self.take_reply(ticket)
    }

    #[inline]
    fn wait_reply(&self, ticket: &Ticket) -> Result<()> {
        let handler = self.handler.get();
        let words = self.intake_words();
        let parent = handler.map(|_| ticket.cell);
        loop {
            let spot = ReplySpot { end: self, ticket, words, children: handler.is_some() };
            let waited = self.wait(&spot, ticket.deadline, true, None, || {
                if self.arrived(ticket) {
                    return Some(None);
                }
                // Ours to serve: what the other side calls while it serves this call.
                let parent = parent?;
                if !self.intake.ready(&words) {
                    return None;
                }
                let (child, nudge) = self.intake.take_child(&words, parent);
                self.nudge(nudge);
                child.map(Some)
            });
            match waited {
                Ok((None, spun)) => {
                    if spun {
                        self.calls.spin_paid(ticket.cell);
                    }
                    return Ok(());
                }
                Ok((Some(child), _)) => {
                    if let Some(handler) = handler {
                        if let Some(request) = self.open(child)? {
                            self.serve_nested(handler, request);
                        }
                    }
                }
                Err(stop) => return self.stop_waiting(ticket, stop),
            }
        }
    }

    #[cold]
    fn stop_waiting(&self, ticket: &Ticket, stop: Stop) -> Result<()> {
        if self.give_up_call(ticket) {
            return Ok(()); // its reply has come after all
        }
        // Asked after giving up and its fence: whoever takes the request from now on sees that nobody waits for it.
        let taken = self.taken(ticket);
        Err(match stop {
            Stop::Deadline => Error::Timeout { maybe_executed: taken },
            Stop::Ended(ended) => ended.interruption(taken),
        })
    }

    /// Whether the peer has taken the request of this call from the ring.
    fn taken(&self, ticket: &Ticket) -> bool {
        // Positions are compared on their circle; a call is never half of it away.
        self.theirs.intake.pos.0.load().wrapping_sub(ticket.position.wrapping_add(1)) < 1 << 31
    }

    /// Gives a call up: returns false if so, true if its reply has come after all and is to be taken.
    fn give_up_call(&self, ticket: &Ticket) -> bool {
        let word = self.ours.call_words.at(ticket.cell);
        word.store(ticket.generation << HOW_BITS | words::GIVEN_UP, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut tx = self.tx.lock();
        if self.arrived(ticket) {
            return true;
        }
        if super::calls::frees_at_once() {
            self.calls.put(&mut tx.cells, ticket.cell);
        } else {
            tx.cells.given_up.push(*ticket);
        }
        false
    }

    /// Takes in replies to calls that were given up.
    #[cold]
    fn sweep_given_up(&self, tx: &mut Tx) {
        let mut at = 0;
        let mut released = false;
        while let Some(ticket) = tx.cells.given_up.get(at).copied() {
            if !self.arrived(&ticket) {
                at += 1;
                continue;
            }
            tx.cells.given_up.swap_remove(at);
            if let Ok(Data::Slot { slot, .. }) = self.read_reply(&ticket) {
                self.release_slot(slot);
                released = true;
            }
            self.calls.put(&mut tx.cells, ticket.cell);
        }
        if released {
            self.notify(false, true);
        }
    }

    /// Takes the reply that has arrived, and frees the cell.
    #[inline]
    fn take_reply(&self, ticket: &Ticket) -> Result<Data> {
        let result = self.read_reply(ticket);
        if !self.calls.keep(ticket.cell) {
            self.calls.put(&mut self.tx.lock().cells, ticket.cell);
        }
        result
    }

    /// Reads a reply, once, and checks the copy.
    #[inline]
    fn read_reply(&self, ticket: &Ticket) -> Result<Data> {
        let cell = self.theirs.cells.at(ticket.cell);
        cell.word.load(); // acquires what the replier wrote
        let flags = cell.flags.hint();
        let body = cell.body.read();
        if let Some(slot) = ticket.slot {
            if flags & reply::RELEASED != 0 {
                if self.arena.give_back(slot) {
                    self.wake_loaners();
                }
            } else {
                self.arena.detach(slot);
            }
        }
        match flags & reply::STATUS {
            reply::OK if flags & reply::SLOT != 0 => self.slot_data(SlotRef::from_bits(body.inline[0]), body.length),
            reply::OK if body.length as usize <= words::INLINE_REPLY => {
                Ok(Data::Inline { words: body.inline, len: body.length as u8 })
            }
            reply::OK => Err(self.poison(Violation::InlineLength)),
            reply::REJECTED => {
                Err(Error::Rejected { code: body.code, maybe_executed: body.code != reject::TOO_DEEP })
            }
            reply::PANICKED => Err(Error::HandlerPanicked),
            reply::NO_METHOD => Err(Error::NoSuchMethod { method: body.code }),
            reply::DISCARDED => Err(Error::Cancelled),
            _ => Err(self.poison(Violation::ReplyStatus)),
        }
    }

    /// A payload in a slot of the peer, if the reference holds.
    #[inline]
    fn slot_data(&self, slot: SlotRef, len: u64) -> Result<Data> {
        let class = self.theirs.classes.get(usize::from(slot.class()));
        match class {
            Some(class) if slot.segment() == 0 && slot.index() < class.count && len <= class.size.into() => Ok(Data::Slot {
                base: class.at(slot.index()),
                len: len as usize,
                slot,
                trusted: self.options.trusted,
            }),
            _ => Err(self.poison(Violation::SlotReference)),
        }
    }

    // ---- receiving

    /// Takes the next request that is there.
    #[inline]
    pub fn try_recv(&self) -> Result<Option<Request<'_>>> {
        if sync::forked() {
            return Err(Error::Forked);
        }
        let words = self.intake_words();
        loop {
            if !self.intake.ready(&words) {
                return match self.ended_now() {
                    None => Ok(None),
                    Some(_) if self.intake.ready(&words) => continue,
                    Some(ended) => Err(ended.refusal()),
                };
            }
            let (taken, nudge) = self.intake.take(&words);
            self.nudge(nudge);
            if let Some(taken) = taken
                && let Some(request) = self.open(taken)?
            {
                // The fence that lets waiting senders see our position comes with the reply of a call; an event has none.
                if request.is_event() {
                    self.notify(false, false);
                }
                return Ok(Some(request));
            }
        }
    }

    /// Waits for the next request.
    #[inline]
    pub fn recv(&self, deadline: Deadline) -> Result<Request<'_>> {
        loop {
            if let Some(request) = self.try_recv()? {
                return Ok(request);
            }
            self.wait_request(deadline)?;
        }
    }

    /// Waits until a request is there, which another thread may take before this one does.
    pub fn wait_request(&self, deadline: Deadline) -> Result<()> {
        self.sweep_given_up(&mut self.tx.lock());
        let words = self.intake_words();
        // One thread spins; the others sleep meanwhile.
        let spins = matches!(self.spin.idle(), Idle::Adaptive { .. } | Idle::Spin) && self.intake.begin_spin(&words);
        let spot = IntakeSpot { end: self, words, spinning: Cell::new(spins) };
        let waited = self.wait(&spot, deadline, spins, None, || self.intake.ready(&words).then_some(()));
        if spot.spinning.get() {
            self.nudge(self.intake.end_spin(&words, matches!(waited, Ok((_, true)))));
        }
        waited.map(drop).map_err(|stop| {
            self.nudge(self.intake.pass_on(&words));
            stop.refusal()
        })
    }

    /// Checks what was taken from the ring and gives it its form; `None` for a call that nobody waits for any more.
    #[inline]
    fn open(&self, (tag, body): Taken) -> Result<Option<Request<'_>>> {
        let flags = (tag >> 8) as u8;
        let data = if flags & entry::SLOT != 0 {
            self.slot_data(SlotRef::from_bits(body.inline[0]), body.inline[1])?
        } else if body.length as usize <= words::INLINE_REQUEST {
            let [a, b, c, d] = body.inline;
            Data::Inline { words: [a, b, c, d, 0], len: body.length as u8 }
        } else {
            return Err(self.poison(Violation::InlineLength));
        };
        let call = match tag as u8 {
            entry::EVENT => None,
            entry::CALL => Some(self.open_call(&body)?),
            _ => return Err(self.poison(Violation::EntryKind)),
        };
        let head = Head { method: body.method, call, deadline: Deadline::from_nanos(body.deadline) };
        // SAFETY: taken from the ring once, by this thread.
        let request = unsafe { Request::new(head, Message::new(data, self.hold()), self.hold()) };
        // A request that is dropped here answers for itself; events that were sent before the end are still received.
        Ok(if call.is_some_and(|call| self.is_void(call, &body)) { None } else { Some(request) })
    }

    #[inline]
    fn open_call(&self, body: &Body) -> Result<(u32, u32)> {
        let (cell, generation) = (body.call as u32, (body.call >> 32) as u32);
        // A busy cell named again would have two threads of ours write one reply.
        match self.busy.get(cell as usize) {
            Some(busy) if !busy.load(Ordering::Acquire) => busy.store(true, Ordering::Relaxed),
            _ => return Err(self.poison(Violation::ReplyCell)),
        }
        Ok((cell, generation))
    }

    /// Whether a call that was just taken must not be executed: its caller may have been told that it was not.
    ///
    /// A caller that gives up says so, fences, and then looks whether its request was taken; so here, after the request was
    /// taken, a fence and a look whether it was given up. Only a call with a deadline is reported in that way.
    #[inline]
    fn is_void(&self, (cell, generation): (u32, u32), body: &Body) -> bool {
        if self.ended.load(Ordering::Relaxed) != 0 {
            return true;
        }
        if body.deadline == 0 {
            return false;
        }
        fence(Ordering::SeqCst);
        self.theirs.call_words.at(cell).hint() == generation << HOW_BITS | words::GIVEN_UP
    }

    /// Takes what is there, up to `max`, appending to `to`. Returns how many.
    #[inline]
    pub fn try_recv_batch<'a>(&'a self, to: &mut Vec<Request<'a>>, max: usize) -> Result<usize> {
        if sync::forked() {
            return Err(Error::Forked);
        }
        let before = to.len();
        let words = self.intake_words();
        let mut failed = None;
        let (_, nudge) = self.intake.take_up_to(&words, max, |taken| match self.open(taken) {
            Ok(request) => to.extend(request),
            Err(e) => failed = Some(e),
        });
        self.nudge(nudge);
        if to.len() > before {
            self.notify(false, false);
        }
        match failed {
            Some(e) if to.len() == before => Err(e),
            _ => Ok(to.len() - before),
        }
    }

    /// Serves requests with `handler` until the link ends; `Ok` if it was closed.
    pub fn serve(&self, handler: &dyn Fn(Request<'_>)) -> Result<()> {
        loop {
            match self.recv(Deadline::NEVER) {
                Ok(request) => guarded(handler, request),
                Err(Error::Closed) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    fn serve_nested(&self, handler: &Handler, request: Request<'_>) {
        if DEPTH.get() >= self.options.max_depth {
            let _ = request.reject(reject::TOO_DEEP);
            return;
        }
        DEPTH.set(DEPTH.get() + 1);
        guarded(handler, request);
        DEPTH.set(DEPTH.get() - 1);
    }

    // ---- slots that come and go

    fn release_slot(&self, slot: SlotRef) {
        let number = self.slot_number(slot);
        self.ours.released.at(number).store(slot.generation(), Ordering::Release);
    }

    /// Number of a slot of the peer among all its slots. The reference was checked when it arrived.
    fn slot_number(&self, slot: SlotRef) -> u32 {
        let before = &self.theirs.classes[..usize::from(slot.class())];
        before.iter().map(|c| c.count).sum::<u32>() + slot.index()
    }

    /// A slot came free inside this process while threads of it wait for one.
    #[cold]
    fn wake_loaners(&self) {
        if self.arena.stock().marks.wake_one(&self.theirs.control.released_bell.0) {
            self.nudge(Nudge(true));
        }
    }

    // ---- event loops

    /// The descriptor of this end.
    pub fn doorbell(&self) -> Option<&Doorbell> {
        self.doorbell.as_ref()
    }

    /// Marks an event loop as about to sleep on the descriptor; false if there is something to do already.
    pub fn arm(&self) -> bool {
        let mut armed = self.armed.lock();
        if armed.sleepers() == 0 {
            armed.enter(&self.ours.control.fd_armed.0, How::Descriptor);
            self.ours.control.sleepers.0.fetch_add(1, Ordering::Relaxed);
        } else {
            armed.renew(&self.ours.control.fd_armed.0);
        }
        fence(Ordering::SeqCst);
        !self.intake.ready(&self.intake_words()) && self.ended_now().is_none()
    }

    /// The event loop is awake again: takes in the rings of the doorbell.
    pub fn disarm(&self) {
        let mut armed = self.armed.lock();
        if armed.sleepers() > 0 {
            armed.leave(&self.ours.control.fd_armed.0, How::Descriptor);
            self.ours.control.sleepers.0.fetch_sub(1, Ordering::Relaxed);
        }
        drop(armed);
        if self.doorbell.as_ref().is_some_and(|d| d.wait(Some(1))) {
            self.alarm();
        }
    }

    // ---- closing

    /// Closes in order: see [`Link::close`](crate::Link::close).
    pub fn close(&self, deadline: Deadline) {
        self.draining.store(true, Ordering::Relaxed);
        if self.ended().is_none() {
            self.ours.control.state.0.store(state::DRAINING, Ordering::Release);
            while self.ended_now().is_none() && !deadline.has_passed() && !self.is_drained() {
                // Handlers of ours and of the peer finish without ringing anybody, so this looks every millisecond.
                let until = deadline.sooner(Duration::from_millis(1)).until();
                sync::futex_wait(FutexWord::private(&self.ended, 0), until);
            }
        }
        self.end(Ended::ByUs);
    }

    /// Whether everything sent was taken, and no call is under way in either direction.
    fn is_drained(&self) -> bool {
        let mut tx = self.tx.lock();
        self.sweep_given_up(&mut tx);
        self.theirs.intake.pos.0.load() == tx.ring.next()
            && self.calls.in_use(&tx.cells) == 0
            && !self.busy.iter().any(|b| b.load(Ordering::Relaxed))
            && !self.intake.ready(&self.intake_words())
    }

    // ---- statistics

    /// Counters of this end, and where tools find them.
    pub fn stats(&self) -> Stats {
        let tally = self.intake.tally();
        let tx = self.tx.lock();
        let load = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let stats = Stats {
            sent: tx.sent,
            sent_bytes: tx.sent_bytes,
            received: tally.messages,
            received_bytes: tally.bytes,
            full: load(&self.full),
            parks: load(&self.parks),
            wakes: load(&self.wakes),
            spins_paid: tally.spins_paid + self.calls.spins_paid(),
            spins_missed: load(&self.spins_missed),
            violations: load(&self.violations),
            calls_in_use: self.calls.in_use(&tx.cells) as u64,
            slots_in_use: self.arena.outstanding().into(),
        };
        stats.publish(&self.ours.counters);
        stats
    }
}

impl Bus for End {
    fn release(&self, slot: SlotRef) {
        if sync::forked() {
            return;
        }
        self.release_slot(slot);
        self.notify(false, true);
    }

    #[inline]
    fn unloan(&self, slot: SlotId) {
        if !sync::forked() && self.arena.give_back(slot) {
            self.wake_loaners();
        }
    }

    #[inline]
    fn loan_reply(&self, len: usize, deadline: Option<Deadline>) -> Result<Place> {
        if sync::forked() {
            return Err(Error::Forked);
        }
        self.place(len, words::INLINE_REPLY, deadline)
    }

    #[inline]
    fn answer(&self, head: Head, outcome: Outcome<'_>, released: Option<SlotRef>) -> Result<()> {
        let Some((index, generation)) = head.call else { return Ok(()) };
        if sync::forked() {
            return Err(Error::Forked);
        }
        let given_up = self.theirs.call_words.at(index).hint() == generation << HOW_BITS | words::GIVEN_UP;
        let mut body = words::ReplyBody::default();
        let mut flags = if released.is_some() { reply::RELEASED } else { 0 };
        match outcome {
            // A loan is dropped here: its slot comes back at once.
            _ if given_up => flags |= reply::DISCARDED,
            Outcome::Reply(loan) => {
                if !loan.belongs_to(core::ptr::from_ref(self).cast()) {
                    return Err(Error::Unsupported { what: "a loan of another link" });
                }
                flags |= reply::OK;
                let (place, len) = loan.into_parts();
                body.length = len as u64;
                match place {
                    Place::Inline(words) => body.inline = words,
                    Place::Slot { slot, .. } => {
                        flags |= reply::SLOT;
                        body.inline[0] = self.arena.lend(slot).bits();
                    }
                }
            }
            Outcome::Rejected(code) => (flags, body.code) = (flags | reply::REJECTED, code),
            Outcome::Panicked => flags |= reply::PANICKED,
            Outcome::NoSuchMethod => (flags, body.code) = (flags | reply::NO_METHOD, head.method),
        }
        let cell = self.ours.cells.at(index);
        // SAFETY: the busy bit makes this call the only one of ours that writes the cell, until it is cleared.
        unsafe { cell.body.write(body) };
        cell.flags.store(flags, Ordering::Relaxed);
        // Before the word: as soon as that is out, the cell may be named again. Only a caller that does not wait for it can
        // name it in between, and then no thread writes the body at the same time as another.
        self.busy[index as usize].store(false, Ordering::Release);
        cell.word.store(generation, Ordering::Release);
        self.notify_caller(index, generation, released.is_some());
        match self.ended() {
            None => Ok(()),
            Some(ended) => Err(ended.refusal()),
        }
    }

    fn call_nested(&self, parent: u32, method: u32, payload: Payload<'_>, deadline: Deadline) -> Result<Data> {
        match self.send(entry::CALL, method, payload, deadline, false, Some(parent), true)? {
            Some(ticket) => self.finish_call(&ticket),
            None => unreachable!("a call has a cell"),
        }
    }

    fn finish(&self, ticket: &Ticket) -> Result<Data> {
        self.finish_call(ticket)
    }

    fn is_finished(&self, ticket: &Ticket) -> bool {
        self.arrived(ticket) || self.ended_now().is_some() || ticket.deadline.has_passed()
    }

    fn give_up(&self, ticket: &Ticket) {
        if !sync::forked() && self.give_up_call(ticket) && let Ok(Data::Slot { slot, .. }) = self.take_reply(ticket) {
            self.release(slot);
        }
    }

    fn to_owned(&self) -> Arc<dyn Bus> {
        match self.me.upgrade() {
            Some(end) => end,
            None => unreachable!("a borrowed end is alive"),
        }
    }
}

/// Runs a handler; its panic ends the request, which answers for itself, and not the thread.
fn guarded(handler: &dyn Fn(Request<'_>), request: Request<'_>) {
    // The panic hook has reported it; a request is unwind-safe because dropping it answers the call.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(request)));
}

/// Receivers wait for entries.
struct IntakeSpot<'a> {
    end: &'a End,
    words: IntakeWords<'a>,
    /// This thread is the one that spins; it no longer is once it sleeps.
    spinning: Cell<bool>,
}

impl Spot for IntakeSpot<'_> {
    fn bells<R>(&self, sleep: impl FnOnce(&[FutexWord<'_>]) -> R) -> R {
        sleep(&[FutexWord::shared(self.words.bell.futex(), self.words.bell.load())])
    }
    fn park(&self, how: How) {
        self.end.intake.park(&self.words, how, true, self.spinning.replace(false));
    }
    fn unpark(&self, how: How) {
        self.end.intake.unpark(&self.words, how, true);
    }
}

/// A caller waits for its reply and, if it serves them, for calls nested in its own.
struct ReplySpot<'a> {
    end: &'a End,
    ticket: &'a Ticket,
    words: IntakeWords<'a>,
    children: bool,
}

impl Spot for ReplySpot<'_> {
    fn bells<R>(&self, sleep: impl FnOnce(&[FutexWord<'_>]) -> R) -> R {
        let word = &self.end.theirs.cells.at(self.ticket.cell).word;
        let reply = FutexWord::shared(word.futex(), word.hint());
        if self.children {
            sleep(&[reply, FutexWord::shared(self.words.bell.futex(), self.words.bell.load())])
        } else {
            sleep(&[reply])
        }
    }
    fn park(&self, how: How) {
        let word = self.end.ours.call_words.at(self.ticket.cell);
        word.store(self.ticket.generation << HOW_BITS | how as u32, Ordering::Relaxed);
        if self.children {
            self.end.intake.park(&self.words, how, false, false);
        }
    }
    fn unpark(&self, how: How) {
        self.end.ours.call_words.at(self.ticket.cell).store(self.ticket.generation << HOW_BITS, Ordering::Relaxed);
        if self.children {
            self.end.intake.unpark(&self.words, how, false);
            // The bell may have rung for a receiver.
            self.end.nudge(self.end.intake.pass_on(&self.words));
        }
    }
}

/// Senders wait for room in the ring.
struct SpaceSpot<'a>(&'a End);

impl Spot for SpaceSpot<'_> {
    fn bells<R>(&self, sleep: impl FnOnce(&[FutexWord<'_>]) -> R) -> R {
        let pos = &self.0.theirs.intake.pos.0;
        sleep(&[FutexWord::shared(pos.futex(), pos.load())])
    }
    fn park(&self, how: How) {
        self.0.tx.lock().space.enter(&self.0.ours.lane.space_wait.0, how);
    }
    fn unpark(&self, how: How) {
        self.0.tx.lock().space.leave(&self.0.ours.lane.space_wait.0, how);
    }
}

/// Loaners wait for a slot.
struct ArenaSpot<'a>(&'a End);

impl Spot for ArenaSpot<'_> {
    fn bells<R>(&self, sleep: impl FnOnce(&[FutexWord<'_>]) -> R) -> R {
        let bell = &self.0.theirs.control.released_bell.0;
        sleep(&[FutexWord::shared(bell.futex(), bell.load())])
    }
    fn park(&self, how: How) {
        self.0.arena.stock().marks.enter(&self.0.ours.control.arena_wait.0, how);
    }
    fn unpark(&self, how: How) {
        self.0.arena.stock().marks.leave(&self.0.ours.control.arena_wait.0, how);
    }
}

/// Counters of one end since it joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls and events sent.
    pub sent: u64,
    /// Their payload bytes.
    pub sent_bytes: u64,
    /// Calls and events received.
    pub received: u64,
    /// Their payload bytes.
    pub received_bytes: u64,
    /// How often ring, cells or a size class were exhausted.
    pub full: u64,
    /// How often a thread went to sleep.
    pub parks: u64,
    /// How often sleepers of the other side were looked for and rung.
    pub wakes: u64,
    /// Waits that spinning ended.
    pub spins_paid: u64,
    /// Waits that spun in vain.
    pub spins_missed: u64,
    /// Violations of the protocol by the other side.
    pub violations: u64,
    /// Reply cells in use now: calls under way, or given up and not yet answered.
    pub calls_in_use: u64,
    /// Slots of ours in use now: loaned, or not yet given back by the other side.
    pub slots_in_use: u64,
}

impl Stats {
    fn publish(&self, to: &Counters) {
        let pairs = [
            (&to.sent, self.sent),
            (&to.sent_bytes, self.sent_bytes),
            (&to.received, self.received),
            (&to.received_bytes, self.received_bytes),
            (&to.full, self.full),
            (&to.parks, self.parks),
            (&to.wakes, self.wakes),
            (&to.spins_paid, self.spins_paid),
            (&to.spins_missed, self.spins_missed),
            (&to.violations, self.violations),
        ];
        for (word, value) in pairs {
            word.store(value, Ordering::Relaxed);
        }
    }
}
