//! A call that was sent.

use super::{Hold, Message};
use crate::error::Result;
use crate::slots::arena::SlotId;
use crate::tasks::Caller;
use crate::wake::Deadline;
use core::mem::{ManuallyDrop, MaybeUninit};
use core::pin::Pin;
use core::task::{Context, Poll, ready};

/// A call under way. Dropping it gives the call up, as its deadline does: a reply that comes later is discarded.
#[derive(Debug)]
#[must_use = "dropping a pending call gives it up"]
pub struct Pending<'a> {
    /// [`Ticket::NONE`] once it was waited for.
    ticket: Ticket,
    hold: Hold<'a>,
}

/// What the bus knows a call under way by: three whole words, like all that moves with every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// As on the wire: the reply cell in the lower half, the generation in the upper one.
    call: u64,
    /// The request's slot, if it has one.
    pub slot: Option<SlotId>,
    pub deadline: Deadline,
}

impl Ticket {
    /// That of no call.
    pub const NONE: Ticket = Ticket { call: u64::MAX, slot: None, deadline: Deadline::NEVER };

    /// The ticket of a call that is answered in `cell`.
    #[inline(always)]
    pub fn new(cell: u32, generation: u32, slot: Option<SlotId>, deadline: Deadline) -> Self {
        Self { call: u64::from(generation) << 32 | u64::from(cell), slot, deadline }
    }

    /// The reply cell.
    #[inline(always)]
    pub fn cell(&self) -> u32 {
        self.call as u32
    }

    /// The generation of the call.
    #[inline(always)]
    pub fn generation(&self) -> u32 {
        (self.call >> 32) as u32
    }
}

impl<'a> Pending<'a> {
    pub(crate) fn new(ticket: Ticket, hold: Hold<'a>) -> Self {
        Self { ticket, hold }
    }

    /// Waits for the reply until the call's deadline.
    ///
    /// # Errors
    /// As [`Link::call`](crate::Link::call).
    #[inline(always)]
    pub fn wait(self) -> Result<Message<'a>> {
        let (ticket, hold) = self.into_parts();
        let mut data = MaybeUninit::uninit();
        hold.finish(&ticket, &mut data)?;
        // SAFETY: received over this bus, and nobody else has it; written where `finish` succeeds.
        Ok(unsafe { Message::new(data.assume_init(), hold) })
    }

    /// As [`wait`](Self::wait), to where the reply will stay: it is moved no more. Written if there is no error.
    ///
    /// ```
    /// # use busway::{Config, Deadline, Link};
    /// # let (host, plugin) = Link::pair(&Config::default())?;
    /// let mut replies = [const { std::mem::MaybeUninit::uninit() }; 2];
    /// let calls = [host.submit(1, b"", Deadline::NEVER)?, host.submit(1, b"", Deadline::NEVER)?];
    /// # for _ in 0..2 { plugin.recv(Deadline::NEVER)?.reply(b"done")?; }
    /// for (call, to) in calls.into_iter().zip(&mut replies) {
    ///     call.wait_to(to)?;
    /// }
    /// // SAFETY: written, since there was no error.
    /// let replies = replies.map(|reply| unsafe { reply.assume_init() });
    /// assert_eq!(replies[1].to_vec(), b"done");
    /// # Ok::<(), busway::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    #[inline(always)]
    pub fn wait_to(self, to: &mut MaybeUninit<Message<'a>>) -> Result<()> {
        let (ticket, hold) = self.into_parts();
        let (data, its_hold) = Message::parts(to);
        hold.finish(&ticket, data)?;
        its_hold.write(hold);
        Ok(())
    }

    /// Takes it apart, without giving it up.
    #[inline(always)]
    fn into_parts(self) -> (Ticket, Hold<'a>) {
        let this = ManuallyDrop::new(self);
        // SAFETY: read once, and not dropped where it was.
        (this.ticket, unsafe { core::ptr::read(&this.hold) })
    }

    /// Whether waiting would return at once. Never blocks.
    pub fn is_ready(&self) -> bool {
        self.hold.is_finished(&self.ticket)
    }

    /// Independent of what it was borrowed from.
    pub fn into_owned(self) -> Pending<'static> {
        let (ticket, hold) = self.into_parts();
        Pending { ticket, hold: hold.into_owned() }
    }
}

impl<'a> IntoFuture for Pending<'a> {
    type Output = Result<Message<'a>>;
    type IntoFuture = Replying<'a>;

    /// Waits for the reply in async code, until the call's deadline.
    #[inline]
    fn into_future(self) -> Replying<'a> {
        Replying { caller: Caller::default(), pending: self }
    }
}

/// A call under way that is waited for in async code. Dropping it gives the call up.
#[derive(Debug)]
#[must_use = "dropping a pending call gives it up"]
pub struct Replying<'a> {
    caller: Caller,
    pending: Pending<'a>,
}

impl<'a> Replying<'a> {
    /// Not sent yet.
    #[inline(always)]
    pub(crate) fn new(hold: Hold<'a>) -> Self {
        Self { caller: Caller::default(), pending: Pending::new(Ticket::NONE, hold) }
    }

    /// Where the ticket goes when it is sent.
    #[inline(always)]
    pub(crate) fn ticket(&mut self) -> &mut Ticket {
        &mut self.pending.ticket
    }

    /// It was published just now, and the first poll tells the other side.
    #[inline(always)]
    pub(crate) fn untold(&mut self) {
        self.caller = Caller::untold();
    }
}

impl<'a> Future for Replying<'a> {
    type Output = Result<Message<'a>>;

    /// # Panics
    /// After it was ready.
    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { caller, pending } = self.get_mut();
        assert!(pending.ticket.call != Ticket::NONE.call, "polled after it was ready");
        let mut data = MaybeUninit::uninit();
        let finished = ready!(pending.hold.poll_finish(&pending.ticket, caller, cx, &mut data));
        pending.ticket = Ticket::NONE;
        // SAFETY: received over this bus, and nobody else has it; written where `poll_finish` succeeds.
        Poll::Ready(finished.map(|()| unsafe { Message::new(data.assume_init(), pending.hold.clone()) }))
    }
}

impl Drop for Replying<'_> {
    #[inline]
    fn drop(&mut self) {
        let Pending { ticket, hold } = &self.pending;
        // Before the call is given up: its place may be another call's then.
        if ticket.call != Ticket::NONE.call && !hold.forked() {
            self.caller.leave(&**hold, ticket.cell());
        }
    }
}

impl Drop for Pending<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.ticket.call != Ticket::NONE.call {
            self.hold.give_up(&self.ticket);
        }
    }
}
