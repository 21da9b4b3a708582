//! Many at once: one crossing for a whole batch, and one thread with many calls under way.

use crate::error::{BUSWAY_NO_SUCH_METHOD, BUSWAY_OK, BUSWAY_REJECTED, Failure, busway_status};
use crate::handle;
use crate::link::{Linked, busway_link};
use crate::message::{borrowed_back, busway_call, busway_loan, busway_message, pend, wait_to};
use crate::object::{At, Lender};
use crate::pool::Seated;
use crate::request::{busway_request, hand_over_all, reply_loan};
use crate::{BUSWAY_NOW, array, bytes, check_array, deadline, guard, out};
use busway::pool::Member;
use busway::{Batch, Deadline, Link, Payload, Pending};
use core::ffi::c_void;
use core::time::Duration;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// A request of a batch.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_item {
    /// What to send, copied; not looked at if there is a loan.
    pub data: *const c_void,
    /// Its length in bytes.
    pub len: usize,
    /// A loan to send instead, which is spent; or NULL.
    pub loan: *mut busway_loan,
    /// Number of the method.
    pub method: u32,
    /// 0.
    pub flags: u32,
}

/// An answer of a batch.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_answer {
    /// What to reply, copied; not looked at if there is a loan.
    pub data: *const c_void,
    /// Its length in bytes.
    pub len: usize,
    /// A loan to reply instead, which is spent; or NULL.
    pub loan: *mut busway_loan,
    /// What the caller is to get: BUSWAY_OK and the payload, BUSWAY_REJECTED and the code, or BUSWAY_NO_SUCH_METHOD.
    pub status: busway_status,
    /// Code of a rejection.
    pub code: u32,
}

/// Sends events, published together. Waits for room until `deadline`; BUSWAY_NOW does not wait. `sent` is how many were sent, also if
/// this fails: the first that was not is the one that it is about.
/// Threads, fork, errors: as busway_link_send.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_send_many(
    link: *mut busway_link,
    items: *const busway_item,
    count: usize,
    deadline: u64,
    sent: *mut usize,
) -> busway_status {
    guard(|| {
        // SAFETY: the caller's pointers are as the header says, here and in all functions below.
        let (sent, items) = unsafe { (out(sent)?.write(0), array(items, count)?) };
        handle::with(link, |link: &Linked| {
            let mut batch = link.batch();
            for item in items {
                // SAFETY: as above.
                unsafe {
                    if item.loan.is_null() {
                        send_one(&mut batch, item.method, bytes(item.data, item.len)?.into(), deadline)?;
                    } else {
                        send_loan(&mut batch, item, deadline)?;
                    }
                }
                *sent += 1;
            }
            Ok(())
        })
    })
}

#[inline(always)]
fn send_one(batch: &mut Batch<'_>, method: u32, payload: Payload<'_>, until: u64) -> Result<(), Failure> {
    match until {
        BUSWAY_NOW => batch.try_send(method, payload)?,
        until => batch.send(method, payload, deadline(until))?,
    }
    Ok(())
}

/// Apart, because a loan is not moved through registers: bytes are not to pay for that.
///
/// # Safety
/// As the functions of the header.
#[inline(never)]
unsafe fn send_loan(batch: &mut Batch<'_>, item: &busway_item, until: u64) -> Result<(), Failure> {
    // SAFETY: by this function's contract.
    unsafe { borrowed_back(item.loan, |payload| send_one(batch, item.method, payload, until)) }
}

/// Sends calls, published together, without waiting for their replies: `calls[i]` is that of `items[i]`. Waits for room until
/// `deadline`, which is the calls' too. `submitted` is how many were sent, also if this fails: the first that was not is the one that it is
/// about.
/// Threads, fork, errors: as busway_link_submit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_submit_many(
    link: *mut busway_link,
    items: *const busway_item,
    count: usize,
    deadline: u64,
    calls: *mut busway_call,
    submitted: *mut usize,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe { submit_many(link, items, count, deadline, calls, submitted, true) })
}

