//! Async twins of what blocks: see [`tasks`].

use super::batch::Batch;
use super::end::End;
use super::receiving::Requests;
use super::sending::Needs;
use super::{Link, words};
use crate::call::{Bus, Ended, Loan, Message, Payload, Pending, Replying, Request, Stop, Ticket};
use crate::error::{Error, Result};
use crate::slots::arena::SlotId;
use crate::tasks::{self, Driven, Driver, Kind, Readable, Tasks, Waited, What, unless_full};
use crate::wake::Deadline;
use bytemuck::{AnyBitPattern, NoUninit};
use core::ptr::NonNull;
use core::time::Duration;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Bits of [`Kind::Room`].
const FOR_EVENT: u32 = 1;
const FOR_CALL: u32 = 2;

/// What to wait for in the line of [`Kind::Room`].
fn room_for(needs: Needs) -> u32 {
    if needs.is_call() { FOR_CALL } else { FOR_EVENT }
}

impl Driven for End {
    fn tasks(&self) -> &Tasks {
        self.tasks.get_or_init(|| Box::new(Tasks::new(self.theirs.cells.count())))
    }

    fn tell(&self, fenced: bool) {
        if fenced { self.notify_fenced(true, false) } else { self.notify(true, false) }
    }

    fn uncork(&self) {
        self.pull_cork();
    }

    /// A slot may have come back with the reply of a call that was given up.
    fn prepare(&self) {
        if self.calls.any_given_up() && self.tasks().anyone(Kind::Slots) {
            self.sweep_given_up(&mut self.tx.lock());
        }
    }

    #[inline(always)]
    fn has_reply(&self, place: u32) -> bool {
        self.theirs.cells.at(place).word.hint() == self.calls.generation(place)
    }

    fn has(&self, kind: Kind, bits: u32) -> u32 {
        match kind {
            Kind::Requests => u32::from(self.intake.ready(&self.intake_words())),
            Kind::Room => bits & self.room_bits(),
            Kind::Slots => {
                let classes = (0..self.ours.classes.len() as u8).filter(|class| bits >> class & 1 != 0);
                // What is found goes back, for whoever is woken for it.
                let there = |class: &u8| self.arena.loan(*class).map(|slot| self.arena.give_back(slot)).is_some();
                classes.filter(there).fold(0, |there, class| there | 1 << class)
            }
            Kind::Drained => u32::from(self.is_drained()),
        }
    }

    fn mark(&self, _what: What) {
        self.mark_loop();
    }

    fn unmark(&self) {
        self.unmark_loop();
    }

    fn take_in(&self) {
        self.take_in_rings();
    }

    fn ring_at(&self, at: Deadline) {
        if let Some(doorbell) = &self.doorbell {
            doorbell.ring_at(at);
        }
    }

    fn stopped(&self, deadline: Deadline) -> Result<(), Stop> {
        End::stopped(self, deadline)
    }

    fn patience(&self) -> u64 {
        self.spin.time(&self.ours.control.cpu.0, &self.theirs.control.cpu.0)
    }

    fn learn(&self, paid: bool) {
        if paid { self.spin.paid() } else { self.spin.missed() }
    }

    fn woken_rightly(&self) {
        if let Some(doorbell) = &self.doorbell {
            doorbell.paid();
        }
    }

    fn forked(&self) -> bool {
        End::forked(self)
    }

    fn events(&self) -> Result<BorrowedFd<'_>> {
        const NONE: Error = Error::Unsupported { what: "waiting in async code for an end of Link::pair" };
        self.doorbell.as_ref().map(AsFd::as_fd).ok_or(NONE)
    }

    fn shared(&self) -> Arc<dyn Driven> {
        match self.me.upgrade() {
            Some(end) => end,
            None => unreachable!("a borrowed end is alive"),
        }
    }
}

/// A slot of ours that is on its way into a message; comes back if that is not sent.
struct Held<'a> {
    end: &'a End,
    slot: Option<(NonNull<u8>, SlotId)>,
}

// SAFETY: the slot is this future's alone, wherever that runs.
unsafe impl Send for Held<'_> {}
// SAFETY: shared access does nothing.
unsafe impl Sync for Held<'_> {}

impl Held<'_> {
    fn slot(&self) -> (NonNull<u8>, SlotId) {
        match self.slot {
            Some(slot) => slot,
            None => unreachable!("not sent yet"),
        }
    }

    /// It has left with a message of `len` bytes.
    fn sent(mut self, len: usize) {
        // Where many calls are under way it costs more than it gives.
        if let Some((base, _)) = self.slot.take()
            && !self.end.tasks().any()
        {
            self.end.demote(base, len);
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some((_, slot)) = self.slot {
            self.end.unloan(slot);
        }
    }
}

impl End {
    fn room_bits(&self) -> u32 {
        match self.has_room(&mut self.tx.lock()) {
            (false, _) => 0,
            (true, false) => FOR_EVENT,
            (true, true) => FOR_EVENT | FOR_CALL,
        }
    }

