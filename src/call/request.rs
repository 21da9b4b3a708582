//! A call or an event that arrived.

use super::{Bus, INLINE_REPLY, Loan, Message, Payload, Pending, Refused};
use crate::error::{Error, Result};
use crate::slots::SlotRef;
use crate::slots::arena::SlotId;
use crate::tasks::{self, Kind, Waited, unless_full};
use crate::wake::Deadline;
use bytemuck::{AnyBitPattern, NoUninit};
use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

/// Codes of [`Error::Rejected`] that the bus itself uses. Your own are best kept below them.
pub mod reject {
    /// The request was dropped without an answer.
    pub const UNANSWERED: u32 = u32::MAX;
    /// The call is nested deeper than the other side allows.
    pub const TOO_DEEP: u32 = u32::MAX - 1;
    /// No slot was free for the reply.
    pub const NO_SLOT: u32 = u32::MAX - 2;
}

/// A call to answer, or an event to take note of.
///
/// A call is answered exactly once: by [`reply`](Self::reply) and its kin, or, if the request is dropped, by a rejection that
/// says so ([`reject::UNANSWERED`], or [`Error::HandlerPanicked`] while the thread panics).
pub struct Request<'a> {
    head: Head,
    answered: bool,
    message: Message<'a>,
}

/// The fixed part of a request.
///
/// Three whole words: a message is moved as words, and one that was written in parts would have to leave the store buffer
/// first, behind the reply before it.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The method, and whether it is a call in the upper half.
    what: u64,
    /// Reply cell in the lower half, generation in the upper one.
    call: u64,
    deadline: u64,
}

const IS_CALL: u64 = 1 << 32;

impl Head {
    /// An event, or a call with its number on the wire.
    #[inline(always)]
    pub fn new(method: u32, call: Option<u64>, deadline: u64) -> Self {
        Self { what: u64::from(method) | if call.is_some() { IS_CALL } else { 0 }, call: call.unwrap_or(0), deadline }
    }

    /// The method number.
    #[inline(always)]
    pub fn method(&self) -> u32 {
        self.what as u32
    }

    /// Reply cell and generation; `None` for an event.
    #[inline(always)]
    pub fn call(&self) -> Option<(u32, u32)> {
        (self.what & IS_CALL != 0).then_some((self.call as u32, (self.call >> 32) as u32))
    }

    /// Until when the caller waits.
    #[inline(always)]
    pub fn deadline(&self) -> Deadline {
        Deadline::from_nanos(self.deadline)
    }

    /// How long a reply may wait for a slot: as long as its caller does; but not for ever, because a handler that waits for its
    /// caller's slots might wait for itself.
    #[inline(always)]
    pub fn patience(&self) -> Option<Deadline> {
        (self.deadline != 0).then(|| self.deadline())
    }
}

/// A slot that was found.
struct Found(Option<(NonNull<u8>, SlotId)>);

// SAFETY: it is the future's that found it, wherever that runs.
unsafe impl Send for Found {}

impl<'a> Request<'a> {
    /// # Safety
    /// As [`Message::new`].
    #[inline(always)]
    pub(crate) unsafe fn new(head: Head, message: Message<'a>) -> Self {
        Self { head, answered: head.call().is_none(), message }
    }

    /// The method number.
    #[inline]
    pub fn method(&self) -> u32 {
        self.head.method()
    }

    /// Whether this is an event: nobody waits for an answer.
    pub fn is_event(&self) -> bool {
        self.head.call().is_none()
    }

    /// Until when the caller waits.
    pub fn deadline(&self) -> Deadline {
        self.head.deadline()
    }

