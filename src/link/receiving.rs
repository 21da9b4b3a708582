//! Receiving requests, and answering them.

use super::end::{End, Handler, Options};
use super::intake::{BAD_CELL, CHUNK, Taken};
use super::replies::unread;
use super::waiting::IntakeSpot;
use super::words::{self, Body, entry, reply};
use crate::call::{Bus, Data, Head, Message, Payload, Refused, Request, Stop, Ticket, copy_short, guarded, reject};
use crate::error::{Error, Result, Violation};
use crate::slots::SlotRef;
use crate::slots::arena::SlotId;
use crate::sync::{Ordering, fence, mutant, prefetch_write};
use crate::tasks::{Caller, Kind};
use crate::wake::{Deadline, HOW_BITS, Idle};
use core::cell::Cell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::task::{Context, Poll};
use std::sync::Arc;

thread_local! {
    /// How many nested calls this thread is serving.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// The end of which this thread holds a batch of [`Requests`]: its replies share one fence. It goes from one end to none
    /// only with that fence, so what is not told yet is always of this end.
    static BATCH_OF: Cell<*const End> = const { Cell::new(ptr::null()) };
}

impl End {
    /// Takes the next request that is there.
    #[inline]
    pub fn try_recv(&self) -> Result<Option<Request<'_>>> {
        self.take_one(false)
    }

    /// Waits for the next request.
    #[inline(always)]
    pub fn recv(&self, deadline: Deadline) -> Result<Request<'_>> {
        let mut spun = None;
        loop {
            if let Some(request) = self.take_one(spun.unwrap_or(false))? {
                return Ok(request);
            }
            self.check_time(spun.is_some(), deadline)?;
            spun = Some(self.wait_request(deadline)?);
        }
    }

    /// After a wait that was over though there is nothing to hand out, which may go on for ever: so it ends with its time.
    #[inline(always)]
    fn check_time(&self, waited: bool, deadline: Deadline) -> Result<()> {
        if waited && deadline.has_passed() { Err(Stop::Deadline.refusal()) } else { Ok(()) }
    }

    /// Waits for the first request and takes what else is there.
    #[inline]
    pub fn recv_batch(&self, max: usize, deadline: Deadline) -> Result<Requests<'_>> {
        let mut requests = Requests::new(self, max);
        let mut spun = None;
        loop {
            if self.is_over() {
                self.check_ended()?;
            }
            if requests.fill(spun.unwrap_or(false)) || max == 0 {
                return Ok(requests);
            }
            self.check_ended()?;
            self.check_time(spun.is_some(), deadline)?;
            spun = Some(self.wait_request(deadline)?);
        }
    }

    /// How the link ended, as an error, once nothing is left to receive.
    #[inline]
    pub(super) fn check_ended(&self) -> Result<()> {
        if self.forked() {
            return Err(Error::Forked);
        }
        match self.ended_now() {
            Some(ended) if self.is_over() || !self.intake.ready(&self.intake_words()) => Err(ended.refusal()),
            _ => Ok(()),
        }
    }

    /// Whether the link has ended, and as much was received since as can have been sent before.
    #[inline(always)]
    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed) != 0 && self.has_received_all()
    }

    #[cold]
    fn has_received_all(&self) -> bool {
        let pos = self.ours.intake.pos.0.load(Ordering::Relaxed);
        pos.wrapping_sub(self.over_at.load(Ordering::Relaxed)) < 1 << 31
    }

    /// `spun`: this thread has just ended a wait by spinning, on behalf of the other receivers.
    #[inline(always)]
    fn take_one(&self, mut spun: bool) -> Result<Option<Request<'_>>> {
        // In a forked child there is nothing at these words.
        if self.forked() {
            return Err(Error::Forked);
        }
        let words = self.intake_words();
        // No more than there can be: requests that nobody waits for any more may go on for ever.
        for _ in 0..self.theirs.entries.count() {
            if !spun && (self.is_over() || !self.intake.ready(&words)) {
                self.check_ended()?;
                if !self.intake.ready(&words) {
                    return Ok(None);
                }
            }
            let mut taken = MaybeUninit::uninit();
            let (any, nudge) = self.intake.take(&words, &mut taken, spun);
            self.nudge(nudge);
            spun = false;
            if !any {
                continue;
            }
            // SAFETY: written, as it says.
            let taken = unsafe { taken.assume_init_ref() };
            if taken.tag as u8 == entry::EVENT {
                // The fence that lets waiting senders see our position comes with the reply of a call; an event has none.
                self.notify(false, false);
            }
            if let Some(request) = self.open(taken) {
                return Ok(Some(request));
            }
        }
        Ok(None)
    }

    /// Before this thread waits: tells the other side what it has only noted so far. Taking a call makes room that a sender
    /// may be waiting for, and no reply says so while the call is held; replies of a batch share a fence to come.
    #[cold]
    pub(super) fn catch_up(&self) {
        if mutant("wake: nothing caught up") {
            return;
        }
        if BATCH_OF.get() == ptr::from_ref(self) {
            self.notify_batch();
        } else {
            self.notify_room();
        }
    }

    /// Waits until a request is there, which another thread may take before this one does. Returns whether this thread
    /// spun for it and still counts as the one that spins, which the next `take` ends.
    fn wait_request(&self, deadline: Deadline) -> Result<bool> {
        if self.calls.any_given_up() {
            self.sweep_given_up(&mut self.tx.lock());
        }
        let words = self.intake_words();
        // One thread spins; the others sleep meanwhile.
        let spins = matches!(self.spin.idle(), Idle::Adaptive { .. } | Idle::Spin) && self.intake.begin_spin(&words);
        let spot = IntakeSpot { end: self, words, spinning: Cell::new(spins) };
        let waited = self.wait(&spot, deadline, spins, None, || self.intake.ready(&words).then_some(()));
        let spinning = spot.spinning.get();
        match waited {
            Ok(_) => Ok(spinning),
            Err(stop) => {
                if spinning {
                    self.nudge(self.intake.end_spin(&words));
                }
                self.nudge(self.intake.pass_on(&words));
                Err(stop.refusal())
            }
        }
    }

    /// Checks what was taken from the ring and gives it its form. `None` for a call that nobody waits for any more, and for
    /// a violation, which has ended the link.
    #[inline(always)]
    pub(super) fn open(&self, Taken { tag, value: body }: &Taken) -> Option<Request<'_>> {
        let flags = (tag >> 8) as u8;
        let data = if flags & !entry::SLOT != 0 {
            // An extension that was not negotiated.
            self.poison(Violation::EntryKind);
            return None;
        } else if flags & entry::SLOT == 0 && body.length as usize <= words::INLINE_REQUEST {
            let mut words = [0; 5];
            words[..4].copy_from_slice(&body.inline);
            Data::inline(words, body.length as usize)
        } else if flags & entry::SLOT != 0 {
            self.slot_data(SlotRef::from_bits(body.inline[0]), body.inline[1]).ok()?
        } else {
            self.poison(Violation::InlineLength);
            return None;
        };
        let call = match *tag as u8 {
            entry::EVENT => None,
            entry::CALL => Some(body.call),
            BAD_CELL => {
                self.poison(Violation::ReplyCell);
                return None;
            }
            _ => {
                self.poison(Violation::EntryKind);
                return None;
            }
        };
        let head = Head::new(body.method, call, body.deadline);
        // Events that were sent before the end are still received.
        if head.call().is_some_and(|call| self.is_void(call, body)) {
            self.discard(head, data);
            return None;
        }
        // SAFETY: taken from the ring once, by this thread.
        Some(unsafe { Request::new(head, Message::new(data, self.hold())) })
    }

    /// Drops a request unseen: it answers for itself.
    #[cold]
    fn discard(&self, head: Head, data: Data) {
        // SAFETY: taken from the ring once, by this thread.
        drop(unsafe { Request::new(head, Message::new(data, self.hold())) });
    }

    /// Whether a call that was just taken must not be executed: its caller may have been told that it was not.
    ///
    /// A caller that gives up says so, fences, and then looks whether its request was taken; so here, after the request was
    /// taken, a fence and a look whether it was given up. Only a call with a deadline is reported in that way.
    #[inline(always)]
    fn is_void(&self, (cell, generation): (u32, u32), body: &Body) -> bool {
        if self.ended.load(Ordering::Relaxed) != 0 {
            return true;
        }
        if body.deadline == 0 {
            return false;
        }
        if !mutant("call: taken without fence") {
            fence(Ordering::SeqCst);
        }
        self.is_given_up((cell, generation))
    }

    /// Whether the caller has said that it does not wait for this call any more.
    #[inline(always)]
    fn is_given_up(&self, (cell, generation): (u32, u32)) -> bool {
        self.theirs.call_words.at(cell).hint() == generation << HOW_BITS | words::GIVEN_UP
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

    /// Serves a call nested in one that this thread waits for.
    pub(super) fn serve_nested(&self, handler: &Handler, request: Request<'_>) {
        if DEPTH.get() >= self.options.max_depth {
            let _ = request.reject(reject::TOO_DEEP);
            return;
        }
        DEPTH.set(DEPTH.get() + 1);
        guarded(handler, request);
        DEPTH.set(DEPTH.get() - 1);
    }

    /// Answers a call with what `write` writes into the reply; it returns status and flags. Does not call `write`
    /// if the caller has given up.
    #[inline(always)]
    fn answer_with(
        &self,
        head: Head,
        released: Option<SlotRef>,
        write: impl FnOnce(&mut words::ReplyBody) -> u32,
    ) -> Result<()> {
        let Some((index, generation)) = head.call() else { return Ok(()) };
        if self.forked() {
            return Err(Error::Forked);
        }
        // Asked before: once the reply is out, its caller may close the link, which is no failure of the reply.
        let ended = self.ended.load(Ordering::Relaxed) != 0;
        let given_up = self.is_given_up((index, generation));
        let cell = self.ours.cells.at(index);
        // SAFETY: the busy bit makes this call the only one of ours that writes the cell, until it is cleared.
        let flags = unsafe {
            cell.body.write_with(|body| {
                *body = words::ReplyBody::default();
                if given_up { reply::DISCARDED } else { write(body) }
            })
        };
        cell.flags.store(if released.is_some() { flags | reply::RELEASED } else { flags }, Ordering::Relaxed);
        // Before the word: as soon as that is out, the cell may be named again. Only a caller that does not wait for it can
        // name it in between, and then no thread writes the body at the same time as another.
        let late = mutant("call: busy until after its reply");
        if !late {
            self.intake.answered(index);
        }
        let order = if mutant("call: reply without release") { Ordering::Relaxed } else { Ordering::Release };
        cell.word.store(generation, order);
        if late {
            self.intake.answered(index);
        }
        // In a batch, only who is asleep already: whoever falls asleep at this moment is seen when the batch ends.
        if BATCH_OF.get() != ptr::from_ref(self) || self.theirs.control.sleepers.0.hint() != 0 {
            self.notify_caller(index, generation, released.is_some());
        }
        match self.ended() {
            Some(how) if ended => Err(how.refusal()),
            _ => Ok(()),
        }
    }

    fn answer_long(&self, head: Head, bytes: &[u8], released: Option<SlotRef>) -> Result<()> {
        let Some(call) = head.call() else { return Ok(()) };
        if self.forked() {
            return Err(Error::Forked);
        }
        // If nobody waits for the answer, it does not wait for a slot.
        let slot =
            if self.is_given_up(call) { Err(Error::Full) } else { self.reply_slot(bytes.len(), head.patience()) };
        match slot {
            Ok((base, slot)) => {
                // SAFETY: loaned just now for as many bytes.
                unsafe { base.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
                self.answer_in(head, (base, slot), bytes.len(), released)
            }
            Err(error) => {
                let mut told = false;
                self.answer_with(head, released, |body| {
                    told = true;
                    body.code = reject::NO_SLOT;
                    reply::REJECTED
                })?;
                if told { Err(error) } else { Ok(()) }
            }
        }
    }

    /// A slot for a reply. Until when to wait for one is what the caller says, who may be the one that gives none back.
    #[inline(always)]
    fn reply_slot(&self, len: usize, deadline: Option<Deadline>) -> Result<(NonNull<u8>, SlotId)> {
        let Options { trusted, reply_patience, .. } = self.options;
        match self.slot(len, None) {
            Err(Error::Full) if deadline.is_some() => {
                self.slot(len, deadline.map(|at| if trusted { at } else { at.sooner(reply_patience) }))
            }
            slot => slot,
        }
    }

    pub(super) fn release_slot(&self, slot: SlotRef) {
        let before = &self.theirs.classes[..usize::from(slot.class())];
        // The reference was checked when it arrived.
        let number = before.iter().map(|c| c.count).sum::<u32>() + slot.index();
        let order = if mutant("call: slot given back without release") { Ordering::Relaxed } else { Ordering::Release };
        self.ours.released.at(number).store(slot.generation(), order);
    }
}

impl Bus for End {
    fn release(&self, slot: SlotRef) {
        if self.forked() {
            return;
        }
        self.release_slot(slot);
        self.notify(false, true);
    }

    #[inline]
    fn unloan(&self, slot: SlotId) {
        if !self.forked() && self.arena.give_back(slot) {
            self.wake_loaners();
        }
    }

    #[inline]
    fn loan_reply(&self, len: usize, deadline: Option<Deadline>) -> Result<Option<(NonNull<u8>, SlotId)>> {
        if self.forked() {
            return Err(Error::Forked);
        }
        if len <= words::INLINE_REPLY { Ok(None) } else { self.reply_slot(len, deadline).map(Some) }
    }

    #[inline]
    fn answer(&self, head: Head, bytes: &[u8], released: Option<SlotRef>) -> Result<()> {
        if bytes.len() > words::INLINE_REPLY {
            return self.answer_long(head, bytes, released);
        }
        self.answer_with(head, released, |body| {
            body.length = bytes.len() as u64;
            copy_short(&mut body.inline, bytes);
            reply::OK
        })
    }

    #[inline]
    fn answer_in(
        &self,
        head: Head,
        (base, slot): (NonNull<u8>, SlotId),
        len: usize,
        released: Option<SlotRef>,
    ) -> Result<()> {
        let mut lent = false;
        let result = self.answer_with(head, released, |body| {
            lent = true;
            body.length = len as u64;
            body.inline[0] = self.arena.lend(slot).bits();
            reply::OK | reply::SLOT
        });
        if lent {
            // Not one of many: the caller reads it next.
            if BATCH_OF.get() != ptr::from_ref(self) {
                self.demote(base, len);
            }
        } else {
            self.unloan(slot);
        }
        result
    }

    fn refuse(&self, head: Head, why: Refused, released: Option<SlotRef>) -> Result<()> {
        self.answer_with(head, released, |body| {
            let (status, code) = match why {
                Refused::Rejected(code) => (reply::REJECTED, code),
                Refused::Panicked => (reply::PANICKED, 0),
                Refused::NoSuchMethod => (reply::NO_METHOD, head.method()),
            };
            body.code = code;
            status
        })
    }

    fn submit_nested(&self, parent: u32, method: u32, payload: Payload<'_>, deadline: Deadline) -> Result<Ticket> {
        self.nested(parent, method, payload, deadline)
    }

    fn finish(&self, ticket: &Ticket, to: &mut MaybeUninit<Data>) -> Result<()> {
        self.finish_call(ticket, to)
    }

    #[inline]
    fn poll_finish(
        &self,
        ticket: &Ticket,
        caller: &mut Caller,
        cx: &mut Context<'_>,
        to: &mut MaybeUninit<Data>,
    ) -> Poll<Result<()>> {
        self.poll_call(ticket, caller, cx, to)
    }

    fn is_finished(&self, ticket: &Ticket) -> bool {
        self.forked() || self.arrived(ticket) || self.ended_now().is_some() || ticket.deadline.has_passed()
    }

    fn give_up(&self, ticket: &Ticket) {
        if !self.forked()
            && self.give_up_call(ticket)
            && let Some(slot) = unread(|to| self.take_reply(ticket, to))
        {
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

/// Requests received together. See [`Link::recv_batch`](crate::Link::recv_batch).
///
/// Yields what was there, up to the number asked for, and never waits. What is not taken out stays to be received.
///
/// While it lives, replies of this thread on this link share one fence: a caller that falls asleep at the very moment of a
/// reply may be woken only when this is dropped, or when this thread waits on the link. One that sleeps by futex looks again
/// after 5 ms; one that has waited longer, or with [`Idle::Poll`], does not. So drop it before you wait for anything else.
///
/// A batch of another link, received while this lives, shares nothing: its replies fence each. Two batches of one link share
/// until the first of them is dropped. One that is forgotten ([`core::mem::forget`]) loses the requests that it had taken and
/// not yielded, and its thread goes on as if it lived, until the next batch of the same link is dropped there.
pub struct Requests<'a> {
    end: &'a End,
    chunk: [MaybeUninit<Taken>; CHUNK],
    at: usize,
    len: usize,
    /// How many may still be taken from the ring.
    left: usize,
    /// Bound to its thread, like [`BATCH_OF`].
    _not_send: PhantomData<*const ()>,
}

impl<'a> Requests<'a> {
    pub(super) fn new(end: &'a End, max: usize) -> Self {
        if BATCH_OF.get().is_null() {
            BATCH_OF.set(end);
        }
        let chunk = [const { MaybeUninit::uninit() }; CHUNK];
        // No more than can be there at one time, however fast the other side sends.
        let left = max.min(end.intake.limit());
        Self { end, chunk, at: 0, len: 0, left, _not_send: PhantomData }
    }

    /// Takes the next chunk; returns whether anything was there.
    #[inline]
    pub(super) fn fill(&mut self, spun: bool) -> bool {
        let words = self.end.intake_words();
        if self.left == 0 || self.end.forked() || self.end.is_over() || (!spun && !self.end.intake.ready(&words)) {
            return false;
        }
        let max = self.left.min(CHUNK);
        let (len, nudge) = self.end.intake.take_chunk(&words, &mut self.chunk[..max], spun);
        self.end.nudge(nudge);
        (self.at, self.len) = (0, len);
        self.left -= len;
        if len > 1 {
            for taken in &self.chunk[..len] {
                // SAFETY: written just now.
                let taken = unsafe { taken.assume_init_ref() };
                if taken.tag as u8 == entry::CALL {
                    // All replies of the batch wait for their lines at once, not each for its own.
                    prefetch_write(self.end.ours.cells.at(taken.value.call as u32));
                }
            }
        }
        len > 0
    }
}

impl<'a> Iterator for Requests<'a> {
    type Item = Request<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Request<'a>> {
        loop {
            if self.at >= self.len && !self.fill(false) {
                return None;
            }
            // SAFETY: `fill` has written the first `len`.
            let taken = unsafe { self.chunk[self.at].assume_init_ref() };
            self.at += 1;
            // If it is none, that one call was void, or the link has ended, and what is left is void too.
            if let Some(request) = self.end.open(taken) {
                return Some(request);
            }
        }
    }
}

impl Drop for Requests<'_> {
    fn drop(&mut self) {
        if BATCH_OF.get() == ptr::from_ref(self.end) {
            BATCH_OF.set(ptr::null());
        }
        if self.end.forked() {
            return;
        }
        if self.at < self.len {
            // SAFETY: written by `fill`, and not read yet.
            let rest = self.chunk[self.at..self.len].iter().map(|taken| unsafe { taken.assume_init() });
            self.end.nudge(self.end.intake.put_back(&self.end.intake_words(), rest));
            if let Some(tasks) = self.end.tasks.get() {
                tasks.notify(Kind::Requests, u32::MAX);
            }
        }
        // Whatever this one has taken: it may have ended the sharing for others on the same link.
        self.end.notify_batch();
    }
}

impl core::fmt::Debug for Requests<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Requests")
            .field("ready", &(self.len - self.at))
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
