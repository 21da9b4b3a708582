//! What the user's types ask of the bus they came from.

use super::pending::Ticket;
use super::request::Head;
use super::{Data, Payload};
use crate::error::Result;
use crate::slots::SlotRef;
use crate::slots::arena::SlotId;
use crate::tasks::{Caller, Driven};
use crate::wake::Deadline;
use core::fmt;
use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr::NonNull;
use core::task::{Context, Poll};
use std::sync::Arc;

/// The operations behind the user's types, implemented by each topology.
pub trait Bus: Driven {
    /// Gives a received slot back to its owner.
    fn release(&self, slot: SlotRef);
    /// Gives a loaned slot back to the arena it came from.
    fn unloan(&self, slot: SlotId);
    /// A slot of our own for a reply of `len` bytes, if it does not fit the message itself. Without a deadline it does not wait.
    fn loan_reply(&self, len: usize, deadline: Option<Deadline>) -> Result<Option<(NonNull<u8>, SlotId)>>;
    /// Answers a call with a copy of `bytes`. The slot of the request, `released`, goes back with the answer; so below.
    ///
    /// Waits for a slot until the caller's deadline, without one not at all. If there is none, both the caller and whoever
    /// answers are told so; if the call was given up, nobody is, and this succeeds.
    fn answer(&self, head: Head, bytes: &[u8], released: Option<SlotRef>) -> Result<()>;
    /// Answers a call with `len` bytes in a loaned slot.
    fn answer_in(&self, head: Head, slot: (NonNull<u8>, SlotId), len: usize, released: Option<SlotRef>) -> Result<()>;
    /// Answers a call without a payload.
    fn refuse(&self, head: Head, why: Refused, released: Option<SlotRef>) -> Result<()>;
    /// Calls the other side on behalf of a call that is being served. Does not wait for room.
    fn submit_nested(&self, parent: u32, method: u32, payload: Payload<'_>, deadline: Deadline) -> Result<Ticket>;
    /// Waits for the reply of a call until its deadline, and takes it to where it will stay. Written if there is no error.
    fn finish(&self, ticket: &Ticket, to: &mut MaybeUninit<Data>) -> Result<()>;
    /// As `finish`, for a task that waits as `caller`.
    fn poll_finish(
        &self,
        ticket: &Ticket,
        caller: &mut Caller,
        cx: &mut Context<'_>,
        to: &mut MaybeUninit<Data>,
    ) -> Poll<Result<()>>;
    /// Whether `finish` would return at once.
    fn is_finished(&self, ticket: &Ticket) -> bool;
    /// Gives a call up.
    fn give_up(&self, ticket: &Ticket);
    /// The same bus, owned.
    fn to_owned(&self) -> Arc<dyn Bus>;
}

/// How a call ends without a payload.
#[derive(Clone, Copy, Debug)]
pub enum Refused {
    /// With a code.
    Rejected(u32),
    /// The handler panicked.
    Panicked,
    /// There is no such method.
    NoSuchMethod,
}

/// A bus, borrowed or owned.
#[derive(Clone)]
pub enum Hold<'a> {
    /// Costs nothing.
    Borrowed(&'a dyn Bus),
    /// Keeps the memory mapped.
    Owned(Arc<dyn Bus>),
}

impl Hold<'_> {
    /// Independent of the borrow.
    pub fn into_owned(self) -> Hold<'static> {
        match self {
            Hold::Borrowed(bus) => Hold::Owned(bus.to_owned()),
            Hold::Owned(bus) => Hold::Owned(bus),
        }
    }
}

impl<'a> Deref for Hold<'a> {
    type Target = dyn Bus + 'a;

    fn deref(&self) -> &(dyn Bus + 'a) {
        match self {
            Hold::Borrowed(bus) => *bus,
            Hold::Owned(bus) => &**bus,
        }
    }
}

impl fmt::Debug for Hold<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hold::Borrowed(_) => "Borrowed",
            Hold::Owned(_) => "Owned",
        })
    }
}
