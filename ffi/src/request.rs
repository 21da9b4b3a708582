//! Requests: what a callee holds.

use crate::error::{Failure, busway_status};
use crate::message::{borrowed_back, busway_loan, busway_message, copy, deliver, lend};
use crate::object::{At, object};
use crate::{bytes, guard, to_ns};
use busway::Request;
use core::ffi::c_void;

/// Nobody waits for an answer.
pub const BUSWAY_EVENT: u32 = 1;

/// A call to answer, or an event to take note of. An object, as busway_loan is; its payload is as that of busway_message.
///
/// A call is answered once: by busway_request_reply and its kin, or, if it is released, by BUSWAY_REJECTED with
/// BUSWAY_REJECT_UNANSWERED. All of them spend it. Once its link was freed, they answer BUSWAY_CLOSED.
#[repr(C)]
pub struct busway_request {
    /// The payload.
    pub data: *const u8,
    /// Its length in bytes.
    pub len: usize,
    /// Until when the caller waits.
    pub deadline: u64,
    /// Number of the method.
    pub method: u32,
    /// BUSWAY_EVENT, or 0.
    pub flags: u32,
    /// Of the library.
    pub reserved: [u64; 24],
}

object!(busway_request holds Request<'static>, tag 0x4e90,
    spent: "a request that was answered, released, never received, or copied", |this, request| {
    match request {
        Some(request) => {
            (this.data, this.len) = (request.bytes().as_ptr(), request.len());
            this.deadline = to_ns(request.deadline());
            this.method = request.method();
            this.flags = if request.is_event() { BUSWAY_EVENT } else { 0 };
        }
        None => (this.data, this.len) = (core::ptr::null(), 0),
    }
});

/// Puts a request into the caller's object.
#[inline(always)]
pub(crate) fn hand_over(to: &At<busway_request>, lender: u64, request: Request<'_>) {
    // SAFETY: it is only used while the handle of its bus, `lender`, is valid, or it is its own owner.
    let request = unsafe { core::mem::transmute::<Request<'_>, Request<'static>>(request) };
    to.put(lender, request);
    if lender != 0 && !to.contains(to.get().data) {
        to.settle(Request::into_owned);
    }
}

/// Puts requests into the caller's objects, as many as there are of both; `count` counts them.
#[inline(always)]
pub(crate) fn hand_over_all<'a>(
    to: impl Iterator<Item = At<busway_request>>,
    lender: u64,
    requests: impl Iterator<Item = Request<'a>>,
    count: &mut usize,
) {
    for (to, request) in to.zip(requests) {
        hand_over(&to, lender, request);
        *count += 1;
    }
}

/// Answers a call with a copy of `len` bytes at `data`. More than 40 bytes wait for a slot until the caller's deadline; without a deadline
/// they do not wait. On an event it does nothing.
/// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_TOO_LARGE, BUSWAY_FULL, BUSWAY_TIMEOUT, and the caller is told;
/// how the link ended; BUSWAY_STALE_HANDLE, BUSWAY_INVALID.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_request_reply(
    request: *mut busway_request,
    data: *const c_void,
    len: usize,
) -> busway_status {
    guard(|| {
        // SAFETY: the caller's pointers are as the header says, here and in all functions below.
        let (request, bytes) = unsafe { (At::new(request)?, bytes(data, len)?) };
        request.spend(|request| Ok(request.reply(bytes)?))
    })
}

/// Memory for a reply of `len` bytes, to be filled in place and given to busway_request_reply_loan. Waits for a slot until the caller's
/// deadline.
/// Threads: any. Errors: BUSWAY_TOO_LARGE; BUSWAY_TIMEOUT or, if the caller set no deadline, BUSWAY_FULL; how the link ended;
/// BUSWAY_STALE_HANDLE; BUSWAY_BUSY.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_request_loan(
    request: *const busway_request,
    len: usize,
    loan: *mut busway_loan,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (request, to) = unsafe { (At::new(request.cast_mut())?, At::new(loan)?.vacant()?) };
        let borrows = request.lender()? != 0;
        request.peek(|request| lend(&to, request.loan(len)?, borrows.then_some(|| request.loan(0))))
    })
}

/// Answers a call with a loan, which is spent too.
/// Threads, fork, errors: as busway_request_reply; BUSWAY_UNSUPPORTED for a loan of another link, and the caller is told.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_request_reply_loan(
    request: *mut busway_request,
    loan: *mut busway_loan,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe { reply_loan(&At::new(request)?, loan) })
}

/// # Safety
/// As the functions of the header.
#[inline(never)]
pub(crate) unsafe fn reply_loan(request: &At<busway_request>, loan: *mut busway_loan) -> Result<(), Failure> {
    // Before the loan is spent.
    request.lender()?;
    // SAFETY: by this function's contract.
    unsafe { borrowed_back(loan, |payload| request.spend(|request| Ok(request.reply(payload)?))) }
}

/// Refuses a call with a code of your own; the caller gets BUSWAY_REJECTED.
/// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: how the link ended; BUSWAY_STALE_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_request_reject(request: *mut busway_request, code: u32) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe { At::new(request)? }.spend(|request| Ok(request.reject(code)?)))
}

/// Answers that there is no such method; the caller gets BUSWAY_NO_SUCH_METHOD.
/// Threads, fork, errors: as busway_request_reject.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_request_no_such_method(request: *mut busway_request) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe { At::new(request)? }.spend(|request| Ok(request.no_such_method()?)))
}

/// Gives a request back: the end of an event, and a rejection of a call.
/// Threads: any. Fork: does nothing in a forked child. Errors: BUSWAY_STALE_HANDLE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_request_release(request: *mut busway_request) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let request = unsafe { At::new(request)? };
        match request.spend(|request| {
            drop(request);
            Ok(())
        }) {
            // Its link was freed, which has ended it.
            Err(Failure::Bus(busway::Error::Closed)) => Ok(()),
            other => other,
        }
    })
}

/// Calls the other side while a call of its own is being served, and waits until `deadline`: a nested call. It may use the reserve of
/// ring and cells, and does not wait for room.
/// Threads: any. Errors: as busway_link_call; BUSWAY_FULL past the reserve; BUSWAY_UNSUPPORTED on an event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_request_call(
    request: *const busway_request,
    method: u32,
    data: *const c_void,
    len: usize,
    deadline: u64,
    reply: *mut busway_message,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (request, bytes, to) =
            unsafe { (At::new(request.cast_mut())?, bytes(data, len)?, At::new(reply)?.vacant()?) };
        request.peek(|request| {
            deliver(&to, request.call(method, bytes, crate::deadline(deadline))?);
            Ok(())
        })
    })
}

/// Copies `len` bytes of a request's payload, from `offset` on, to `to`, where the other side cannot change them.
/// Threads: any. Errors: BUSWAY_INVALID if they are not all there; BUSWAY_STALE_HANDLE; BUSWAY_CLOSED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_request_copy(
    request: *const busway_request,
    offset: usize,
    to: *mut c_void,
    len: usize,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe { At::new(request.cast_mut())?.peek(|request| copy(request, offset, to, len)) })
}
