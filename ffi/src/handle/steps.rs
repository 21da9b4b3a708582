//! The steps by which a thread that uses a handle and one that frees it see each other, of words alone: a model of them is in
//! `loom-tests/tests/handles.rs`, which includes this file.

use super::{AtomicU64, Ordering, mutant};

/// The user's first step; then it looks whether the handle is valid. `fence` is one of all accesses.
#[inline(always)]
pub fn announce(record: &AtomicU64, handle: u64, fence: impl FnOnce()) {
    record.store(handle, Ordering::Relaxed);
    if !mutant("handle: the user makes no fence") {
        fence();
    }
}

/// The user's last step: back to what it used before.
#[inline(always)]
pub fn withdraw(record: &AtomicU64, before: u64) {
    let order = if mutant("handle: withdrawn without release") { Ordering::Relaxed } else { Ordering::Release };
    record.store(before, order);
}

/// The first step of who frees; true for one thread. Then it makes a fence too.
#[inline(always)]
pub fn invalidate(cell: &AtomicU64, handle: u64, next: u64) -> bool {
    if mutant("handle: freed without a swap") {
        let valid = cell.load(Ordering::SeqCst) == handle;
        cell.store(next, Ordering::SeqCst);
        return valid;
    }
    cell.compare_exchange(handle, next, Ordering::SeqCst, Ordering::Relaxed).is_ok()
}

/// What who frees waits for the end of.
#[inline(always)]
pub fn is_used(record: &AtomicU64, handle: u64) -> bool {
    let order = if mutant("handle: looked at without acquire") { Ordering::Relaxed } else { Ordering::Acquire };
    record.load(order) == handle
}
