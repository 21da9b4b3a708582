//! Sets: one thread on many links.

use crate::error::{Failure, busway_status};
use crate::handle::{self, Held};
use crate::link::{Linked, busway_link};
use crate::object::At;
use crate::request::{busway_request, hand_over};
use crate::{ask, await_one, guard, out};
use busway::{LinkSet, Token};
use std::os::fd::{AsFd, AsRawFd};

/// Receives from whichever of many links has something. A link is in one set, and has no event loop of its own then. Freeing a link takes
/// it out of its set. Many threads may use a set at once.
pub struct busway_set;

impl Held for LinkSet {
    const KIND: u64 = 7;
    const NOT: &'static str = "no set, or one that was freed";
}

/// Makes a set without links.
/// Threads: any. Errors: BUSWAY_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_set_new(set: *mut *mut busway_set) -> busway_status {
    guard(|| {
        // SAFETY: the caller's pointers are as the header says, here and in all functions below.
        let to = unsafe { out(set)? };
        to.write(handle::insert(LinkSet::new()?)?);
        Ok(())
    })
}

/// Frees a set; its links go on. A thread that waits in busway_set_recv goes on until its deadline.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_set_free(set: *mut busway_set) -> busway_status {
    guard(|| handle::free::<LinkSet, _>(set))
}

/// Receives from this link too. `token` is its name in the set, from 1, which is never used again.
/// Threads: any. Errors: BUSWAY_UNSUPPORTED if it is in a set already, or inside one process; BUSWAY_IO; BUSWAY_FORKED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_set_insert(
    set: *mut busway_set,
    link: *mut busway_link,
    token: *mut u64,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let to = unsafe { out(token)? };
        let set = handle::share::<LinkSet, _>(set)?;
        to.write(handle::with(link, |link: &Linked| Ok(set.insert(link)?.into()))?);
        Ok(())
    })
}

/// Receives from this link no more.
/// Threads: any. Errors: BUSWAY_INVALID if it was not in the set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_set_remove(set: *mut busway_set, token: u64) -> busway_status {
    guard(|| match handle::share::<LinkSet, _>(set)?.remove(Token::from(token)) {
        true => Ok(()),
        false => Err(Failure::Invalid("a token that names no link of the set")),
    })
}

/// How many links are in the set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_set_len(set: *mut busway_set, len: *mut usize) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(set, len, |set: &LinkSet| Ok(set.len())) }
}

/// Receives the next request of any link, whose token is written to `token`. Waits until `deadline`; BUSWAY_NOW does not wait. If a link has
/// ended instead, this answers how (BUSWAY_CLOSED, BUSWAY_PEER_DIED, BUSWAY_POISONED), `token` is its token, and it is in the set no more; with
/// any other failure `token` is 0.
/// Threads: any, many at once. Errors: BUSWAY_WOULD_BLOCK or BUSWAY_TIMEOUT; BUSWAY_FORKED; BUSWAY_BUSY if `request` holds something.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_set_recv(
    set: *mut busway_set,
    deadline: u64,
    token: *mut u64,
    request: *mut busway_request,
) -> busway_status {
    guard(|| {
        // SAFETY: as above.
        let (token, to) = unsafe { (out(token)?.write(0), At::new(request)?.vacant()?) };
        let set = handle::share::<LinkSet, _>(set)?;
        let (from, received) = await_one(deadline, || set.try_recv(), |until| set.recv(until))?;
        *token = from.into();
        // It is its own owner.
        hand_over(&to, 0, received?);
        Ok(())
    })
}

/// A descriptor that becomes readable when a link that is asleep has something. For polling only. It is closed when the set is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn busway_set_fd(set: *mut busway_set, fd: *mut i32) -> busway_status {
    // SAFETY: as above.
    unsafe { ask(set, fd, |set: &LinkSet| Ok(set.as_fd().as_raw_fd())) }
}
