//! The caller's side: waiting for replies, taking them, giving up.

use super::end::End;
use super::sending::Tx;
use super::waiting::ReplySpot;
use super::words::{self, reply};
use crate::call::{Bus, Data, Stop, Ticket, reject};
use crate::error::{Error, Result, Violation};
use crate::slots::SlotRef;
use crate::sync::{Ordering, fence, mutant, prefetch_read};
use crate::tasks::{Caller, Kind, Waited};
use crate::wake::HOW_BITS;
use core::mem::MaybeUninit;
use core::task::{Context, Poll, ready};

const UNSENT: Error = Error::Unsupported { what: "waiting for a call that its batch has not sent; flush it first" };

/// The slot of a reply that nobody reads: of what `take` writes where there is no error.
pub(super) fn unread(take: impl FnOnce(&mut MaybeUninit<Data>) -> Result<()>) -> Option<SlotRef> {
    let mut data = MaybeUninit::uninit();
    take(&mut data).ok()?;
    // SAFETY: written, since there was no error; both who take a reply say so.
    unsafe { data.assume_init() }.slot()
}

impl End {
    #[inline(always)]
    pub(super) fn arrived(&self, ticket: &Ticket) -> bool {
        self.theirs.cells.at(ticket.cell()).word.hint() == ticket.generation()
    }

    /// Waits for a reply and takes it to where it will stay; gives the call up when the wait ends without.
    #[inline(always)]
    pub(super) fn finish_call(&self, ticket: &Ticket, to: &mut MaybeUninit<Data>) -> Result<()> {
        if self.forked() {
            return Err(Error::Forked);
        }
        if !self.arrived(ticket) {
            if self.calls.position(ticket).is_none() {
                self.give_up_call(ticket);
                return Err(UNSENT);
            }
            self.wait_reply(ticket)?;
        }
        self.take_reply(ticket, to)
    }

