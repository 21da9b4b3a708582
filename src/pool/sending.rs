//! Sending: slots, their bodies, and entries.

use super::calls::{handle_of, id_of};
use super::member::Seat;
use super::parking::{Kind, Rows};
use super::waiting::RowSpot;
use super::words::{Body, DEADLINE, INLINE_REQUEST};
use crate::call::{Loan, Payload, Stop, copy_short};
use crate::error::{Error, Result};
use crate::slots::arena::SlotId;
use crate::slots::owned::{Handle, Header};
use crate::sync::demote;
use crate::wake::Deadline;
use core::ptr::NonNull;
use core::time::Duration;

/// How long who waits for room or a slot sleeps before it looks by itself: freeing one rings, but not behind a fence.
const RECHECK: Option<Duration> = Some(Duration::from_millis(10));

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Call,
    Event,
}

impl Seat {
    /// A loan for a request of `len` bytes; without a deadline it does not wait.
    #[inline]
    pub(super) fn loan(&self, len: usize, deadline: Option<Deadline>) -> Result<Loan<'_>> {
        self.usable()?;
        let slot = if len > INLINE_REQUEST { Some(self.loaned(self.slot(len, deadline)?)) } else { None };
        // SAFETY: allocated just now, for so many bytes.
        Ok(unsafe { Loan::new(slot, len, self.hold()) })
    }

    /// A slot as a loan knows it.
    #[inline(always)]
    pub(super) fn loaned(&self, slot: Handle) -> (NonNull<u8>, SlotId) {
        (self.payload(slot.index).0, id_of(slot))
    }

    /// The payload of a slot that exists.
    #[inline(always)]
    pub(super) fn payload(&self, index: u32) -> (NonNull<u8>, u32) {
        self.table.payload(index).expect("a slot that this process holds exists")
    }

    /// A slot for `len` bytes.
    #[inline(always)]
    pub(super) fn slot(&self, len: usize, deadline: Option<Deadline>) -> Result<Handle> {
        let class = self.table.class_for(len).map_err(|max| Error::TooLarge { len, max })?;
        match self.table.alloc(class) {
            Some(slot) => Ok(slot),
            None => self.wait_slot(class, deadline),
        }
    }

    #[cold]
    fn wait_slot(&self, class: u8, deadline: Option<Deadline>) -> Result<Handle> {
        self.tally.full();
        let deadline = deadline.ok_or(Error::Full)?;
        let spot = RowSpot { seat: self, rows: Rows::one(Kind::Slots, class) };
        self.wait(&spot, deadline, RECHECK, None, || self.table.alloc(class)).map_err(Stop::refusal)
    }

    /// Frees a slot of ours that was not sent.
    pub(super) fn free(&self, slot: Handle) {
        if self.table.free(slot).is_ok() {
            self.slot_freed(slot.index);
        }
    }

    /// After a slot became free: somebody may wait for it.
    #[inline(always)]
    pub(super) fn slot_freed(&self, index: u32) {
        if let Some(class) = self.table.class_of(index) {
            self.freed(Kind::Slots, class);
        }
    }

    /// Sends a request; without `wait` there has to be room. Returns the handle by which its caller knows it.
    #[inline(always)]
    pub(super) fn send(
        &self,
        queue: u8,
        what: What,
        method: u32,
        payload: Payload<'_>,
        deadline: Deadline,
        wait: bool,
    ) -> Result<Handle> {
        self.usable()?;
        self.rings[usize::from(queue)].prefetch();
        let (patience, len) = (wait.then_some(deadline), payload.len());
        let slot = if payload.is_slot(INLINE_REQUEST) {
            handle_of(payload.into_slot(core::ptr::from_ref(self).cast())?.1.bits())
        } else {
            let slot = self.slot(len, patience)?;
            self.fill(slot, payload.as_ref());
            slot
        };
        self.address(slot, method, len, deadline);
        let sent = self.enqueue(queue, what, slot, patience)?;
        self.tally.sent(len);
        Ok(sent)
    }

    /// Copies a payload into a slot of ours that was allocated for so many bytes.
    #[inline(always)]
    pub(super) fn fill(&self, slot: Handle, bytes: &[u8]) {
        if bytes.len() <= INLINE_REQUEST {
            return self.write(slot, |body| copy_short(&mut body.words, bytes));
        }
        // SAFETY: as long as was asked for, and nobody else's; the caller's bytes do not lie in a slot that was free.
        unsafe { self.payload(slot.index).0.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) }
    }

    /// Writes what goes with the payload.
    #[inline(always)]
    pub(super) fn address(&self, slot: Handle, method: u32, len: usize, deadline: Deadline) {
        self.write(slot, |body| {
            body.words[DEADLINE] = deadline.as_nanos();
            (body.what, body.length) = (method, len as u32);
        });
    }

    #[inline(always)]
    pub(super) fn write(&self, slot: Handle, write: impl FnOnce(&mut Body)) {
        // SAFETY: who holds a slot alone writes its body, and those who read it do so before or afterwards.
        unsafe { self.header(slot).body.write_with(write) }
    }

    /// After a request was sent of which nobody here does anything but wait: its worker comes to it next (measured: the header
    /// alone 600 to 530 ns a round trip; but 240 to 290 ns a request, where many are under way, and 4 KiB of payload 780 to 1330 ns).
    #[inline(always)]
    pub(super) fn hand_over(&self, slot: Handle, len: usize) {
        if len > INLINE_REQUEST {
            demote(self.payload(slot.index).0, len);
        }
        demote(NonNull::from(self.header(slot)).cast(), 1);
    }

    #[inline(always)]
    pub(super) fn header(&self, slot: Handle) -> &Header<Body> {
        self.table.header(slot.index).expect("a slot that this process holds exists")
    }

    /// Puts a slot of ours into a queue. If that fails, the slot is freed.
    #[inline(always)]
    fn enqueue(&self, queue: u8, what: What, slot: Handle, patience: Option<Deadline>) -> Result<Handle> {
        let sent = match self.try_enqueue(queue, what, slot) {
            Ok(sent) => sent,
            Err(back) => self.wait_room(queue, what, back, patience)?,
        };
        self.published(queue);
        Ok(sent)
    }

    /// Without room the slot is ours again.
    #[inline(always)]
    pub(super) fn try_enqueue(&self, queue: u8, what: What, slot: Handle) -> Result<Handle, Handle> {
        let sent = self.table.queue(slot, queue, what == What::Event).expect("a slot that this process holds");
        if self.rings[usize::from(queue)].enqueue(&self.table, sent).is_ok() {
            return Ok(sent);
        }
        // Nobody else touches a slot that is in no ring.
        Err(self.table.unqueue(sent).expect("a slot that this process holds"))
    }

    #[cold]
    fn wait_room(&self, queue: u8, what: What, slot: Handle, patience: Option<Deadline>) -> Result<Handle> {
        self.tally.full();
        let mut slot = slot;
        let spot = RowSpot { seat: self, rows: Rows::one(Kind::Room, queue) };
        let waited = match patience {
            None => Err(Error::Full),
            Some(deadline) => self
                .wait(&spot, deadline, RECHECK, None, || {
                    self.try_enqueue(queue, what, slot).map_err(|back| slot = back).ok()
                })
                .map_err(Stop::refusal),
        };
        waited.inspect_err(|_| self.free(slot))
    }
}
