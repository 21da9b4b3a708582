//! The caller's side: waiting for replies, taking them, giving up; and what a worker answers.

use super::member::Seat;
use super::waiting::ReplySpot;
use super::words::{Body, reply};
use crate::call::{Bus, Data, Ended, Head, INLINE_REPLY, Payload, Refused, Stop, Ticket, copy_short, reject};
use crate::error::{Error, Result, Violation};
use crate::slots::SlotRef;
use crate::slots::arena::SlotId;
use crate::slots::owned::{GivenUp, Handle, Progress, Reply, State};
use crate::sync::{demote, prefetch_read, prefetch_write};
use crate::tasks::{Caller, Waited};
use crate::wake::Deadline;
use core::cell::Cell;
use core::mem::MaybeUninit;
use core::num::NonZeroU64;
use core::ptr::NonNull;
use core::task::{Context, Poll, ready};
use std::sync::Arc;

thread_local! {
    /// Whether this thread answers requests that it has received together.
    static IN_BATCH: Cell<bool> = const { Cell::new(false) };
}

/// Says whether the requests that this thread answers from here on were received together: a hint.
pub(super) fn in_batch(batch: bool) {
    IN_BATCH.set(batch);
}

/// After the payload of a reply was published. Its caller reads it next, unless it is one of many.
#[inline(always)]
fn hand_back(base: NonNull<u8>, len: usize) {
    if !IN_BATCH.get() {
        demote(base, len);
    }
}

const NOT_OURS: Error = Error::Unsupported { what: "an answer to what this process does not execute" };

/// A slot as a loan names it.
#[inline(always)]
pub(super) fn id_of(slot: Handle) -> SlotId {
    SlotId::from_bits(NonZeroU64::new(slot.bits()).expect("a handle is never 0"))
}

/// The slot that a loan names.
#[inline(always)]
pub(super) fn handle_of(bits: u64) -> Handle {
    Handle::from_bits(bits).expect("made from a handle")
}

#[inline(always)]
fn call_of(ticket: &Ticket) -> Handle {
    Handle { index: ticket.cell(), generation: ticket.generation() }
}

impl Seat {
    /// Waits for a reply and takes it; gives the call up when the wait ends without.
    #[inline(always)]
    pub(super) fn finish_call(&self, ticket: &Ticket) -> Result<Data> {
        if self.forked() {
            return Err(Error::Forked);
        }
        let slot = call_of(ticket);
        let look = || match self.table.progress(slot) {
            Ok(Progress::Pending) => None,
            // One that this process has not is taken for ended, and found out below.
            progress => Some(progress.ok()),
        };
        match self.wait(&ReplySpot { seat: self, slot }, ticket.deadline, None, Some(&self.first_look), look) {
            Ok(_) => self.take_reply(slot),
            Err(stop) => self.stop_waiting(slot, stop),
        }
    }

    /// As [`finish_call`](Self::finish_call), for a task.
    fn poll_call(&self, ticket: &Ticket, caller: &mut Caller, cx: &mut Context<'_>) -> Poll<Result<Data>> {
        if self.forked() {
            return Poll::Ready(Err(Error::Forked));
        }
        let slot = call_of(ticket);
        let ended = || self.table.progress(slot) != Ok(Progress::Pending);
        Poll::Ready(match ready!(caller.poll(self, slot.index, ticket.deadline, cx, ended)) {
            Ok(()) => self.take_reply(slot),
            Err(Waited::Stopped(stop)) => self.stop_waiting(slot, stop),
            Err(Waited::Failed(error)) => {
                self.give_up(ticket);
                Err(error)
            }
        })
    }

    #[cold]
    fn stop_waiting(&self, slot: Handle, stop: Stop) -> Result<Data> {
        let maybe_executed = match self.table.give_up(slot) {
            Ok(GivenUp::Ended) => return self.take_reply(slot),
            Ok(GivenUp::NotExecuted) => {
                self.slot_freed(slot.index);
                false
            }
            _ => true,
        };
        Err(match stop {
            Stop::Deadline => Error::Timeout { maybe_executed },
            Stop::Ended(Ended::PeerDied) => Error::PeerDied { maybe_executed },
            Stop::Ended(ended) => ended.interruption(maybe_executed),
        })
    }

