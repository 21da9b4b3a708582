//! Taking requests from queues.

use super::member::Seat;
use super::parking::{Kind, Rows};
use super::words::{Body, DEADLINE, INLINE_REQUEST};
use crate::call::{Data, Head, Message, Request, Stop};
use crate::error::{Error, Result, Violation};
use crate::slots::SlotRef;
use crate::slots::owned::Handle;
use crate::sync::{AtomicU32, Ordering, prefetch_read};
use crate::wake::Deadline;

/// Where the next look at several queues begins, so that none of them starves behind a full one.
#[derive(Debug)]
pub(super) struct Turn(AtomicU32);

impl Turn {
    /// Begins with the first.
    pub fn new() -> Self {
        Self(AtomicU32::new(31))
    }
}

impl Seat {
    /// Takes a request from one of these queues, if there is one.
    #[inline(always)]
    pub(super) fn take(&self, queues: Rows, turn: &Turn) -> Option<Request<'_>> {
        if queues.bits.is_power_of_two() {
            return self.take_from(queues.bits.trailing_zeros() as u8);
        }
        let first = turn.0.load(Ordering::Relaxed);
        turn.0.store(first.wrapping_add(1) % 32, Ordering::Relaxed);
        let behind = |queue: &u8| u32::from(*queue) > first;
        let (later, sooner) = (queues.numbers().filter(behind), queues.numbers().filter(|queue| !behind(queue)));
        later.chain(sooner).find_map(|queue| self.take_from(queue))
    }

    #[inline(always)]
    fn take_from(&self, queue: u8) -> Option<Request<'_>> {
        loop {
            // Straight into execution: its user has it at once.
            let slot = self.rings[usize::from(queue)].dequeue(&self.table.straight())?;
            self.freed(Kind::Room, queue);
            if let Some(request) = self.open(slot) {
                return Some(request);
            }
        }
    }

    /// Gives a request that was taken its form.
    #[inline(always)]
    fn open(&self, slot: Handle) -> Option<Request<'_>> {
        let header = self.table.header(slot.index)?;
        let event = header.word().event();
        let Body { words, what: method, length } = header.body.read();
        let (len, deadline) = (length as usize, words[DEADLINE]);
        let call = (!event).then_some(u64::from(slot.generation) << 32 | u64::from(slot.index));
        let head = Head::new(method, call, deadline);
        let data = if len <= INLINE_REQUEST {
            if event {
                // It is copied; who dies from here on has begun it.
                self.end_event(slot);
            }
            Data::inline(words, len)
        } else {
            let (base, size) = self.payload(slot.index);
            if len > size as usize {
                self.violation(Violation::SlotReference);
                // Answers for itself.
                // SAFETY: taken from the queue once, by this thread.
                drop(unsafe { Request::new(head, Message::new(Data::inline([0; 5], 0), self.hold())) });
                if event {
                    self.end_event(slot);
                }
                return None;
            }
            prefetch_read(base, len);
            Data::in_slot(base, len, SlotRef::from_bits(slot.bits()), true)
        };
        self.tally.received(len);
        // SAFETY: taken from the queue once, by this thread.
        Some(unsafe { Request::new(head, Message::new(data, self.hold())) })
    }

    /// Waits for a request until `deadline`.
    #[inline(always)]
    pub(super) fn recv(&self, queues: Rows, turn: &Turn, deadline: Deadline) -> Result<Request<'_>> {
        if self.forked() {
            return Err(Error::Forked);
        }
        self.wait_request(queues, deadline, || self.take(queues, turn)).map_err(Stop::refusal)
    }

    /// Takes a request if one is there.
    #[inline]
    pub(super) fn try_recv(&self, queues: Rows, turn: &Turn) -> Result<Option<Request<'_>>> {
        if self.forked() {
            return Err(Error::Forked);
        }
        let taken = self.take(queues, turn);
        if self.owes() {
            self.pay();
        }
        match taken {
            Some(request) => Ok(Some(request)),
            None => self.stopped(Deadline::NEVER).map(|()| None).map_err(Stop::refusal),
        }
    }
}
