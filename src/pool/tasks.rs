//! Async twins of what blocks: see [`tasks`].

use super::member::Seat;
use super::parking;
use super::sending;
use super::user::{Member, Queue, Requests, Worker};
use super::words::INLINE_REQUEST;
use crate::call::{Loan, Message, Payload, Pending, Request, Stop, Ticket};
use crate::error::{Error, Result};
use crate::slots::owned::{Handle, Progress};
use crate::sync::{Mutex, Ordering, PeerWord};
use crate::tasks::{self, Driven, Driver, Kind, Readable, Tasks, Waited, What, unless_full};
use crate::wake::Deadline;
use bytemuck::{AnyBitPattern, NoUninit};
use core::num::NonZeroU32;
use core::time::Duration;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// The numbers of the bits that are set.
fn numbers(bits: u32) -> impl Iterator<Item = u8> {
    (0..32).filter(move |number| bits >> number & 1 != 0)
}

impl Driven for Seat {
    fn tasks(&self) -> &Tasks {
        self.tasks.get_or_init(|| Box::new(Tasks::new(self.table.count())))
    }

    fn has_reply(&self, place: u32) -> bool {
        let Some(header) = self.table.header(place) else { return true };
        // Nobody but its caller ends this generation.
        let slot = Handle { index: place, generation: header.word().generation() };
        self.table.progress(slot) != Ok(Progress::Pending)
    }

    fn has(&self, kind: Kind, bits: u32) -> u32 {
        let there = |number: &u8| match kind {
            Kind::Requests => !self.rings[usize::from(*number)].is_empty(&self.table),
            // Lengths lag behind, so there may be room if it is another than the last time. They look by themselves too.
            Kind::Room => {
                let len = self.rings[usize::from(*number)].len();
                self.room_seen[usize::from(*number)].swap(len, Ordering::Relaxed) != len
            }
            // What is found goes back, for whoever is woken for it.
            Kind::Slots => self.table.alloc(*number).is_some_and(|slot| self.table.free(slot).is_ok()),
            Kind::Drained => self.under_way() == 0,
        };
        numbers(bits).filter(there).fold(0, |found, number| found | 1 << number)
    }

    fn mark(&self, what: What) {
        let tasks = self.tasks();
        match what {
            What::Reply(place) => {
                self.arm_loop();
                self.park_call(place);
                return;
            }
            What::Line(_) => {}
            What::All => tasks.places().for_each(|place| self.park_call(place)),
        }
        self.park_loop([Kind::Requests, Kind::Room, Kind::Slots].map(|kind| tasks.wanted(kind)));
    }

    fn unmark(&self) {
        self.unpark_loop();
        self.hand_on_unwanted();
    }

    fn take_in(&self) {
        self.take_in_events();
    }

    fn ring_at(&self, at: Deadline) {
        self.ring_loop_at(at.until().unwrap_or(u64::MAX));
    }

    fn stopped(&self, deadline: Deadline) -> Result<(), Stop> {
        Seat::stopped(self, deadline)
    }

    fn patience(&self) -> u64 {
        self.spin.time(&self.cpu, PeerWord::of(&self.unknown_cpu))
    }

    fn learn(&self, paid: bool) {
        if paid { self.spin.paid() } else { self.spin.missed() }
    }

    fn forked(&self) -> bool {
        Seat::forked(self)
    }

    fn events(&self) -> Result<BorrowedFd<'_>> {
        self.descriptor()
    }

    fn left(&self, kind: Kind) {
        if kind == Kind::Requests {
            self.hand_on_unwanted();
        }
    }

    fn shared(&self) -> Arc<dyn Driven> {
        match self.me.upgrade() {
            Some(seat) => seat,
            None => unreachable!("a borrowed seat is alive"),
        }
    }
}

/// A slot of ours that is on its way into a queue; freed if it does not get there.
struct Held<'a> {
    seat: &'a Seat,
    slot: Mutex<Option<Handle>>,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let slot = self.slot.lock().take();
        if let Some(slot) = slot.filter(|_| !Seat::forked(self.seat)) {
            self.seat.free(slot);
        }
    }
}

impl<'a> Held<'a> {
    fn of(seat: &'a Seat, slot: Handle) -> Self {
        Self { seat, slot: Mutex::new(Some(slot)) }
    }

    /// Puts it into the queue.
    fn enqueue(&self, queue: u8, what: sending::What) -> Result<Handle> {
        let mut slot = self.slot.lock();
        let Some(ours) = *slot else { unreachable!("not sent yet") };
        match self.seat.try_enqueue(queue, what, ours) {
            Ok(sent) => {
                *slot = None;
                Ok(sent)
            }
            Err(back) => {
                *slot = Some(back);
                Err(Error::Full)
            }
        }
    }
}

impl Seat {
    /// Hands on what this process was woken for and no task of it waits for.
    fn hand_on_unwanted(&self) {
        if !self.owes() {
            return;
        }
        let unwanted = !self.tasks().wanted(Kind::Requests);
        if let Some(bits) = NonZeroU32::new(self.owes.fetch_and(!unwanted, Ordering::Relaxed) & unwanted) {
            self.hand_on(parking::Rows { kind: parking::Kind::Requests, bits });
        }
    }