/// As busway_link_submit_many, but BUSWAY_FULL at once when there is no room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_try_submit_many(
    link: *mut busway_link,
    items: *const busway_item,
    count: usize,
    deadline: u64,
    calls: *mut busway_call,
    submitted: *mut usize,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe { submit_many(link, items, count, deadline, calls, submitted, false) })
}

/// # Safety
/// As the functions of the header.
#[inline(always)]
unsafe fn submit_many(
    link: *mut busway_link,
    items: *const busway_item,
    count: usize,
    until: u64,
    calls: *mut busway_call,
    submitted: *mut usize,
    wait: bool,
) -> Result<(), Failure> {
    // SAFETY: by this function's contract; there are as many calls as items.
    let (submitted, items, calls) =
        unsafe { (out(submitted)?.write(0), array(items, count)?, At::array(calls, count)?) };
    let lender = link.addr() as u64;
    handle::with(link, |link: &Linked| {
        let mut batch = link.batch();
        for (item, to) in items.iter().zip(calls) {
            let to = to.vacant()?;
            // SAFETY: by this function's contract.
            let pending = unsafe {
                if item.loan.is_null() {
                    submit_one(&mut batch, item.method, bytes(item.data, item.len)?.into(), until, wait)?
                } else {
                    submit_loan(&mut batch, item, until, wait)?
                }
            };
            pend(&to, lender, until, pending);
            *submitted += 1;
        }
        Ok(())
    })
}

#[inline(always)]
fn submit_one<'a>(
    batch: &mut Batch<'a>,
    method: u32,
    payload: Payload<'_>,
    until: u64,
    wait: bool,
) -> Result<Pending<'a>, Failure> {
    let until = deadline(until);
    Ok(if wait { batch.submit(method, payload, until)? } else { batch.try_submit(method, payload, until)? })
}

/// As [`send_loan`].
///
/// # Safety
/// As the functions of the header.
#[inline(never)]
unsafe fn submit_loan<'a>(
    batch: &mut Batch<'a>,
    item: &busway_item,
    until: u64,
    wait: bool,
) -> Result<Pending<'a>, Failure> {
    // SAFETY: by this function's contract.
    unsafe { borrowed_back(item.loan, |payload| submit_one(batch, item.method, payload, until, wait)) }
}

/// Waits for the replies of all these calls, each until its own deadline. `statuses[i]` says what became of `calls[i]`, and `replies[i]`
/// holds its reply if that is BUSWAY_OK. All calls are spent. BUSWAY_OK if all are; else the first that is not.
/// Threads: any. Errors: as busway_call_wait, for each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_calls_wait(
    calls: *mut busway_call,
    count: usize,
    replies: *mut busway_message,
    statuses: *mut busway_status,
) -> busway_status {
    guard(|| {
        // SAFETY: as above; there are as many of each.
        let (calls, replies) = unsafe { (At::array(calls, count)?, At::array(replies, count)?) };
        check_array(statuses, count)?;
        let (mut first, mut lender) = (None, Lender::default());
        for (i, (call, to)) in calls.zip(replies).enumerate() {
            let waited = to.vacant().and_then(|to| call.spend_of(&mut lender, |pending| wait_to(&to, pending)));
            let status = waited.map_or_else(|failure| failed(&mut first, failure), |()| BUSWAY_OK);
            // SAFETY: as above.
            unsafe { statuses.add(i).write(status) };
        }
        first.map_or(Ok(()), Err)
    })
}

/// The status of one of many; the first failure is that of the function.
#[cold]
fn failed(first: &mut Option<Failure>, failure: Failure) -> busway_status {
    let status = failure.status();
    first.get_or_insert(failure);
    status
}

