//! Loans, messages and pending calls: what a caller holds.

use crate::error::{Failure, busway_status};
use crate::guard;
use crate::object::{At, object};
use busway::{Loan, Message, Payload, Pending};
use core::ffi::c_void;

/// Memory that will travel: write `len` bytes at `data`, make `len` smaller if less is needed, then send it without a copy. The bytes
/// are whatever was there before.
///
/// An object: it lies where the caller has put it, is zeroed before its first use, and is not copied or moved while it holds something.
/// It holds shared memory until it is sent or released, also after its link was freed.
#[repr(C)]
pub struct busway_loan {
    /// Where to write.
    pub data: *mut u8,
    /// How many bytes there are; may be made smaller.
    pub len: usize,
    /// Of the library.
    pub reserved: [u64; 28],
}

/// A payload from the other side, in place. An object, as busway_loan is.
///
/// A process that is not trusted can change the bytes while they are read: copy a value before it is checked, or copy all of it with
/// busway_message_copy. They are valid until the message is released, also after its link was freed.
#[repr(C)]
pub struct busway_message {
    /// The payload.
    pub data: *const u8,
    /// Its length in bytes.
    pub len: usize,
    /// Of the library.
    pub reserved: [u64; 20],
}

/// A call under way. An object, as busway_loan is. It borrows its link: freeing that ends it.
#[repr(C)]
pub struct busway_call {
    /// Until when the reply is waited for.
    pub deadline: u64,
    /// Of the library.
    pub reserved: [u64; 12],
}

/// A loan, and what keeps its memory mapped.
pub(crate) struct Lent {
    loan: Loan<'static>,
    /// A loan of nothing that owns its bus. The loan itself borrows it: giving up a reference between the payload and its
    /// publication would wait for all of the payload's cache lines.
    _keep: Option<Loan<'static>>,
}

object!(busway_loan holds Lent, tag 0x10a9, spent: "a loan that was sent, released, never made, or copied", |this, lent| {
    (this.data, this.len) = match lent {
        Some(lent) => (lent.loan.as_ptr().cast_mut(), lent.loan.len()),
        None => (core::ptr::null_mut(), 0),
    };
});

object!(busway_message holds Message<'static>, tag 0x3e55,
    spent: "a message that was released, never received, or copied", |this, message| {
    (this.data, this.len) = match message {
        Some(message) => (message.bytes().as_ptr(), message.len()),
        None => (core::ptr::null(), 0),
    };
});

object!(busway_call holds Pending<'static>, tag 0xca11,
    spent: "a call that was waited for, given up, never submitted, or copied", |_, _| {});

/// Lends to the caller. `keep` makes a loan of no bytes from the same bus, if the loan does not own that itself.
#[inline(always)]
pub(crate) fn lend<'a>(
    to: &At<busway_loan>,
    loan: Loan<'a>,
    keep: Option<impl FnOnce() -> busway::Result<Loan<'a>>>,
) -> Result<(), Failure> {
    // One that is part of its message holds nothing, and needs its bus for nothing.
    let inside = loan.as_ptr().addr().wrapping_sub(core::ptr::from_ref(&loan).addr()) < size_of::<Loan<'_>>();
    let keep = match keep {
        Some(keep) if !inside => Some(keep()?.into_owned()),
        _ => None,
    };
    // SAFETY: a loan in a slot owns its bus, or has what does beside it; any other one looks at its bus in no way.
    let loan = unsafe { core::mem::transmute::<Loan<'a>, Loan<'static>>(loan) };
    to.put(0, Lent { loan, _keep: keep });
    Ok(())
}