    async fn wait_task<R>(
        &self,
        kind: Kind,
        number: u8,
        deadline: Deadline,
        mut tried: impl FnMut() -> Result<R>,
    ) -> Result<R> {
        let look = || unless_full(tried());
        tasks::wait(self, kind, 1 << number, deadline, look).await.map_err(Waited::refusal)?
    }

    async fn loan_async(&self, len: usize, deadline: Deadline) -> Result<Loan<'_>> {
        let class = self.table.class_for(len).map_err(|max| Error::TooLarge { len, max })?;
        self.wait_task(Kind::Slots, class, deadline, || self.loan(len, None)).await
    }

    async fn send_async(
        &self,
        queue: u8,
        what: sending::What,
        method: u32,
        payload: Payload<'_>,
        deadline: Deadline,
    ) -> Result<Handle> {
        self.usable()?;
        let len = payload.len();
        let held = match payload {
            Payload::Loan(loan) if loan.in_slot() && len > INLINE_REQUEST => {
                Held::of(self, super::calls::handle_of(loan.into_slot(core::ptr::from_ref(self).cast())?.1.bits()))
            }
            bytes => {
                let class = self.table.class_for(len).map_err(|max| Error::TooLarge { len, max })?;
                let slot = self.wait_task(Kind::Slots, class, deadline, || self.slot(len, None)).await?;
                self.fill(slot, bytes.as_ref());
                Held::of(self, slot)
            }
        };
        let slot = *held.slot.lock();
        slot.inspect(|slot| self.address(*slot, method, len, deadline));
        let sent = self.wait_task(Kind::Room, queue, deadline, || {
            self.usable()?;
            held.enqueue(queue, what)
        });
        let sent = sent.await?;
        self.published(queue);
        self.tally.sent(len);
        Ok(sent)
    }

    /// Waits until nothing is under way any more, or until `deadline`.
    pub(super) async fn drained(&self, deadline: Deadline) {
        let _ = tasks::wait(self, Kind::Drained, 1, deadline, || (self.under_way() == 0).then_some(())).await;
    }
}

impl Member {
    /// As [`loan`](Self::loan), for async code. Dropping the future leaves nothing behind; so with all of these.
    ///
    /// # Errors
    /// As [`loan`](Self::loan).
    pub async fn loan_async(&self, len: usize, deadline: impl Into<Deadline>) -> Result<Loan<'_>> {
        self.seat.loan_async(len, deadline.into()).await
    }

    /// How long a poll of a future looks before it is pending, if no other task of this process waits for the pool. 5 us by
    /// default; zero where other tasks of the same thread should not wait so long.
    pub fn set_poll_spin(&self, time: Duration) {
        if !self.seat.forked() {
            self.seat.tasks().set_poll_spin(time);
        }
    }

    /// The driver of this member's tasks, for a runtime whose reactor watches its [descriptor](Self::descriptor): spawn it there.
    /// Without one a thread of ours drives, which all pools and links of the process share.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is a driver already, of yours or ours. [`Error::Forked`].
    pub fn driver<R: Readable>(&self, source: R) -> Result<Driver<R>> {
        if self.seat.forked() {
            return Err(Error::Forked);
        }
        Driver::new(self.seat.shared(), source)
    }

    /// Lets the current tokio runtime drive this member's tasks.
    ///
    /// # Errors
    /// As [`driver`](Self::driver); [`Error::Unsupported`] outside of a runtime; [`Error::Io`].
    ///
    /// # Panics
    /// If the runtime has no I/O driver.
    #[cfg(feature = "tokio")]
    pub fn drive_on_tokio(&self) -> Result<()> {
        if self.seat.forked() {
            return Err(Error::Forked);
        }
        tasks::drive_on_tokio(self.seat.shared())
    }
}

impl<'a> Queue<'a> {
    /// As [`call`](Self::call), for async code. Dropping the future gives the call up.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_async<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Message<'a>> {
        self.submit_async(method, payload, deadline).await?.await
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
    ) -> Result<Pending<'a>> {
        let deadline = deadline.into();
        let sent = self.seat.send_async(self.number, sending::What::Call, method, payload.into(), deadline);
        let Handle { index, generation } = sent.await?;
        Ok(Pending::new(Ticket::new(index, generation, None, deadline), self.seat.hold()))
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
        let sent = self.seat.send_async(self.number, sending::What::Event, method, payload.into(), deadline.into());
        sent.await.map(drop)
    }
}

impl<'a> Worker<'a> {
    /// As [`recv`](Self::recv), for async code. Of several tasks that wait, the one that has waited longest is next.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn recv_async(&self, deadline: impl Into<Deadline>) -> Result<Request<'a>> {
        let look = || self.try_recv().transpose();
        tasks::wait(self.seat, Kind::Requests, self.queues.bits.get(), deadline.into(), look)
            .await
            .map_err(Waited::refusal)?
    }

    /// As [`recv_batch`](Self::recv_batch), for async code.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub async fn recv_batch_async(&self, max: usize, deadline: impl Into<Deadline>) -> Result<Requests<'_>> {
        let first = if max == 0 { None } else { Some(self.recv_async(deadline).await?) };
        Ok(Requests { worker: self, first, left: max.saturating_sub(1) })
    }
}

// The kinds of `parking` are those of lines, in the same order.
const _: () = assert!(
    parking::Kind::Requests as u32 == Kind::Requests as u32
        && parking::Kind::Room as u32 == Kind::Room as u32
        && parking::Kind::Slots as u32 == Kind::Slots as u32
);
