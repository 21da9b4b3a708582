//! Sending: finding a place for the payload, room in the ring and, for a call, a reply cell; then publishing.
//!
//! A request is *prepared* (its payload has a place), gets its *room*, is *committed* (the slot leaves with it) and
//! *published*. A single send does all that under one lock; a [`Batch`](super::Batch) reserves room for many and publishes them together.

use super::calls::FreeCells;
use super::end::End;
use super::intake::Taken;
use super::waiting::{ArenaSpot, SpaceSpot};
use super::words::{self, Body, entry};
use crate::call::{Bus, Loan, Message, Payload, Pending, Replying, Stop, Ticket, copy_short};
use crate::error::{Error, Result};
use crate::ring::spsc::Producer;
use crate::slots::arena::SlotId;
use crate::sync::{MutexGuard, Ordering, mutant};
use crate::tasks::Driven;
use crate::wake::{Deadline, Marks};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::time::Duration;

/// What the senders of one end share, under a lock.
#[derive(Debug)]
pub struct Tx {
    pub(super) ring: Producer<Body>,
    /// Entries promised to batches.
    pub(super) reserved: u32,
    pub(super) cells: FreeCells,
    /// Threads that wait for room.
    pub(super) space: Marks,
    cork: Cork,
    pub(super) sent: u64,
    pub(super) sent_bytes: u64,
}

impl Tx {
    pub(super) fn new(ring: Producer<Body>, cells: FreeCells) -> Self {
        Self { ring, reserved: 0, cells, space: Marks::default(), cork: Cork::default(), sent: 0, sent_bytes: 0 }
    }
}

/// How many requests leave together at most.
pub(super) const GATHER: usize = 32;

/// Requests of tasks leave together: the first entry is left out of the ring until the driver's next turn, so that the other side,
/// which polls it, does not ask for each entry's cache line while it is being written.
#[derive(Debug, Default)]
struct Cork {
    position: u32,
    first: Taken,
    /// How many requests; 0 is no cork.
    held: u32,
}

/// What a request needs besides its payload.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    pub(super) kind: u8,
    /// The call it is nested in; such a request may use the reserve.
    parent: Option<u32>,
    /// Its thread does nothing but wait for the reply, so the peer reads it next. Where many are under way `demote` costs more
    /// than it gives.
    alone: bool,
}

impl Needs {
    pub(super) fn is_call(self) -> bool {
        self.kind == entry::CALL
    }

    pub(super) const EVENT: Needs = Needs { kind: entry::EVENT, parent: None, alone: false };
    pub(super) const CALL: Needs = Needs { kind: entry::CALL, parent: None, alone: false };
    const CALL_AND_WAIT: Needs = Needs { alone: true, ..Needs::CALL };
}

/// How far ahead of a request that is held back the next entries are asked for.
const AHEAD: u32 = 4;

/// Payloads up to this length are copied into their slot under the sender's lock.
const COPIED_LATE: usize = 4096;

/// What looking for room has shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    Found,
    NoEntry,
    NoCell,
}

/// A reply cell and the generation of its call.
pub(super) type CellOf = (u32, u32);