    pub(super) async fn wait_task<R>(
        &self,
        kind: Kind,
        bits: u32,
        deadline: Deadline,
        mut tried: impl FnMut() -> Result<R>,
    ) -> Result<R> {
        let look = || unless_full(tried());
        tasks::wait(self, kind, bits, deadline, look).await.map_err(Waited::refusal)?
    }

    async fn slot_async<R>(&self, len: usize, deadline: Deadline, tried: impl FnMut() -> Result<R>) -> Result<R> {
        let class = self.arena.class_for(len).map_err(|max| Error::TooLarge { len, max })?;
        self.wait_task(Kind::Slots, 1 << class, deadline, tried).await
    }

    pub(super) async fn loan_async(&self, len: usize, deadline: Deadline) -> Result<Loan<'_>> {
        self.slot_async(len, deadline, || self.loan(len, None)).await
    }

    /// Sends a request: an event, or a call.
    async fn send_async(&self, needs: Needs, method: u32, payload: Payload<'_>, deadline: Deadline) -> Result<Ticket> {
        let len = payload.len();
        let bits = room_for(needs);
        let bytes = match payload {
            Payload::Loan(loan) if loan.in_slot() && len > words::INLINE_REQUEST => {
                let held = Held { end: self, slot: Some(loan.into_slot(core::ptr::from_ref(self).cast())?) };
                let tried = || {
                    let carry = self.carry_slot(held.slot().1, len, needs);
                    self.publish(needs, method, len, deadline, false, carry)
                };
                let ticket = self.wait_task(Kind::Room, bits, deadline, tried).await?;
                held.sent(len);
                return Ok(ticket);
            }
            bytes => bytes,
        };
        let bytes = bytes.as_ref();
        if len <= words::INLINE_REQUEST {
            let tried = || self.publish(needs, method, len, deadline, false, Self::carry_bytes(bytes));
            return self.wait_task(Kind::Room, bits, deadline, tried).await;
        }
        self.usable(false)?;
        let slot = || self.slot(len, None).map(|slot| Held { end: self, slot: Some(slot) });
        let held = self.slot_async(len, deadline, slot).await?;
        let tried = || self.publish(needs, method, len, deadline, false, self.carry_copy(held.slot(), bytes, needs));
        let ticket = self.wait_task(Kind::Room, bits, deadline, tried).await?;
        held.sent(len);
        Ok(ticket)
    }

    async fn call_async(&self, method: u32, payload: Payload<'_>, deadline: Deadline) -> Result<Message<'_>> {
        // It stays where it is, and its ticket is written there: one that were moved after its request was published would wait
        // in the store buffer behind that.
        let mut replying = Replying::new(self.hold());
        let sent = match payload {
            Payload::Loan(loan) if loan.in_slot() && loan.len() > words::INLINE_REQUEST => {
                let len = loan.len();
                let held = Held { end: self, slot: Some(loan.into_slot(core::ptr::from_ref(self).cast())?) };
                let slot = (held.slot().1, len);
                match self.submit_slot_to(&mut replying, method, slot, deadline) {
                    Err(Error::Full) => {
                        let tried = || self.submit_slot_to(&mut replying, method, slot, deadline);
                        self.wait_task(Kind::Room, FOR_CALL, deadline, tried).await?;
                    }
                    sent => sent?,
                }
                held.sent(len);
                Ok(())
            }
            bytes => {
                let bytes = bytes.as_ref();
                match self.submit_to(&mut replying, method, bytes, deadline) {
                    Err(Error::Full) => {
                        let payload = Payload::Bytes(bytes);
                        self.send_async(Needs::CALL, method, payload, deadline)
                            .await
                            .map(|ticket| *replying.ticket() = ticket)
                    }
                    sent => sent,
                }
            }
        };
        sent?;
        (&mut replying).await
    }

    async fn submit_async(&self, method: u32, payload: Payload<'_>, deadline: Deadline) -> Result<Pending<'_>> {
        let ticket = self.send_async(Needs::CALL, method, payload, deadline).await?;
        Ok(Pending::new(ticket, self.hold()))
    }

    /// The driver of our tasks, which waits by `source`.
    fn driver<R: Readable>(&self, source: R) -> Result<Driver<R>> {
        if self.forked() {
            return Err(Error::Forked);
        }
        Driver::new(self.shared(), source)
    }
}

impl Link {
    /// As [`loan`](Self::loan), for async code. Dropping the future leaves nothing behind; so with all of these.
    ///
    /// # Errors
    /// As [`loan`](Self::loan).
    pub async fn loan_async(&self, len: usize, deadline: impl Into<Deadline>) -> Result<Loan<'_>> {
        self.end.loan_async(len, deadline.into()).await
    }

    /// As [`call`](Self::call), for async code. Dropping the future gives the call up. A [handler](Self::set_handler) is not
    /// used: a task that [receives](Self::recv_async) serves nested calls.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_async<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Message<'_>> {
        self.end.call_async(method, payload.into(), deadline.into()).await
    }

    /// As [`call_as`](Self::call_as), for async code.
    ///
    /// # Errors
    /// As [`call_as`](Self::call_as).
    pub async fn call_as_async<R: AnyBitPattern>(
        &self,
        method: u32,
        value: &impl NoUninit,
        deadline: impl Into<Deadline>,
    ) -> Result<R> {
        self.call_async(method, bytemuck::bytes_of(value), deadline).await?.read()
    }

    /// As [`submit`](Self::submit), for async code: waits for room. The call itself is a future too.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub async fn submit_async<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Pending<'_>> {
        self.end.submit_async(method, payload.into(), deadline.into()).await
    }

    /// As [`send`](Self::send), for async code.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_async<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<()> {
        self.end.send_async(Needs::EVENT, method, payload.into(), deadline.into()).await.map(drop)
    }

    /// As [`recv`](Self::recv), for async code. Of several tasks that wait, the one that has waited longest is next.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn recv_async(&self, deadline: impl Into<Deadline>) -> Result<Request<'_>> {
        let look = || self.end.try_recv().transpose();
        tasks::wait(&*self.end, Kind::Requests, 1, deadline.into(), look).await.map_err(Waited::refusal)?
    }

    /// As [`recv_batch`](Self::recv_batch), for async code. Drop the batch before the next `.await`.
    ///
    /// # Errors
    /// As [`recv_batch`](Self::recv_batch).
    pub async fn recv_batch_async(&self, max: usize, deadline: impl Into<Deadline>) -> Result<Requests<'_>> {
        let deadline = deadline.into();
        let ready = || match self.end.check_ended() {
            Ok(()) => self.end.intake.ready(&self.end.intake_words()).then_some(Ok(())),
            Err(ended) => Some(Err(ended)),
        };
        loop {
            if max > 0 {
                tasks::wait(&*self.end, Kind::Requests, 1, deadline, ready).await.map_err(Waited::refusal)??;
            }
            let mut requests = Requests::new(&self.end, max);
            if requests.fill(false) || max == 0 {
                return Ok(requests);
            }
        }
    }

    /// As [`close`](Self::close), for async code.
    pub async fn close_async(&self, deadline: impl Into<Deadline>) {
        if self.end.forked() {
            return;
        }
        if self.end.begin_close() {
            let drained = || self.end.is_drained().then_some(());
            // Whether it has drained or not: what is under way ends now.
            let _ = tasks::wait(&*self.end, Kind::Drained, 1, deadline.into(), drained).await;
        }
        self.end.end(Ended::ByUs);
    }

    /// How long a poll of a future looks before it is pending, if nobody else waits for this link. 5 us by default; zero where
    /// other tasks of the same thread should not wait so long.
    pub fn set_poll_spin(&self, time: Duration) {
        if !self.end.forked() {
            self.end.tasks().set_poll_spin(time);
        }
    }

    /// The driver of this link's tasks, for a runtime whose reactor watches the link's [descriptor](AsFd): spawn it there. Without
    /// one a thread of ours drives, which all links of the process share.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is a driver already, of yours or ours. [`Error::Forked`].
    pub fn driver<R: Readable>(&self, source: R) -> Result<Driver<R>> {
        self.end.driver(source)
    }

    /// Lets the current tokio runtime drive this link's tasks.
    ///
    /// # Errors
    /// As [`driver`](Self::driver); [`Error::Unsupported`] outside of a runtime; [`Error::Io`].
    ///
    /// # Panics
    /// If the runtime has no I/O driver.
    #[cfg(feature = "tokio")]
    pub fn drive_on_tokio(&self) -> Result<()> {
        if self.end.forked() {
            return Err(Error::Forked);
        }
        tasks::drive_on_tokio(self.end.shared())
    }
}

