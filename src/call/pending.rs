//! A call that was sent.

use super::{Hold, Message};
use crate::error::Result;
use crate::slots::arena::SlotId;
use crate::wake::Deadline;

/// A call under way. Dropping it gives the call up, as its deadline does: a reply that comes later is discarded.
#[derive(Debug)]
#[must_use = "dropping a pending call gives it up"]
pub struct Pending<'a> {
    ticket: Option<Ticket>,
    hold: Hold<'a>,
}

/// What the bus knows a call under way by.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// Reply cell and generation.
    pub cell: u32,
    pub generation: u32,
    /// The request's slot, if it has one.
    pub slot: Option<SlotId>,
    pub deadline: Deadline,
}

impl<'a> Pending<'a> {
    pub(crate) fn new(ticket: Ticket, hold: Hold<'a>) -> Self {
        Self { ticket: Some(ticket), hold }
    }

    /// Waits for the reply until the call's deadline.
    ///
    /// # Errors
    /// As [`Link::call`](crate::Link::call).
    pub fn wait(mut self) -> Result<Message<'a>> {
        let Some(ticket) = self.ticket.take() else { unreachable!("a finished call cannot be waited for") };
        let data = self.hold.finish(&ticket)?;
        // SAFETY: received over this bus, and nobody else has it.
        Ok(unsafe { Message::new(data, self.hold.clone()) })
    }

    /// Whether waiting would return at once. Never blocks.
    pub fn is_ready(&self) -> bool {
        self.ticket.as_ref().is_none_or(|ticket| self.hold.is_finished(ticket))
    }

    /// Independent of what it was borrowed from.
    pub fn into_owned(mut self) -> Pending<'static> {
        Pending { ticket: self.ticket.take(), hold: self.hold.clone().into_owned() }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.hold.give_up(&ticket);
        }
    }
}