/// Waits until at least one of these calls is done, or until `deadline`; BUSWAY_NOW does not wait. `ready[0]` to `ready[*ready_count - 1]`
/// are the places of those that are; busway_call_wait on them returns at once. Calls that are spent are left out, so that the array may
/// have gaps. There is room in `ready` for `count` places. All calls are of one link or one pool.
/// Threads: counts as the link's event loop, of which there is one at a time. Errors: BUSWAY_WOULD_BLOCK or BUSWAY_TIMEOUT if none is done;
/// BUSWAY_STALE_HANDLE if all are spent; BUSWAY_CLOSED if the link was freed; BUSWAY_INVALID for calls of two.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_calls_poll(
    calls: *const busway_call,
    count: usize,
    deadline: u64,
    ready: *mut u32,
    ready_count: *mut usize,
) -> busway_status {
    guard(|| {
        check_array(ready, count)?;
        // SAFETY: as above.
        let (calls, found) = unsafe { (At::array(calls.cast_mut(), count)?, out(ready_count)?.write(0)) };
        let (mut lender, mut first) = (0, u64::MAX);
        for call in calls.clone().filter(At::is_full) {
            let of = call.lender()?;
            if lender != 0 && of != lender {
                return Err(Failure::Invalid("calls of two links or pools"));
            }
            lender = of;
            first = first.min(call.get().deadline);
        }
        if lender == 0 {
            return Err(Failure::Stale("no call of these is under way"));
        }
        let mut look = || -> Result<bool, Failure> {
            for (i, call) in calls.clone().enumerate() {
                if call.is_full() && call.peek(|pending| Ok(pending.is_ready()))? {
                    // SAFETY: there is room for `count`, each written once.
                    unsafe { ready.add(*found).write(i as u32) };
                    *found += 1;
                }
            }
            Ok(*found > 0)
        };
        let mut wait = |sleep: &dyn Sleeps| {
            if look()? {
                return Ok(());
            }
            if deadline == BUSWAY_NOW {
                return Err(Failure::WouldBlock);
            }
            wait_any(sleep, crate::deadline(deadline), crate::deadline(first.min(deadline)), &mut look)
        };
        let lender = core::ptr::without_provenance::<()>(lender as usize);
        let polled = if handle::is_kind::<Linked>(lender) {
            handle::with(lender, |link: &Linked| wait(link))
        } else {
            handle::with(lender, |pool: &Seated| wait(pool))
        };
        polled.map_err(|failure| match failure {
            Failure::Stale(_) => busway::Error::Closed.into(),
            failure => failure,
        })
    })
}

/// What a thread with many calls under way sleeps on.
trait Sleeps {
    /// `None` where nothing rings.
    fn descriptor(&self) -> Result<Option<BorrowedFd<'_>>, Failure>;
    fn arm(&self) -> Result<(), Failure>;
    fn disarm(&self);
}

impl Sleeps for Linked {
    fn descriptor(&self) -> Result<Option<BorrowedFd<'_>>, Failure> {
        Ok(match self {
            Linked::Pair(_) => None,
            link => Some(link.as_fd()),
        })
    }

    fn arm(&self) -> Result<(), Failure> {
        Link::arm(self);
        Ok(())
    }

    fn disarm(&self) {
        Link::disarm(self);
    }
}

impl Sleeps for Seated {
    fn descriptor(&self) -> Result<Option<BorrowedFd<'_>>, Failure> {
        Ok(Some(Member::descriptor(self)?))
    }

    fn arm(&self) -> Result<(), Failure> {
        Member::arm(self, None)?;
        Ok(())
    }

    fn disarm(&self) {
        Member::disarm(self);
    }
}

/// How long a thread looks before it sleeps: what sleeping and being woken costs.
const SPIN: Duration = Duration::from_micros(20);

/// Sleeps until `look` finds something. One of the calls ends by itself at `first`.
fn wait_any(
    sleep: &dyn Sleeps,
    deadline: Deadline,
    first: Deadline,
    look: &mut impl FnMut() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let begin = Instant::now();
    loop {
        if look()? {
            return Ok(());
        }
        if deadline.has_passed() {
            return Err(busway::Error::Timeout { maybe_executed: true }.into());
        }
        if begin.elapsed() < SPIN {
            core::hint::spin_loop();
            continue;
        }
        let Some(fd) = sleep.descriptor()? else {
            // Inside one process, where nothing rings.
            std::thread::sleep(Duration::from_micros(50));
            continue;
        };
        sleep.arm()?;
        let found = look();
        if matches!(found, Ok(false)) {
            let limit = first
                .remaining()
                .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
            // Interrupted by a signal is like being woken for nothing.
            let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], limit.as_ref());
        }
        sleep.disarm();
        if found? {
            return Ok(());
        }
    }
}

