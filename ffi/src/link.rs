//! Links.

use crate::error::{Failure, busway_status};
use crate::handle::{self, Held};
use crate::host::busway_credentials;
use crate::message::{borrowed_back, busway_call, busway_loan, busway_message, deliver, lend, pend};
use crate::object::At;
use crate::options;
use crate::request::{busway_request, hand_over};
use crate::{BUSWAY_NOW, ask, await_one, bytes, deadline, guard, out};
use busway::{Deadline, Link, Payload, Process};
use core::ffi::c_void;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

/// One end of a link: calls and events to the other process, requests from it. Many threads may use it at once; blocking functions
/// spin a little, then park.
pub struct busway_link;

/// What a link's handle names.
pub(crate) enum Linked {
    Link(Link),
    /// Of a child that was spawned.
    Process(Process),
    /// Inside one process, without a descriptor.
    Pair(Link),
}

impl core::ops::Deref for Linked {
    type Target = Link;

    #[inline(always)]
    fn deref(&self) -> &Link {
        match self {
            Linked::Link(link) | Linked::Pair(link) => link,
            Linked::Process(process) => process,
        }
    }
}

impl Held for Linked {
    const KIND: u64 = 4;
    const NOT: &'static str = "no link, or one that was freed";

    fn end(&self) {
        self.close(Deadline::from_nanos(1));
    }
}

impl Linked {
    fn fd(&self) -> Result<i32, Failure> {
        match self {
            Linked::Pair(_) => {
                Err(busway::Error::Unsupported { what: "the descriptor of a link inside one process" }.into())
            }
            link => Ok(link.as_fd().as_raw_fd()),
        }
    }

    fn process(&self) -> Result<&Process, Failure> {
        match self {
            Linked::Process(process) => Ok(process),
            _ => Err(busway::Error::Unsupported { what: "a link whose process was not spawned here" }.into()),
        }
    }
}

/// Loans memory for a payload of `len` bytes. Waits for a free slot until `deadline`; BUSWAY_NOW does not wait.
/// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_TOO_LARGE; BUSWAY_FULL or BUSWAY_TIMEOUT; how the link ended;
/// BUSWAY_BUSY if `loan` holds something.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_loan(
    link: *mut busway_link,
    len: usize,
    deadline: u64,
    loan: *mut busway_loan,
) -> busway_status {
    guard(|| {
        // SAFETY: the caller's pointers are as the header says, here and in all functions below.
        let to = unsafe { At::new(loan)?.vacant()? };
        handle::with(link, |link: &Linked| {
            let loan = match deadline {
                BUSWAY_NOW => link.try_loan(len),
                deadline => link.loan(len, crate::deadline(deadline)),
            };
            lend(&to, loan?, Some(|| link.try_loan(0)))
        })
    })
}

/// Calls `method` on the other side with a copy of `len` bytes at `data`, and waits for the reply until `deadline`, which the other side
/// can see. Waits for room too.
/// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_TIMEOUT: the call is given up. BUSWAY_PEER_DIED, BUSWAY_CANCELLED,
/// BUSWAY_CLOSED, BUSWAY_POISONED: the link has ended. BUSWAY_REJECTED, BUSWAY_HANDLER_PANICKED, BUSWAY_NO_SUCH_METHOD: what the other side
/// answered. BUSWAY_TOO_LARGE. BUSWAY_BUSY if `reply` holds something.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_call(
    link: *mut busway_link,
    method: u32,
    data: *const c_void,
    len: usize,
    deadline: u64,
    reply: *mut busway_message,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (bytes, to) = unsafe { (bytes(data, len)?, At::new(reply)?.vacant()?) };
        handle::with(link, |link: &Linked| {
            deliver(&to, link.call(method, bytes, crate::deadline(deadline))?);
            Ok(())
        })
    })
}

/// As busway_link_call, with a loan in place of bytes; it is spent, whatever comes of the call.
/// Errors: as busway_link_call; BUSWAY_UNSUPPORTED for a loan of another link.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_call_loan(
    link: *mut busway_link,
    method: u32,
    loan: *mut busway_loan,
    deadline: u64,
    reply: *mut busway_message,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { At::new(reply)?.vacant()? };
        let call = |link: &Linked, payload: Payload<'_>| {
            deliver(&to, link.call(method, payload, crate::deadline(deadline))?);
            Ok(())
        };
        // SAFETY: as above.
        handle::with(link, |link: &Linked| unsafe { borrowed_back(loan, |payload| call(link, payload)) })
    })
}

/// Sends an event with a copy of `len` bytes at `data`: one way, no reply. Waits for room until `deadline`; BUSWAY_NOW does not wait.
/// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_FULL or BUSWAY_TIMEOUT, BUSWAY_TOO_LARGE, how the link ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_send(
    link: *mut busway_link,
    method: u32,
    data: *const c_void,
    len: usize,
    deadline: u64,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let bytes = unsafe { bytes(data, len)? };
        handle::with(link, |link: &Linked| send(link, method, bytes.into(), deadline))
    })
}