    /// The payload. Also by dereferencing: `request.len()`, `request.read::<T>()`.
    pub fn message(&self) -> &Message<'a> {
        &self.message
    }

    /// Memory for a reply, to be filled in place and given to [`reply`](Self::reply). Waits for a slot until the caller's
    /// deadline; a host no longer than its [patience](crate::Config::reply_patience).
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Timeout`] or, if the caller set no deadline, [`Error::Full`] at once, because a handler
    /// that waits for ever for its caller's slots might wait for itself; how the link ended, if it has to wait.
    #[inline(always)]
    pub fn loan(&self, len: usize) -> Result<Loan<'a>> {
        let slot = self.message.hold().loan_reply(len, self.head.patience())?;
        // SAFETY: loaned just now, of this bus, for `len` bytes.
        Ok(unsafe { Loan::new(slot, len, self.message.hold().clone()) })
    }

    /// As [`loan`](Self::loan), for async code. A payload that does not fit the reply itself is best answered with it there, since
    /// [`reply`](Self::reply) with bytes blocks while no slot is free.
    ///
    /// # Errors
    /// As [`loan`](Self::loan).
    pub async fn loan_async(&self, len: usize) -> Result<Loan<'a>> {
        let bus = self.message.hold();
        let slot = match (bus.loan_reply(len, None), self.head.patience()) {
            (Err(Error::Full), Some(deadline)) => {
                let look = || unless_full(bus.loan_reply(len, None).map(Found));
                let found = tasks::wait(&**bus, Kind::Slots, u32::MAX, deadline, look);
                found.await.map_err(Waited::refusal)??.0
            }
            (slot, _) => slot?,
        };
        // SAFETY: loaned just now, of this bus, for `len` bytes.
        Ok(unsafe { Loan::new(slot, len, bus.clone()) })
    }

    /// Answers with a payload: bytes, copied once, or a loan.
    ///
    /// Bytes that do not fit the reply itself (40) wait for a slot, as [`loan`](Self::loan) does; nothing else waits. An answer
    /// to a call that was given up meanwhile is discarded, and this succeeds. On an event it does nothing.
    ///
    /// # Errors
    /// As [`loan`](Self::loan), or [`Error::Unsupported`] for a loan of another link; the caller then gets
    /// [`reject::NO_SLOT`]. How the link ended.
    #[inline(always)]
    pub fn reply<'p>(mut self, payload: impl Into<Payload<'p>>) -> Result<()> {
        match payload.into() {
            Payload::Bytes(bytes) => self.spend(|bus, head, released| bus.answer(head, bytes, released)),
            Payload::Loan(_) if self.answered => Ok(()), // an event; the loan goes back
            Payload::Loan(loan) if loan.len() <= INLINE_REPLY => {
                self.answer(|bus, head, released| bus.answer(head, &loan, released))
            }
            Payload::Loan(loan) => {
                let len = loan.len();
                match loan.into_slot(core::ptr::from_ref(&**self.message.hold()).cast()) {
                    Ok(slot) => self.answer(|bus, head, released| bus.answer_in(head, slot, len, released)),
                    Err(error) => {
                        self.refuse(Refused::Rejected(reject::NO_SLOT))?;
                        Err(error)
                    }
                }
            }
        }
    }

    /// Answers with a copy of `value`, which may wait for a slot as [`reply`](Self::reply) does.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    #[inline]
    pub fn reply_as<T: NoUninit>(self, value: &T) -> Result<()> {
        self.reply(bytemuck::bytes_of(value))
    }

    /// Refuses with a code of your own; the caller gets [`Error::Rejected`].
    ///
    /// # Errors
    /// The link's end.
    pub fn reject(mut self, code: u32) -> Result<()> {
        self.refuse(Refused::Rejected(code))
    }

    /// Answers that there is no such method; the caller gets [`Error::NoSuchMethod`].
    ///
    /// # Errors
    /// The link's end.
    pub fn no_such_method(mut self) -> Result<()> {
        self.refuse(Refused::NoSuchMethod)
    }

    /// Calls the other side while this request is being served: a nested call.
    ///
    /// The caller's own thread, which waits for our answer, may serve it, so this works between single-threaded programs. A
    /// nested call may use the reserve of ring and cells, and does not wait for room: past the reserve it is
    /// [`Error::Full`].
    ///
    /// # Errors
    /// As [`Link::call`](crate::Link::call), and [`Error::Unsupported`] on an event, which has no thread that waits.
    pub fn call<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Message<'_>> {
        self.submit(method, payload.into(), deadline.into())?.wait()
    }

    fn submit(&self, method: u32, payload: Payload<'_>, deadline: Deadline) -> Result<Pending<'_>> {
        let Some((parent, _)) = self.head.call() else {
            return Err(Error::Unsupported { what: "a nested call from an event; use Link::call" });
        };
        let hold = self.message.hold();
        Ok(Pending::new(hold.submit_nested(parent, method, payload, deadline)?, hold.clone()))
    }

    /// As [`call`](Self::call), for async code.
    ///
    /// # Errors
    /// As [`call`](Self::call).
    pub async fn call_async<'p>(
        &self,
        method: u32,
        payload: impl Into<Payload<'p>>,
        deadline: impl Into<Deadline>,
    ) -> Result<Message<'_>> {
        self.submit(method, payload.into(), deadline.into())?.await
    }

    /// A nested call with typed payloads.
    ///
    /// # Errors
    /// As [`call`](Self::call), and [`Error::WrongSize`].
    pub fn call_as<R: AnyBitPattern>(
        &self,
        method: u32,
        value: &impl NoUninit,
        deadline: impl Into<Deadline>,
    ) -> Result<R> {
        self.call(method, bytemuck::bytes_of(value), deadline)?.read()
    }

    /// Independent of what it was borrowed from: it can move to another thread and outlive the link.
    pub fn into_owned(mut self) -> Request<'static> {
        let answered = core::mem::replace(&mut self.answered, true);
        Request { head: self.head, answered, message: self.message.take().into_owned() }
    }

    /// As [`answer`](Self::answer), and nothing is left to drop: a request that is dropped has to be moved to where it can be.
    #[inline(always)]
    fn spend(self, answer: impl FnOnce(&dyn Bus, Head, Option<SlotRef>) -> Result<()>) -> Result<()> {
        let this = ManuallyDrop::new(self);
        // SAFETY: read once, and not dropped where it was.
        let (slot, hold) = unsafe { core::ptr::read(&this.message) }.into_parts();
        if this.answered {
            slot.into_iter().for_each(|slot| hold.release(slot));
            return Ok(());
        }
        answer(&*hold, this.head, slot)
    }

    #[inline(always)]
    fn answer(&mut self, answer: impl FnOnce(&dyn Bus, Head, Option<SlotRef>) -> Result<()>) -> Result<()> {
        if core::mem::replace(&mut self.answered, true) {
            return Ok(());
        }
        // The slot of the request goes back with the answer, which costs the caller no further cache line.
        let released = self.message.take_slot();
        answer(&**self.message.hold(), self.head, released)
    }

    #[inline]
    fn refuse(&mut self, why: Refused) -> Result<()> {
        self.answer(|bus, head, released| bus.refuse(head, why, released))
    }
}

impl<'a> core::ops::Deref for Request<'a> {
    type Target = Message<'a>;

    fn deref(&self) -> &Message<'a> {
        &self.message
    }
}

impl Drop for Request<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.answered {
            let panicking = std::thread::panicking();
            // There is nobody to tell: the link has ended.
            let _ = self.refuse(if panicking { Refused::Panicked } else { Refused::Rejected(reject::UNANSWERED) });
        }
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("head", &self.head).field("message", &self.message).finish()
    }
}

/// Runs a handler; its panic ends the request, which answers for itself, and not the thread.
pub fn guarded(handler: &dyn Fn(Request<'_>), request: Request<'_>) {
    // The panic hook has reported it; a request is unwind-safe because dropping it answers the call.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(request)));
}
