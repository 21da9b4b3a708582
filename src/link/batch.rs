//! A batch of requests, which leave together: every lock taken after a publication waits for its cache line to arrive.

use super::end::End;
use super::intake::Taken;
use super::sending::{CellOf, GATHER, Needs};
use super::words::{self, Body, entry};
use crate::call::{Bus, Payload, Pending, Ticket};
use crate::error::{Error, Result};
use crate::slots::arena::SlotId;
use crate::wake::Deadline;

/// Sends many requests with one lock and one wake-up. See [`Link::batch`](crate::Link::batch).
///
/// Requests are gathered and leave together: when 32 are, at [`flush`](Self::flush), when one has to wait for room, or when
/// the batch is dropped. A call can be waited for once it has left.
///
/// ```
/// # use busway::{Config, Deadline, Link};
/// # let (host, plugin) = Link::pair(&Config::default())?;
/// let mut batch = host.batch();
/// for n in 0..10u64 {
///     batch.send(1, &n.to_le_bytes(), Deadline::NEVER)?;
/// }
/// drop(batch);
/// assert_eq!(plugin.recv_batch(64, Deadline::NEVER)?.count(), 10);
/// # Ok::<(), busway::Error>(())
/// ```
pub struct Batch<'a> {
    end: &'a End,
    gathered: [Taken; GATHER],
    len: usize,
    bytes: u64,
    /// Entries of the ring that are kept for this batch, `len` of them for what is gathered.
    reserved: u32,
    /// Reply cells for the next calls, the last ones first.
    cells: [CellOf; GATHER],
    cells_left: usize,
}

impl<'a> Batch<'a> {
    pub(super) fn new(end: &'a End) -> Self {
        Self {
            end,
            gathered: [Default::default(); GATHER],
            len: 0,
            bytes: 0,
            reserved: 0,
            cells: [(0, 0); GATHER],
            cells_left: 0,
        }
    }

    /// As [`Link::send`](crate::Link::send).
    ///
    /// # Errors
    /// As [`Link::send`](crate::Link::send).
    #[inline]
    pub fn send<'p>(
        &mut self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<()> {
        self.push(Needs::EVENT, method, payload.into(), deadline.into(), true).map(drop)
    }