/// As busway_link_send, with a loan in place of bytes; it is spent, whatever comes of it.
/// Errors: as busway_link_send; BUSWAY_UNSUPPORTED for a loan of another link.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_send_loan(
    link: *mut busway_link,
    method: u32,
    loan: *mut busway_loan,
    deadline: u64,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        handle::with(link, |link: &Linked| unsafe {
            borrowed_back(loan, |payload| send(link, method, payload, deadline))
        })
    })
}

#[inline(always)]
fn send(link: &Link, method: u32, payload: Payload<'_>, until: u64) -> Result<(), Failure> {
    match until {
        BUSWAY_NOW => link.try_send(method, payload)?,
        until => link.send(method, payload, deadline(until))?,
    }
    Ok(())
}

/// Sends a call without waiting for its reply. Waits for room until `deadline`, which is the call's too.
///
/// A thread that holds many calls may wait for room that only its own calls can give back. It then had better use
/// busway_link_try_submit: on BUSWAY_FULL take in a reply, and try again.
/// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: as busway_link_call, for what can go wrong before the reply.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_submit(
    link: *mut busway_link,
    method: u32,
    data: *const c_void,
    len: usize,
    deadline: u64,
    call: *mut busway_call,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let bytes = unsafe { bytes(data, len)? };
        // SAFETY: as above.
        unsafe { submit(link, call, deadline, |link, until| Ok(link.submit(method, bytes, until)?)) }
    })
}

/// As busway_link_submit, but BUSWAY_FULL at once if there is no room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_try_submit(
    link: *mut busway_link,
    method: u32,
    data: *const c_void,
    len: usize,
    deadline: u64,
    call: *mut busway_call,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let bytes = unsafe { bytes(data, len)? };
        // SAFETY: as above.
        unsafe { submit(link, call, deadline, |link, until| Ok(link.try_submit(method, bytes, until)?)) }
    })
}

/// As busway_link_submit, with a loan in place of bytes; it is spent, whatever comes of it.
/// Errors: as busway_link_submit; BUSWAY_UNSUPPORTED for a loan of another link.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_submit_loan(
    link: *mut busway_link,
    method: u32,
    loan: *mut busway_loan,
    deadline: u64,
    call: *mut busway_call,
) -> busway_status {
    // SAFETY: as above.
    guard(|| unsafe {
        submit(link, call, deadline, |link, until| {
            borrowed_back(loan, |payload| Ok(link.submit(method, payload, until)?))
        })
    })
}

/// # Safety
/// As the functions of the header.
#[inline(always)]
unsafe fn submit(
    link: *mut busway_link,
    call: *mut busway_call,
    until: u64,
    submit: impl for<'a> FnOnce(&'a Link, Deadline) -> Result<busway::Pending<'a>, Failure>,
) -> Result<(), Failure> {
    // SAFETY: by this function's contract.
    let to = unsafe { At::new(call)?.vacant()? };
    let lender = link.addr() as u64;
    handle::with(link, |link: &Linked| {
        pend(&to, lender, until, submit(link, deadline(until))?);
        Ok(())
    })
}

/// Receives the next request, whatever its method. Waits until `deadline`; BUSWAY_NOW does not wait.
/// Threads: any, many at once. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_WOULD_BLOCK or BUSWAY_TIMEOUT; how the link ended:
/// BUSWAY_CLOSED, BUSWAY_PEER_DIED, BUSWAY_POISONED. Events sent before the end are received first. BUSWAY_BUSY if `request` holds
/// something.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_recv(
    link: *mut busway_link,
    deadline: u64,
    request: *mut busway_request,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { At::new(request)?.vacant()? };
        let lender = link.addr() as u64;
        handle::with(link, |link: &Linked| {
            let request = await_one(deadline, || link.try_recv(), |until| link.recv(until))?;
            hand_over(&to, lender, request);
            Ok(())
        })
    })
}

/// Closes a link in order: sends nothing new, lets calls of both sides finish and what was sent be taken until `deadline`, then ends.
/// Calls that are still under way end as BUSWAY_CANCELLED, everything later as BUSWAY_CLOSED, on both sides; every waiting thread
/// wakes. The handle stays valid until busway_link_free.
/// Threads: any. Fork: does nothing in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_close(link: *mut busway_link, deadline: u64) -> busway_status {
    guard(|| {
        handle::with(link, |link: &Linked| {
            link.close(crate::deadline(deadline));
            Ok(())
        })
    })
}

/// Closes a link at once and frees it. Threads that wait on it wake with BUSWAY_CLOSED or BUSWAY_CANCELLED, and this waits until none is
/// inside a function with it. Loans, messages and requests that hold shared memory keep it until they are released. A process that was
/// spawned gets a second to exit by itself, is killed if it does not, and reaped.
/// Threads: any; one frees. Fork: in a forked child the handle becomes invalid, and nothing else happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_free(link: *mut busway_link) -> busway_status {
    guard(|| handle::free::<Linked, _>(link))
}