/// Receives requests: waits for the first until `deadline` (BUSWAY_NOW does not wait), then takes what is there, `max` in all, and waits
/// for no more. `count` is how many came.
/// Threads, fork, errors: as busway_link_recv.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_recv_many(
    link: *mut busway_link,
    requests: *mut busway_request,
    max: usize,
    deadline: u64,
    count: *mut usize,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (received, to) = unsafe { (out(count)?.write(0), At::array(requests, max)?) };
        to.clone().try_for_each(|to| to.vacant().map(drop))?;
        let lender = link.addr() as u64;
        handle::with(link, |link: &Linked| {
            match deadline {
                _ if max == 0 => {}
                BUSWAY_NOW => {
                    let first = link.try_recv()?.ok_or(Failure::WouldBlock)?;
                    let more = core::iter::from_fn(|| link.try_recv().ok().flatten());
                    hand_over_all(to, lender, core::iter::once(first).chain(more), received);
                }
                until => hand_over_all(to, lender, link.recv_batch(max, crate::deadline(until))?, received),
            }
            Ok(())
        })
    })
}

/// Answers requests of a link, each with the answer in the same place, with one wake-up. `statuses[i]` says what became of the answer to
/// `requests[i]`; it may be NULL. All requests are spent. BUSWAY_OK if all were answered; else why the first was not.
/// Threads, fork, errors: as busway_request_reply; BUSWAY_INVALID for a request of another link, which is left as it is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_reply_many(
    link: *mut busway_link,
    requests: *mut busway_request,
    answers: *const busway_answer,
    count: usize,
    statuses: *mut busway_status,
) -> busway_status {
    guard(|| {
        // SAFETY: as above; there are as many requests as answers.
        let (requests, answers) = unsafe { (At::array(requests, count)?, array(answers, count)?) };
        let lender = link.addr() as u64;
        handle::with(link, |link: &Linked| {
            // While it lives, replies of this thread share one fence.
            let together = link.recv_batch(0, Deadline::NEVER);
            let mut first = None;
            for (i, (request, answer)) in requests.zip(answers).enumerate() {
                // SAFETY: as above.
                let answered = unsafe { answer_one(&request, lender, answer) };
                let status = answered.map_or_else(|failure| failed(&mut first, failure), |()| BUSWAY_OK);
                if !statuses.is_null() {
                    // SAFETY: as above.
                    unsafe { statuses.add(i).write(status) };
                }
            }
            drop(together);
            first.map_or(Ok(()), Err)
        })
    })
}

/// # Safety
/// The answer's pointers are as the header says, and this thread uses `lender`.
#[inline(always)]
unsafe fn answer_one(request: &At<busway_request>, lender: u64, answer: &busway_answer) -> Result<(), Failure> {
    let of = request.lender()?;
    if of != 0 && of != lender {
        return Err(Failure::Invalid("a request of another link"));
    }
    if answer.status != BUSWAY_OK {
        return refuse_one(request, answer);
    }
    if !answer.loan.is_null() {
        // SAFETY: by this function's contract.
        return unsafe { reply_loan(request, answer.loan) };
    }
    // SAFETY: by this function's contract; full, since it has a lender.
    let (bytes, request) = unsafe { (bytes(answer.data, answer.len)?, request.take_full()) };
    Ok(request.reply(bytes)?)
}

#[cold]
fn refuse_one(request: &At<busway_request>, answer: &busway_answer) -> Result<(), Failure> {
    match answer.status {
        BUSWAY_REJECTED => Ok(request.take()?.reject(answer.code)?),
        BUSWAY_NO_SUCH_METHOD => Ok(request.take()?.no_such_method()?),
        _ => Err(Failure::Invalid("an answer is BUSWAY_OK, BUSWAY_REJECTED or BUSWAY_NO_SUCH_METHOD")),
    }
}