    /// As [`Link::try_send`](crate::Link::try_send).
    ///
    /// # Errors
    /// As [`Link::try_send`](crate::Link::try_send).
    #[inline]
    pub fn try_send<'p>(&mut self, method: u32, payload: impl Into<Payload<'p>>) -> Result<()> {
        self.push(Needs::EVENT, method, payload.into(), Deadline::NEVER, false).map(drop)
    }

    /// As [`Link::submit`](crate::Link::submit). Waiting for the call before it has left is [`Error::Unsupported`].
    ///
    /// # Errors
    /// As [`Link::submit`](crate::Link::submit).
    #[inline(always)]
    pub fn submit<'p>(
        &mut self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Pending<'a>> {
        let ticket = self.push(Needs::CALL, method, payload.into(), deadline.into(), true)?;
        Ok(Pending::new(ticket, self.end.hold()))
    }

    /// As [`Link::try_submit`](crate::Link::try_submit). Waiting for the call before it has left is [`Error::Unsupported`].
    ///
    /// # Errors
    /// As [`Link::try_submit`](crate::Link::try_submit).
    #[inline]
    pub fn try_submit<'p>(
        &mut self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Pending<'a>> {
        let ticket = self.push(Needs::CALL, method, payload.into(), deadline.into(), false)?;
        Ok(Pending::new(ticket, self.end.hold()))
    }

    /// Publishes what was gathered and wakes the other side if it sleeps. Does not wait: the room is there.
    pub fn flush(&mut self) {
        if self.reserved == 0 || self.end.forked() {
            return;
        }
        let end = self.end;
        let mut tx = end.tx.lock();
        let gathered = &self.gathered[..self.len];
        let first = tx.ring.next();
        for (ahead, message) in (0..).zip(gathered) {
            if message.tag as u8 == entry::CALL {
                let call = message.value.call;
                end.calls.sent(call as u32, (call >> 32) as u32, first.wrapping_add(ahead));
            }
        }
        tx.ring.publish_all(gathered);
        end.uncork(&mut tx);
        tx.sent += gathered.len() as u64;
        tx.sent_bytes += self.bytes;
        tx.reserved -= self.reserved;
        for (cell, _) in self.cells[..self.cells_left].iter() {
            end.calls.put(&mut tx.cells, *cell);
        }
        drop(tx);
        if self.len > 0 {
            end.notify(true, false);
        }
        (self.len, self.bytes, self.reserved, self.cells_left) = (0, 0, 0, 0);
    }

    #[inline(always)]
    pub(super) fn push(
        &mut self,
        needs: Needs,
        method: u32,
        payload: Payload<'_>,
        deadline: Deadline,
        wait: bool,
    ) -> Result<Ticket> {
        if payload.is_slot(words::INLINE_REQUEST) {
            return self.push_slot(needs, method, payload, deadline, wait);
        }
        let bytes = payload.as_ref();
        if bytes.len() > words::INLINE_REQUEST {
            return self.push_long(needs, method, bytes, deadline, wait);
        }
        self.gather(needs, method, bytes.len(), deadline, wait, End::carry_bytes(bytes))
    }

    fn push_slot(
        &mut self,
        needs: Needs,
        method: u32,
        payload: Payload<'_>,
        deadline: Deadline,
        wait: bool,
    ) -> Result<Ticket> {
        let (end, len) = (self.end, payload.len());
        let (_, slot) = payload.into_slot(core::ptr::from_ref(end).cast())?;
        let carry = end.carry_slot(slot, len, needs);
        self.gather(needs, method, len, deadline, wait, carry).inspect_err(|_| end.unloan(slot))
    }

    fn push_long(&mut self, needs: Needs, method: u32, bytes: &[u8], deadline: Deadline, wait: bool) -> Result<Ticket> {
        let end = self.end;
        end.usable(false)?;
        let slot = match end.slot(bytes.len(), None) {
            Err(Error::Full) => {
                // What is gathered may be what the other side has to see before it gives slots back.
                self.flush();
                end.slot(bytes.len(), wait.then_some(deadline))?
            }
            other => other?,
        };
        let carry = end.carry_copy(slot, bytes, needs);
        self.gather(needs, method, bytes.len(), deadline, wait, carry).inspect_err(|_| end.unloan(slot.1))
    }

    #[inline(always)]
    fn gather(
        &mut self,
        needs: Needs,
        method: u32,
        len: usize,
        deadline: Deadline,
        wait: bool,
        carry: impl FnOnce(&mut Body) -> Option<SlotId>,
    ) -> Result<Ticket> {
        if self.end.doubtful() {
            self.end.usable(false)?;
        }
        if !self.has_room(needs) {
            self.reserve(needs, deadline, wait)?;
        }
        let cell = (needs.kind == entry::CALL).then(|| {
            self.cells_left -= 1;
            self.cells[self.cells_left]
        });
        let message = &mut self.gathered[self.len];
        message.value.method = method;
        let mut ticket = Ticket::NONE;
        message.tag = End::commit(&mut message.value, needs, cell, deadline, &mut ticket, carry);
        self.bytes += len as u64;
        self.len += 1;
        if self.len == GATHER {
            self.flush();
        }
        Ok(ticket)
    }

    pub(super) fn end(&self) -> &'a End {
        self.end
    }

    /// Whether there is an entry for one more request and, for a call, a cell.
    #[inline(always)]
    pub(super) fn has_room(&self, needs: Needs) -> bool {
        self.reserved as usize > self.len && (needs.kind != entry::CALL || self.cells_left > 0)
    }

    /// Makes sure of an entry for one more request and, for a call, of a cell; and of more, as far as there are, so that the
    /// next ones need no lock.
    #[cold]
    pub(super) fn reserve(&mut self, needs: Needs, deadline: Deadline, wait: bool) -> Result<()> {
        let end = self.end;
        end.usable(false)?;
        let mut cell = None;
        let mut tx = match end.lock_with_room(needs, deadline, false, &mut cell) {
            Err(Error::Full) => {
                self.flush();
                end.lock_with_room(needs, deadline, wait, &mut cell)?
            }
            other => other?,
        };
        let want = (GATHER - self.len) as u32;
        if self.reserved as usize == self.len {
            let taken = end.ours.entries.count() / 8 + tx.reserved;
            // At least the one that was just found.
            let more = tx.ring.room(taken + want).map_or(1, |room| room.saturating_sub(taken)).clamp(1, want);
            tx.reserved += more;
            self.reserved += more;
            if self.len == 0 {
                tx.ring.prefetch(more);
            }
        }
        while let Some(taken) = cell.take() {
            self.cells[self.cells_left] = taken;
            self.cells_left += 1;
            if self.cells_left < want as usize {
                cell = end.calls.take(&mut tx.cells, end.theirs.cells.count() / 8);
            }
        }
        Ok(())
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

impl core::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Batch").field("gathered", &self.len).finish_non_exhaustive()
    }
}
