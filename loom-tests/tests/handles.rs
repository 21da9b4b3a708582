//! Handles of the C interface: nothing is freed under the threads that use it, and one thread frees.
//!
//! Modelled: the steps of `ffi/src/handle/steps.rs`, with what a handle names as a tracked cell, which users read and who frees writes:
//! at the same time that is a race. Not modelled: that the kernel makes the users' fence (`membarrier`), so that both sides make one
//! here; the list of records, which only grows; generations.

#![cfg(busway_loom)]

#[path = "../../ffi/src/handle/steps.rs"]
mod steps;

use busway::sync::{AtomicU64, Ordering, PeerCell, fence, mutant};
use busway_loom_tests::{Failure, Model};
use loom::thread;
use std::sync::Arc;

const USED: Model = Model::new("handles: one thread uses a handle, another frees it");
const FREED: Model = Model::new("handles: two threads free the same handle").stepwise();

const HANDLE: u64 = 7;
const NEXT: u64 = 8;

struct Shared {
    cell: AtomicU64,
    record: AtomicU64,
    value: PeerCell<u64>,
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared { cell: AtomicU64::new(HANDLE), record: AtomicU64::new(0), value: PeerCell::new(1) })
}

/// What the value is, if the handle is valid.
fn uses(shared: &Shared) -> Option<u64> {
    steps::announce(&shared.record, HANDLE, || fence(Ordering::SeqCst));
    let valid = shared.cell.load(Ordering::Acquire) == HANDLE;
    let value = valid.then(|| shared.value.read());
    steps::withdraw(&shared.record, 0);
    value
}

/// Whether this was who freed it.
fn frees(shared: &Shared) -> bool {
    if !steps::invalidate(&shared.cell, HANDLE, NEXT) {
        return false;
    }
    if !mutant("handle: who frees makes no fence") {
        fence(Ordering::SeqCst);
    }
    while steps::is_used(&shared.record, HANDLE) {
        thread::yield_now();
    }
    // SAFETY: nobody uses it, which the model checks.
    unsafe { shared.value.write(0) };
    true
}

fn one_uses_and_one_frees() {
    let shared = shared();
    let other = shared.clone();
    let user = thread::spawn(move || {
        // Twice: the second time it may be about to say so when the first is seen to end.
        for _ in 0..2 {
            assert_ne!(uses(&other), Some(0), "used after it was freed");
        }
    });
    assert!(frees(&shared));
    user.join().unwrap();
    assert_eq!(uses(&shared), None, "stale");
}

fn two_free() {
    let shared = shared();
    let other = shared.clone();
    let thread = thread::spawn(move || frees(&other));
    let freed = u32::from(frees(&shared)) + u32::from(thread.join().unwrap());
    assert_eq!(freed, 1, "freed once");
}

#[test]
fn nothing_is_freed_under_its_users() {
    USED.holds(one_uses_and_one_frees);
}

#[test]
fn one_thread_frees() {
    FREED.holds(two_free);
}

#[test]
fn the_user_makes_a_fence() {
    USED.fails("handle: the user makes no fence", Failure::Race, one_uses_and_one_frees);
}

#[test]
fn who_frees_makes_a_fence() {
    USED.fails("handle: who frees makes no fence", Failure::Race, one_uses_and_one_frees);
}

#[test]
fn withdrawing_releases() {
    USED.fails("handle: withdrawn without release", Failure::Race, one_uses_and_one_frees);
}

#[test]
fn who_frees_acquires() {
    USED.fails("handle: looked at without acquire", Failure::Race, one_uses_and_one_frees);
}

#[test]
fn a_handle_is_made_invalid_by_a_swap() {
    FREED.fails("handle: freed without a swap", Failure::Race, two_free);
}