impl<'a> Batch<'a> {
    /// As [`send`](Self::send), for async code.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_async<'p>(
        &mut self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<()> {
        self.push_async(Needs::EVENT, method, payload.into(), deadline.into()).await.map(drop)
    }

    /// As [`submit`](Self::submit), for async code.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub async fn submit_async<'p>(
        &mut self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Pending<'a>> {
        let ticket = self.push_async(Needs::CALL, method, payload.into(), deadline.into()).await?;
        Ok(Pending::new(ticket, self.end().hold()))
    }

    async fn push_async(
        &mut self,
        needs: Needs,
        method: u32,
        payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Ticket> {
        let end = self.end();
        let payload = match payload {
            Payload::Loan(loan) if loan.in_slot() => Payload::Loan(loan),
            short if short.len() <= words::INLINE_REQUEST => short,
            long => {
                let mut loan = match end.loan(long.len(), None) {
                    Err(Error::Full) => {
                        // What is gathered may be what the other side has to see before it gives slots back.
                        self.flush();
                        end.loan_async(long.len(), deadline).await?
                    }
                    loan => loan?,
                };
                loan.copy_from_slice(long.as_ref());
                Payload::Loan(loan)
            }
        };
        if !self.has_room(needs) {
            end.wait_task(Kind::Room, room_for(needs), deadline, || self.reserve(needs, deadline, false)).await?;
        }
        self.push(needs, method, payload, deadline, false)
    }
}