impl End {
    /// Loans memory for a request. Waits if there is a deadline to wait to.
    #[inline(always)]
    pub fn loan(&self, len: usize, deadline: Option<Deadline>) -> Result<Loan<'_>> {
        if self.forked() {
            return Err(Error::Forked);
        }
        let slot = if len > words::INLINE_REQUEST { Some(self.slot(len, deadline)?) } else { None };
        // SAFETY: loaned just now, of this end, for `len` bytes.
        Ok(unsafe { Loan::new(slot, len, self.hold()) })
    }

    /// Loans a slot of at least `len` bytes: its address and its number.
    #[inline(always)]
    pub(super) fn slot(&self, len: usize, deadline: Option<Deadline>) -> Result<(NonNull<u8>, SlotId)> {
        let class = self.arena.class_for(len).map_err(|max| Error::TooLarge { len, max })?;
        let slot = match self.arena.loan(class) {
            Some(slot) => slot,
            None => self.wait_loan(class, deadline)?,
        };
        Ok((self.ours.classes[usize::from(class)].at(self.arena.index(slot)), slot))
    }

    #[cold]
    fn wait_loan(&self, class: u8, deadline: Option<Deadline>) -> Result<SlotId> {
        self.full.fetch_add(1, Ordering::Relaxed);
        let look = || {
            // The slot may have come back with the reply of a call that was given up, which nobody else looks for.
            if self.calls.any_given_up() && !mutant("call: late reply not looked for") {
                self.sweep_given_up(&mut self.tx.lock());
            }
            self.arena.loan(class)
        };
        if let Some(slot) = look() {
            return Ok(slot);
        }
        let deadline = deadline.ok_or(Error::Full)?;
        let spot = ArenaSpot(self);
        // A slot that another thread keeps warm in its place rings nobody.
        let recheck = Some(Duration::from_millis(10));
        match self.wait(&spot, deadline, true, recheck, look) {
            Ok((slot, _)) => Ok(slot),
            Err(stop) => Err(stop.refusal()),
        }
    }

    /// Writes a short payload into an entry.
    #[inline(always)]
    pub(super) fn carry_bytes(bytes: &[u8]) -> impl FnOnce(&mut Body) -> Option<SlotId> {
        move |body| {
            copy_short(&mut body.inline, bytes);
            body.length = bytes.len() as u32;
            None
        }
    }

    /// Writes the reference to a slot into an entry; from then on the slot belongs to the message.
    #[inline(always)]
    pub(super) fn carry_slot(
        &self,
        slot: SlotId,
        len: usize,
        needs: Needs,
    ) -> impl FnOnce(&mut Body) -> Option<SlotId> {
        move |body| {
            let reference = if needs.kind == entry::CALL { self.arena.ride(slot) } else { self.arena.lend(slot) };
            body.length = 0;
            body.inline[..2].copy_from_slice(&[reference.bits(), len as u64]);
            Some(slot)
        }
    }

    /// As [`carry_slot`](Self::carry_slot), and copies the payload there: a short one at the last moment, because a locked
    /// instruction, or a value that is moved, between the copy and the publication would wait for all of its cache lines.
    #[inline(always)]
    pub(super) fn carry_copy(
        &self,
        (base, slot): (NonNull<u8>, SlotId),
        bytes: &[u8],
        needs: Needs,
    ) -> impl FnOnce(&mut Body) -> Option<SlotId> {
        // SAFETY: the slot was loaned for as many bytes, by the caller, and nobody else touches it.
        let copy = move || unsafe { base.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        let late = bytes.len() <= COPIED_LATE;
        if !late {
            copy();
        }
        move |body| {
            if late {
                copy();
            }
            self.carry_slot(slot, bytes.len(), needs)(body)
        }
    }

    /// Completes an entry whose room is there: its tag, and its ticket if it is a call.
    #[inline(always)]
    pub(super) fn commit(
        body: &mut Body,
        needs: Needs,
        cell: Option<CellOf>,
        deadline: Deadline,
        ticket: &mut Ticket,
        carry: impl FnOnce(&mut Body) -> Option<SlotId>,
    ) -> u32 {
        let slot = carry(body);
        body.deadline = deadline.as_nanos();
        let flags = if slot.is_some() { entry::SLOT } else { 0 };
        let parent = needs.parent.map_or(0, |cell| cell + 1);
        let tag = u32::from(needs.kind) | u32::from(flags) << 8 | parent << 16;
        if let Some((cell, generation)) = cell {
            body.call = u64::from(generation) << 32 | u64::from(cell);
            *ticket = Ticket::new(cell, generation, slot, deadline);
        }
        tag
    }

    /// Looks for room in the ring and, for a call, takes a cell.
    #[inline(always)]
    fn room(&self, tx: &mut Tx, needs: Needs, cell: &mut Option<CellOf>) -> Result<Room> {
        if !tx.cells.given_up.is_empty() {
            self.sweep_given_up(tx);
        }
        // An eighth is kept for calls made while serving one.
        let nested = needs.parent.is_some();
        let keep = if nested { 0 } else { self.ours.entries.count() / 8 } + tx.reserved;
        if tx.ring.room(keep + 1).map_err(|lied| self.poison(lied.into()))? <= keep {
            return Ok(Room::NoEntry);
        }
        if needs.kind == entry::CALL {
            let keep = if nested { 0 } else { self.theirs.cells.count() / 8 };
            *cell = self.calls.take(&mut tx.cells, keep);
            if cell.is_none() {
                return Ok(Room::NoCell);
            }
        }
        Ok(Room::Found)
    }

    /// Whether there is room for an event, and whether there is for a call.
    pub(super) fn has_room(&self, tx: &mut Tx) -> (bool, bool) {
        if !tx.cells.given_up.is_empty() {
            self.sweep_given_up(tx);
        }
        let keep = self.ours.entries.count() / 8 + tx.reserved;
        let entry = tx.ring.room(keep + 1).is_ok_and(|room| room > keep);
        (entry, entry && self.calls.any_free(&mut tx.cells, self.theirs.cells.count() / 8))
    }

    /// Gets room for a request: at once, or waiting for it.
    #[inline(always)]
    pub(super) fn lock_with_room(
        &self,
        needs: Needs,
        deadline: Deadline,
        wait: bool,
        cell: &mut Option<CellOf>,
    ) -> Result<MutexGuard<'_, Tx>> {
        let mut tx = self.tx.lock();
        if self.room(&mut tx, needs, cell)? == Room::Found {
            return Ok(tx);
        }
        drop(tx);
        self.full.fetch_add(1, Ordering::Relaxed);
        if wait { self.wait_room(needs, deadline, cell) } else { Err(Error::Full) }
    }

    #[cold]
    fn wait_room(&self, needs: Needs, deadline: Deadline, cell: &mut Option<CellOf>) -> Result<MutexGuard<'_, Tx>> {
        loop {
            let freed = self.calls.freed();
            let mut tx = self.tx.lock();
            match self.room(&mut tx, needs, cell)? {
                Room::Found => return Ok(tx),
                Room::NoCell => {
                    drop(tx);
                    self.calls.wait_freed(freed, deadline);
                    self.look_for_alarm();
                    self.stopped(deadline).map_err(Stop::refusal)?;
                }
                Room::NoEntry => {
                    // Any step of the peer's position; the room is looked for again under the lock.
                    let seen = tx.ring.taken();
                    drop(tx);
                    let look = || (self.theirs.intake.pos.0.hint() != seen).then_some(());
                    // A call that was taken and is held rings nobody before its thread waits for something here.
                    let recheck = Some(Duration::from_millis(10));
                    self.wait(&SpaceSpot { end: self, seen }, deadline, true, recheck, look).map_err(Stop::refusal)?;
                    // A position that goes to and fro must not keep this thread beyond its time.
                    self.stopped(deadline).map_err(Stop::refusal)?;
                }
            }
        }
    }

    /// Sends one request.
    #[inline(always)]
    fn send(&self, needs: Needs, method: u32, payload: Payload<'_>, deadline: Deadline, wait: bool) -> Result<Ticket> {
        if payload.is_slot(words::INLINE_REQUEST) {
            let len = payload.len();
            let slot = payload.into_slot(core::ptr::from_ref(self).cast())?;
            return self.send_slot(needs, method, slot, len, deadline, wait);
        }
        let bytes = payload.as_ref();
        if bytes.len() > words::INLINE_REQUEST {
            return self.send_long(needs, method, bytes, deadline, wait);
        }
        self.publish(needs, method, bytes.len(), deadline, wait, Self::carry_bytes(bytes))
    }

    fn send_long(&self, needs: Needs, method: u32, bytes: &[u8], deadline: Deadline, wait: bool) -> Result<Ticket> {
        self.usable(needs.parent.is_some())?;
        let slot = self.slot(bytes.len(), wait.then_some(deadline))?;
        let carry = self.carry_copy(slot, bytes, needs);
        let sent = self.publish(needs, method, bytes.len(), deadline, wait, carry);
        if needs.alone {
            self.demote(slot.0, bytes.len());
        }
        sent.inspect_err(|_| self.unloan(slot.1))
    }

    fn send_slot(
        &self,
        needs: Needs,
        method: u32,
        (base, slot): (NonNull<u8>, SlotId),
        len: usize,
        deadline: Deadline,
        wait: bool,
    ) -> Result<Ticket> {
        let sent = self.publish(needs, method, len, deadline, wait, self.carry_slot(slot, len, needs));
        if needs.alone {
            self.demote(base, len);
        }
        sent.inspect_err(|_| self.unloan(slot))
    }

    /// Publishes what a cork holds back. Returns whether there was one; the other side is not told yet.
    #[inline(always)]
    pub(super) fn uncork(&self, tx: &mut Tx) -> bool {
        let Tx { ring, cork, .. } = tx;
        if cork.held == 0 {
            return false;
        }
        ring.publish_at(cork.position, &cork.first);
        cork.held = 0;
        self.tasks().set_corked(false);
        true
    }

    /// Publishes one request. If it fails, `carry` was not called.
    #[inline(always)]
    pub(super) fn publish(
        &self,
        needs: Needs,
        method: u32,
        len: usize,
        deadline: Deadline,
        wait: bool,
        carry: impl FnOnce(&mut Body) -> Option<SlotId>,
    ) -> Result<Ticket> {
        let mut ticket = Ticket::NONE;
        self.publish_to(&mut ticket, needs, method, len, deadline, wait, false, carry)?;
        self.notify(true, false);
        Ok(ticket)
    }

    /// As [`publish`](Self::publish), for a ticket that is not to be moved any more. Returns whether the request is held back; if it
    /// is not, the other side is not told of it yet.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "one step of a send, in one piece")]
    fn publish_to(
        &self,
        ticket: &mut Ticket,
        needs: Needs,
        method: u32,
        len: usize,
        deadline: Deadline,
        wait: bool,
        cork: bool,
        carry: impl FnOnce(&mut Body) -> Option<SlotId>,
    ) -> Result<bool> {
        self.usable(needs.parent.is_some())?;
        let mut cell = None;
        let mut tx = self.lock_with_room(needs, deadline, wait, &mut cell)?;
        if let Some((cell, generation)) = cell {
            self.calls.sent(cell, generation, tx.ring.next());
        }
        let write = |body: &mut Body| {
            *body = Body { method, ..Body::default() };
            Self::commit(body, needs, cell, deadline, ticket, carry)
        };
        if cork && tx.cork.held == 0 {
            tx.cork.position = tx.ring.leave_out();
            tx.cork.first.tag = write(&mut tx.cork.first.value);
            tx.cork.held = 1;
            self.tasks().set_corked(true);
        } else {
            tx.ring.publish_with(|body| (write(body), ()));
            if tx.cork.held > 0 {
                tx.cork.held += 1;
                let most = if mutant("tasks: a cork holds two") { 2 } else { GATHER as u32 };
                if !cork || tx.cork.held == most {
                    self.uncork(&mut tx);
                }
            }
        }
        if cork {
            tx.ring.prefetch_ahead(AHEAD);
        }
        tx.sent += 1;
        tx.sent_bytes += len as u64;
        Ok(tx.cork.held > 0)
    }

    /// Sends an event.
    #[inline]
    pub fn event(&self, method: u32, payload: Payload<'_>, deadline: Deadline, wait: bool) -> Result<()> {
        self.send(Needs::EVENT, method, payload, deadline, wait).map(drop)
    }

    /// Sends a call.
    #[inline]
    pub fn submit(&self, method: u32, payload: Payload<'_>, deadline: Deadline, wait: bool) -> Result<Pending<'_>> {
        let ticket = self.send(Needs::CALL, method, payload, deadline, wait)?;
        Ok(Pending::new(ticket, self.hold()))
    }

    /// Sends a call that its task will wait for; [`Error::Full`] if there is no room at once.
    #[inline(always)]
    pub(super) fn submit_to(&self, to: &mut Replying<'_>, method: u32, bytes: &[u8], deadline: Deadline) -> Result<()> {
        let len = bytes.len();
        if len > words::INLINE_REQUEST {
            self.usable(false)?;
            let (base, slot) = self.slot(len, None)?;
            // SAFETY: loaned just now for as many bytes, and nobody else touches it.
            unsafe { base.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), len) };
            return self.submit_slot_to(to, method, (slot, len), deadline).inspect_err(|_| self.unloan(slot));
        }
        self.submit_with(to, method, len, deadline, Self::carry_bytes(bytes))
    }

    /// As [`submit_to`](Self::submit_to), with a payload in a slot, which stays the caller's if this fails.
    pub(super) fn submit_slot_to(
        &self,
        to: &mut Replying<'_>,
        method: u32,
        (slot, len): (SlotId, usize),
        deadline: Deadline,
    ) -> Result<()> {
        self.submit_with(to, method, len, deadline, self.carry_slot(slot, len, Needs::CALL))
    }

    #[inline(always)]
    fn submit_with(
        &self,
        to: &mut Replying<'_>,
        method: u32,
        len: usize,
        deadline: Deadline,
        carry: impl FnOnce(&mut Body) -> Option<SlotId>,
    ) -> Result<()> {
        // Then they go together, at the driver's next turn.
        let cork = self.tasks().corks(self);
        let corked = self.publish_to(to.ticket(), Needs::CALL, method, len, deadline, false, cork, carry)?;
        if !corked {
            to.untold();
        }
        Ok(())
    }

    /// Sends a call and waits for its reply.
    #[inline(always)]
    pub fn call(&self, method: u32, payload: Payload<'_>, deadline: Deadline) -> Result<Message<'_>> {
        let ticket = self.send(Needs::CALL_AND_WAIT, method, payload, deadline, true)?;
        let mut data = MaybeUninit::uninit();
        self.finish_call(&ticket, &mut data)?;
        // SAFETY: received here just now; written where there is no error.
        Ok(unsafe { Message::new(data.assume_init(), self.hold()) })
    }

    /// Sends a call nested in another, without waiting for room.
    pub(super) fn nested(&self, parent: u32, method: u32, payload: Payload<'_>, deadline: Deadline) -> Result<Ticket> {
        let needs = Needs { kind: entry::CALL, parent: Some(parent), alone: true };
        self.send(needs, method, payload, deadline, false)
    }
}