/// Takes a loan out of the caller's object, to be sent.
///
/// # Safety
/// As [`At::new`].
#[inline(always)]
pub(crate) unsafe fn borrowed_back<R>(
    loan: *mut busway_loan,
    send: impl FnOnce(Payload<'static>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    // SAFETY: by this function's contract.
    let at = unsafe { At::new(loan)? };
    let len = at.peek(|lent| {
        let len = at.get().len;
        if len <= lent.loan.len() { Ok(len) } else { Err(Failure::Invalid("a loan can only be made shorter")) }
    })?;
    let Lent { mut loan, _keep } = at.take()?;
    loan.truncate(len);
    send(Payload::Loan(loan))
}

/// Puts a message into the caller's object.
#[inline(always)]
pub(crate) fn deliver(to: &At<busway_message>, message: Message<'_>) {
    // SAFETY: one that came with its payload looks at its bus in no way; the others become their own owners below.
    to.put(0, unsafe { core::mem::transmute::<Message<'_>, Message<'static>>(message) });
    own(to);
}

/// Waits for a reply, which comes into the caller's object.
#[inline(always)]
pub(crate) fn wait_to(to: &At<busway_message>, pending: Pending<'static>) -> Result<(), Failure> {
    // SAFETY: written where there is no error. As above.
    unsafe { to.put_by(0, |to| Ok(pending.wait_to(to)?))? };
    own(to);
    Ok(())
}

/// Makes a message that was put there just now its own owner.
#[inline(always)]
fn own(to: &At<busway_message>) {
    if !to.contains(to.get().data) {
        to.settle(Message::into_owned);
    }
}

/// Puts a pending call into the caller's object.
#[inline(always)]
pub(crate) fn pend(to: &At<busway_call>, lender: u64, deadline: u64, pending: Pending<'_>) {
    // SAFETY: it is only used while the handle of its bus, `lender`, is valid.
    let pending = unsafe { core::mem::transmute::<Pending<'_>, Pending<'static>>(pending) };
    to.put(lender, pending);
    to.set(|call| call.deadline = deadline);
}

/// Copies `len` bytes from `offset` on out of a payload.
///
/// # Safety
/// `to` is null, or valid for writes of `len` bytes.
pub(crate) unsafe fn copy(message: &Message<'_>, offset: usize, to: *mut c_void, len: usize) -> Result<(), Failure> {
    let part = offset.checked_add(len).and_then(|end| message.bytes().get(offset..end));
    let Some(part) = part else { return Err(Failure::Invalid("a range beyond the end of the payload")) };
    if len > 0 {
        if to.is_null() {
            return Err(Failure::Invalid("the target of a copy is NULL"));
        }
        // SAFETY: by this function's contract. Memory of another language's program, so whatever is there is bytes.
        part.copy_to(unsafe { core::slice::from_raw_parts_mut(to.cast(), len) });
    }
    Ok(())
}

/// Gives a loan back unsent.
/// Threads: any. Fork: does nothing in a forked child. Errors: BUSWAY_STALE_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_loan_release(loan: *mut busway_loan) -> busway_status {
    // SAFETY: the caller's pointers are as the header says, here and in all functions below.
    guard(|| unsafe { At::new(loan)? }.take().map(drop))
}

/// Copies `len` bytes of a message, from `offset` on, to `to`, where the other side cannot change them.
/// Threads: any. Errors: BUSWAY_INVALID if they are not all there; BUSWAY_STALE_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_message_copy(
    message: *const busway_message,
    offset: usize,
    to: *mut c_void,
    len: usize,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe { At::new(message.cast_mut())?.peek(|message| copy(message, offset, to, len)) })
}

/// Gives a message back.
/// Threads: any. Fork: does nothing in a forked child. Errors: BUSWAY_STALE_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_message_release(message: *mut busway_message) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe { At::new(message)? }.take().map(drop))
}

/// Gives messages back, as many as there are in the array: those that are spent are left out.
/// Threads: any. Fork: does nothing in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_messages_release(messages: *mut busway_message, count: usize) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let messages = unsafe { At::array(messages, count)? };
        messages.filter(At::is_full).try_for_each(|message| message.take().map(drop))
    })
}

/// Waits for the reply of a call until its deadline. The call is spent, whatever comes of it.
/// Threads: any. Errors: as busway_link_call; BUSWAY_STALE_HANDLE; BUSWAY_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_call_wait(call: *mut busway_call, reply: *mut busway_message) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (call, to) = unsafe { (At::new(call)?, At::new(reply)?.vacant()?) };
        call.spend(|pending| wait_to(&to, pending))
    })
}

/// Whether busway_call_wait would return at once.
/// Threads: any. Errors: BUSWAY_STALE_HANDLE, BUSWAY_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_call_is_ready(call: *const busway_call, ready: *mut bool) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (call, to) = unsafe { (At::new(call.cast_mut())?, crate::out(ready)?) };
        to.write(call.peek(|pending| Ok(pending.is_ready()))?);
        Ok(())
    })
}

/// Gives a call up: a reply that comes later is discarded.
/// Threads: any. Fork: does nothing in a forked child. Errors: BUSWAY_STALE_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_call_release(call: *mut busway_call) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let call = unsafe { At::new(call)? };
        match call.spend(|pending| {
            drop(pending);
            Ok(())
        }) {
            // Its link was freed, which has given it up.
            Err(Failure::Bus(busway::Error::Closed)) => Ok(()),
            other => other,
        }
    })
}