/// Closes the link of a process that was spawned in order and waits for the process to exit, all until `deadline`; then kills it, and frees
/// the link. Once the link has closed it has a second to exit in any case. `exit_status` is how it ended, as waitpid has it; it may be NULL.
/// Threads: any; one frees. Errors: BUSWAY_UNSUPPORTED if its process was not spawned here; BUSWAY_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_shut_down(
    link: *mut busway_link,
    deadline: u64,
    exit_status: *mut i32,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = if exit_status.is_null() { None } else { Some(unsafe { out(exit_status)? }) };
        handle::with(link, |link: &Linked| link.process().map(drop))?;
        let until = crate::deadline(deadline);
        let linked = handle::retire(link, |link: &Linked| link.close(until))?;
        let Some(Linked::Process(process)) = linked.and_then(Arc::into_inner) else {
            return Err(busway::Error::Forked.into());
        };
        let status = process.shut_down(until)?;
        if let Some(to) = to {
            to.write(status.into_raw());
        }
        Ok(())
    })
}

/// Process id of a child that was spawned.
/// Errors: BUSWAY_UNSUPPORTED if the link's process was not spawned here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_pid(link: *mut busway_link, pid: *mut u32) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(link, pid, |link: &Linked| Ok(link.process()?.id())) }
}

/// Kills a child that was spawned, at once. Calls under way end as BUSWAY_PEER_DIED.
/// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_UNSUPPORTED if the link's process was not spawned here; BUSWAY_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_kill(link: *mut busway_link) -> busway_status {
    guard(|| handle::with(link, |link: &Linked| Ok(link.process()?.kill()?)))
}

/// Whether the link has ended, by closing, death or a violation.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_is_closed(link: *mut busway_link, closed: *mut bool) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(link, closed, |link: &Linked| Ok(link.is_closed())) }
}

/// Who the other process is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_peer(
    link: *mut busway_link,
    credentials: *mut busway_credentials,
) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(link, credentials, |link: &Linked| Ok(link.peer().into())) }
}

/// The largest payload that this side can send, in bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_max_payload(link: *mut busway_link, len: *mut usize) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(link, len, |link: &Linked| Ok(link.max_payload())) }
}

/// Counters of one end since it joined.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct busway_stats {
    /// Bytes of this struct: busway_stats_init() sets it.
    pub size: u32,
    /// 0.
    pub flags: u32,
    /// Calls and events sent.
    pub sent: u64,
    /// Their payload bytes.
    pub sent_bytes: u64,
    /// Calls and events received.
    pub received: u64,
    /// Their payload bytes.
    pub received_bytes: u64,
    /// How often ring, cells or a size class were exhausted.
    pub full: u64,
    /// How often a thread went to sleep.
    pub parks: u64,
    /// How often sleepers of the other side were looked for and rung.
    pub wakes: u64,
    /// Waits that spinning ended.
    pub spins_paid: u64,
    /// Waits that spun in vain.
    pub spins_missed: u64,
    /// Violations of the protocol by the other side.
    pub violations: u64,
    /// Calls under way, or given up and not yet answered.
    pub calls_in_use: u64,
    /// Slots of ours in use now: loaned, or not yet given back by the other side.
    pub slots_in_use: u64,
}

impl From<busway::Stats> for busway_stats {
    fn from(stats: busway::Stats) -> Self {
        Self {
            size: 0,
            flags: 0,
            sent: stats.sent,
            sent_bytes: stats.sent_bytes,
            received: stats.received,
            received_bytes: stats.received_bytes,
            full: stats.full,
            parks: stats.parks,
            wakes: stats.wakes,
            spins_paid: stats.spins_paid,
            spins_missed: stats.spins_missed,
            violations: stats.violations,
            calls_in_use: stats.calls_in_use,
            slots_in_use: stats.slots_in_use,
        }
    }
}

/// Counters of this end. `stats->size` says how many of them the caller knows.
/// Threads: any. Fork: all zero in a forked child.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_stats(link: *mut busway_link, stats: *mut busway_stats) -> busway_status {
    guard(|| {
        let counted = handle::with(link, |link: &Linked| Ok(link.stats()))?;
        // SAFETY: as above.
        unsafe { options::write(stats, counted.into()) }
    })
}

/// One descriptor for an event loop, which becomes readable when the other side rings an armed link, or is gone. For polling only. It
/// may become readable for nothing: look, and sleep again. It is closed when the link is freed.
/// Errors: BUSWAY_UNSUPPORTED on a link inside one process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_fd(link: *mut busway_link, fd: *mut i32) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(link, fd, |link: &Linked| link.fd()) }
}

/// Before an event loop sleeps on the descriptor: asks the other side to ring it for anything that happens. `sleep` is false if there
/// is a request to receive already, or the link has ended, so do not sleep. Look at your calls under way after arming, too.
/// Threads: one event loop a link; busway_calls_poll is one too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_arm(link: *mut busway_link, sleep: *mut bool) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(link, sleep, |link: &Linked| Ok(link.arm())) }
}

/// After an event loop woke, or did not sleep: takes in what made the descriptor readable. Blocks for up to 100 ms if the other side has
/// hung up.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_link_disarm(link: *mut busway_link) -> busway_status {
    guard(|| {
        handle::with(link, |link: &Linked| {
            link.disarm();
            Ok(())
        })
    })
}