    /// Apart: taking a reply that is there, one of many, is not to pay for what waiting keeps in registers.
    #[inline(never)]
    fn wait_reply(&self, ticket: &Ticket) -> Result<()> {
        let handler = self.handler.get();
        let words = self.intake_words();
        let parent = handler.map(|_| ticket.cell());
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
                        self.calls.spin_paid(ticket.cell());
                    }
                    return Ok(());
                }
                Ok((Some(child), _)) => {
                    if let Some(handler) = handler
                        && let Some(request) = self.open(&child)
                    {
                        self.serve_nested(handler, request);
                    }
                    // There may always be another.
                    if let Err(stop) = self.stopped(ticket.deadline) {
                        return self.stop_waiting(ticket, stop);
                    }
                }
                Err(stop) => return self.stop_waiting(ticket, stop),
            }
        }
    }

    /// As [`finish_call`](Self::finish_call), for a task.
    pub(super) fn poll_call(
        &self,
        ticket: &Ticket,
        caller: &mut Caller,
        cx: &mut Context<'_>,
        to: &mut MaybeUninit<Data>,
    ) -> Poll<Result<()>> {
        if self.forked() {
            return Poll::Ready(Err(Error::Forked));
        }
        if !self.arrived(ticket) && self.calls.position(ticket).is_none() {
            self.give_up_call(ticket);
            return Poll::Ready(Err(UNSENT));
        }
        let waited = caller.poll(self, ticket.cell(), ticket.deadline, cx, || self.arrived(ticket));
        let stopped = match ready!(waited) {
            Ok(()) => Ok(()),
            Err(Waited::Stopped(stop)) => self.stop_waiting(ticket, stop),
            Err(Waited::Failed(error)) => {
                self.give_up(ticket);
                Err(error)
            }
        };
        Poll::Ready(stopped.and_then(|()| self.take_reply(ticket, to)))
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
        let pos = self.theirs.intake.pos.0.load();
        // Positions are compared on their circle; a call is never half of it away.
        self.calls.position(ticket).is_some_and(|position| pos.wrapping_sub(position.wrapping_add(1)) < 1 << 31)
    }

    /// Gives a call up: returns false if so, true if its reply has come after all and is to be taken.
    pub(super) fn give_up_call(&self, ticket: &Ticket) -> bool {
        let word = self.ours.call_words.at(ticket.cell());
        word.store(ticket.generation() << HOW_BITS | words::GIVEN_UP, Ordering::Relaxed);
        if !mutant("call: given up without fence") {
            fence(Ordering::SeqCst);
        }
        let mut tx = self.tx.lock();
        if self.arrived(ticket) {
            return true;
        }
        if mutant("call: cell free at once when given up") {
            self.calls.put(&mut tx.cells, ticket.cell());
        } else {
            self.calls.list_given_up(&mut tx.cells, *ticket);
        }
        false
    }

    /// Takes in replies to calls that were given up.
    #[cold]
    pub(super) fn sweep_given_up(&self, tx: &mut Tx) {
        let mut at = 0;
        let mut released = false;
        while let Some(ticket) = tx.cells.given_up.get(at).copied() {
            if !self.arrived(&ticket) {
                at += 1;
                continue;
            }
            self.calls.unlist_given_up(&mut tx.cells, at);
            if let Some(slot) = unread(|to| self.read_reply(&ticket, to)) {
                self.release_slot(slot);
                released = true;
            }
            self.calls.put(&mut tx.cells, ticket.cell());
        }
        if released {
            self.notify(false, true);
        }
    }

    /// Takes the reply that has arrived, and frees the cell.
    #[inline(always)]
    pub(super) fn take_reply(&self, ticket: &Ticket, to: &mut MaybeUninit<Data>) -> Result<()> {
        if mutant("call: cell free before its reply is read") {
            self.calls.keep(ticket.cell());
            return self.read_reply(ticket, to);
        }
        let result = self.read_reply(ticket, to);
        self.calls.keep(ticket.cell());
        if let Some(tasks) = self.tasks.get()
            && tasks.anyone(Kind::Room)
        {
            tasks.notify(Kind::Room, u32::MAX);
        }
        result
    }

    /// Reads a reply, once, and checks the copy. It is written to where it will stay, unless there is an error: returned and then
    /// moved, in other units, it would have to leave the store buffer in between.
    #[inline(always)]
    fn read_reply(&self, ticket: &Ticket, to: &mut MaybeUninit<Data>) -> Result<()> {
        let cell = self.theirs.cells.at(ticket.cell());
        if !mutant("call: reply without acquire") {
            cell.word.load(); // acquires what the replier wrote
        }
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
            reply::OK if flags & reply::SLOT != 0 => {
                to.write(self.slot_data(SlotRef::from_bits(body.inline[0]), body.length)?);
                Ok(())
            }
            reply::OK if body.length as usize <= words::INLINE_REPLY => {
                to.write(Data::inline(body.inline, body.length as usize));
                Ok(())
            }
            reply::OK => Err(self.poison(Violation::InlineLength)),
            reply::REJECTED => Err(Error::Rejected { code: body.code, maybe_executed: body.code != reject::TOO_DEEP }),
            reply::PANICKED => Err(Error::HandlerPanicked),
            reply::NO_METHOD => Err(Error::NoSuchMethod { method: body.code }),
            // The replier has seen that the call is given up before its caller saw that the reply is there.
            reply::DISCARDED => {
                Err(self.ended().map_or(Error::Timeout { maybe_executed: true }, |ended| ended.interruption(true)))
            }
            _ => Err(self.poison(Violation::ReplyStatus)),
        }
    }

    /// A payload in a slot of the peer, if the reference holds.
    #[inline(always)]
    pub(super) fn slot_data(&self, slot: SlotRef, len: u64) -> Result<Data> {
        let class = self.theirs.classes.get(usize::from(slot.class()));
        match class {
            Some(class) if slot.segment() == 0 && slot.index() < class.count && len <= class.size.into() => {
                let base = class.at(slot.index());
                prefetch_read(base, len as usize);
                Ok(Data::in_slot(base, len as usize, slot, self.options.trusted))
            }
            _ => Err(self.poison(Violation::SlotReference)),
        }
    }
}