    /// Takes the reply of a call that has ended. Its slot is free then, unless the payload lies there.
    #[inline(always)]
    fn take_reply(&self, slot: Handle) -> Result<Data> {
        let progress = self.table.progress(slot).map_err(|_| NOT_OURS)?;
        let header = self.table.header(slot.index).ok_or(NOT_OURS)?;
        if let Progress::Died { maybe_executed } = progress {
            self.complete(slot);
            return Err(Error::PeerDied { maybe_executed });
        }
        let body = header.body.read();
        let len = body.length as usize;
        let result = match body.what {
            reply::INLINE if len <= INLINE_REPLY => Ok(Data::inline(body.words, len)),
            reply::SLOT => {
                let (base, size) = self.payload(self.table.attached(slot).map_or(slot.index, |apart| apart.index));
                if len <= size as usize {
                    prefetch_read(base, len);
                    // Completed when the message is dropped.
                    return Ok(Data::in_slot(base, len, SlotRef::from_bits(slot.bits()), true));
                }
                Err(self.violation(Violation::SlotReference))
            }
            reply::REJECTED => Err(Error::Rejected { code: body.words[0] as u32, maybe_executed: true }),
            reply::PANICKED => Err(Error::HandlerPanicked),
            reply::NO_METHOD => Err(Error::NoSuchMethod { method: body.words[0] as u32 }),
            _ => Err(self.violation(Violation::ReplyStatus)),
        };
        self.complete(slot);
        result
    }

    #[inline(always)]
    fn complete(&self, slot: Handle) {
        let apart = self.table.attached(slot);
        if self.table.complete(slot).is_ok() {
            self.slot_freed(slot.index);
            if let Some(apart) = apart {
                self.slot_freed(apart.index);
            }
        }
    }

    /// Somebody wrote what nobody writes by our rules. That ends nothing but the message.
    #[cold]
    pub(super) fn violation(&self, reason: Violation) -> Error {
        self.tally.violation();
        Error::Poisoned { reason }
    }

    /// Answers a call with what `write` writes into its body, and `apart`, a slot of ours.
    #[inline(always)]
    fn answer_with(&self, head: Head, apart: Option<Handle>, write: impl FnOnce(&mut Body)) -> Result<()> {
        let Some((index, generation)) = head.call() else { return Ok(()) };
        if self.forked() {
            return Err(Error::Forked);
        }
        let slot = Handle { index, generation };
        // Its caller may have looked, and taken the line away.
        prefetch_write(self.header(slot));
        self.write(slot, write);
        let replied = self.table.reply(slot, apart).map_err(|_| {
            apart.inspect(|apart| self.free(*apart));
            NOT_OURS
        });
        match replied? {
            Reply::Seen => {}
            Reply::Wake { caller } => {
                self.tally.wake();
                self.wake_caller(slot, caller);
            }
            Reply::Nobody => {
                self.slot_freed(index);
                if let Some(apart) = apart {
                    self.slot_freed(apart.index);
                }
            }
        }
        Ok(())
    }

    /// An event that was executed.
    #[inline(always)]
    pub(super) fn end_event(&self, slot: Handle) {
        if self.table.reply(slot, None).is_ok() {
            self.slot_freed(slot.index);
        }
    }
}

impl Bus for Seat {
    #[inline]
    fn release(&self, slot: SlotRef) {
        if self.forked() {
            return;
        }
        let slot = handle_of(slot.bits());
        // The payload of an event, or of a reply.
        if self.table.header(slot.index).is_some_and(|header| header.word().state() == State::Executing) {
            self.end_event(slot);
        } else {
            self.complete(slot);
        }
    }

    #[inline]
    fn unloan(&self, slot: SlotId) {
        if !self.forked() {
            self.free(handle_of(slot.bits()));
        }
    }

    #[inline]
    fn loan_reply(&self, len: usize, deadline: Option<Deadline>) -> Result<Option<(NonNull<u8>, SlotId)>> {
        if self.forked() {
            return Err(Error::Forked);
        }
        if len <= INLINE_REPLY {
            return Ok(None);
        }
        let slot = self.slot(len, deadline)?;
        Ok(Some((self.payload(slot.index).0, id_of(slot))))
    }

    #[inline]
    fn answer(&self, head: Head, bytes: &[u8], _released: Option<SlotRef>) -> Result<()> {
        let len = bytes.len();
        if len <= INLINE_REPLY {
            return self.answer_with(head, None, |body| {
                copy_short(&mut body.words, bytes);
                (body.what, body.length) = (reply::INLINE, len as u32);
            });
        }
        let Some((index, _)) = head.call() else { return Ok(()) };
        if self.forked() {
            return Err(Error::Forked);
        }
        let (own, size) = self.payload(index);
        let (base, apart) = if len <= size as usize {
            (own, None)
        } else {
            let slot = self.slot(len, head.patience());
            let slot = slot.inspect_err(|_| {
                let _ = self.refuse(head, Refused::Rejected(reject::NO_SLOT), None);
            })?;
            (self.payload(slot.index).0, Some(slot))
        };
        // SAFETY: as large as asked for, and written by this process alone: it executes the one, and owns the other. The
        // bytes may be those of the request.
        unsafe { base.copy_from(NonNull::from(bytes).cast(), len) }
        self.answer_with(head, apart, |body| (body.what, body.length) = (reply::SLOT, len as u32))?;
        hand_back(base, len);
        Ok(())
    }

    #[inline]
    fn answer_in(
        &self,
        head: Head,
        (base, slot): (NonNull<u8>, SlotId),
        len: usize,
        _released: Option<SlotRef>,
    ) -> Result<()> {
        let apart = handle_of(slot.bits());
        self.answer_with(head, Some(apart), |body| (body.what, body.length) = (reply::SLOT, len as u32))?;
        hand_back(base, len);
        Ok(())
    }

    #[cold]
    fn refuse(&self, head: Head, why: Refused, _released: Option<SlotRef>) -> Result<()> {
        let (what, code) = match why {
            Refused::Rejected(code) => (reply::REJECTED, code),
            Refused::Panicked => (reply::PANICKED, 0),
            Refused::NoSuchMethod => (reply::NO_METHOD, head.method()),
        };
        self.answer_with(head, None, |body| {
            body.words[0] = code.into();
            (body.what, body.length) = (what, 0);
        })
    }

    fn submit_nested(&self, _parent: u32, _method: u32, _payload: Payload<'_>, _: Deadline) -> Result<Ticket> {
        Err(Error::Unsupported { what: "a call nested in a request of a pool; call one of its queues" })
    }

    #[inline(always)]
    fn finish(&self, ticket: &Ticket, to: &mut MaybeUninit<Data>) -> Result<()> {
        to.write(self.finish_call(ticket)?);
        Ok(())
    }

    #[inline]
    fn poll_finish(
        &self,
        ticket: &Ticket,
        caller: &mut Caller,
        cx: &mut Context<'_>,
        to: &mut MaybeUninit<Data>,
    ) -> Poll<Result<()>> {
        to.write(ready!(self.poll_call(ticket, caller, cx))?);
        Poll::Ready(Ok(()))
    }

    fn is_finished(&self, ticket: &Ticket) -> bool {
        self.forked() || self.table.progress(call_of(ticket)) != Ok(Progress::Pending) || self.ended().is_some()
    }

    fn give_up(&self, ticket: &Ticket) {
        if self.forked() {
            return;
        }
        let slot = call_of(ticket);
        match self.table.give_up(slot) {
            Ok(GivenUp::Ended) => self.complete(slot),
            Ok(GivenUp::NotExecuted) => self.slot_freed(slot.index),
            _ => {}
        }
    }

    fn to_owned(&self) -> Arc<dyn Bus> {
        self.me.upgrade().expect("borrowed from a member")
    }
}
