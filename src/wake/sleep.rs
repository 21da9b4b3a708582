//! One end's sleeping threads.

use super::{Deadline, Doorbell, How, Idle, Spin};
use crate::sync::{
    AtomicBool, AtomicU32, FutexWord, Ordering, Woken, fence, futex_wait, futex_wait_any, futex_wake, mutant,
};
use core::time::Duration;

/// How long a wait sleeps by futex before it sleeps by descriptor, which also shows the peer's death. Longer than most kernels'
/// tick, so that its timer is seldom the next one and need not be programmed.
pub const FUTEX_STAGE: Duration = Duration::from_millis(5);

/// Something to wait for: where its mark is, and which bells ring for it.
pub trait Spot {
    /// Calls `sleep` with the bells and their present values. They are read before [`park`](Self::park) is called.
    fn bells<R>(&self, sleep: impl FnOnce(&[FutexWord<'_>]) -> R) -> R;
    /// Sets the mark.
    fn park(&self, how: How);
    /// Clears it.
    fn unpark(&self, how: How);
}

/// The state that the sleeping threads of one end share.
#[derive(Debug, Default)]
pub struct Sleep {
    /// Set while a thread of this end waits on the descriptor.
    polling: AtomicBool,
    /// Bumped, with a wake of all, when that thread returns.
    polled: AtomicU32,
    /// How many threads sleep on `polled`.
    following: AtomicU32,
}

impl Sleep {
    /// Sleeps once in stage one: until a bell rings, or until `until`, which is no later than the end of the stage. `gate` is
    /// our word `sleepers`.
    ///
    /// Returns what `look` found after the mark was set, or else whether to go on with stage two.
    pub fn by_futex<R>(
        &self,
        gate: &AtomicU32,
        spot: &impl Spot,
        until: Deadline,
        look: &mut impl FnMut() -> Option<R>,
    ) -> (Option<R>, bool) {
        spot.bells(|bells| {
            spot.park(How::Futex);
            let found = self.guarded(gate, look, || futex_wait_any(bells, until.until()) != Woken::Look);
            spot.unpark(How::Futex);
            found
        })
    }

    /// Sleeps once in stage two: in `poll`, which returns when something happens, or until another thread does.
    pub fn by_descriptor<R>(
        &self,
        gate: &AtomicU32,
        spot: &impl Spot,
        deadline: Deadline,
        look: &mut impl FnMut() -> Option<R>,
        poll: impl FnOnce(),
    ) -> Option<R> {
        let polled = self.polled.load(Ordering::Acquire);
        let lead = !self.polling.swap(true, Ordering::AcqRel);
        spot.park(How::Descriptor);
        let (found, ()) = self.guarded(gate, look, || {
            if lead {
                poll();
            } else {
                self.following.fetch_add(1, Ordering::SeqCst);
                // If the leader returns in between, `polled` has changed and this does not sleep.
                futex_wait(FutexWord::private(&self.polled, polled), deadline.until());
                self.following.fetch_sub(1, Ordering::Relaxed);
            }
        });
        spot.unpark(How::Descriptor);
        if lead {
            self.polling.store(false, Ordering::Release);
            // Everybody looks; one of those that find nothing polls next.
            self.polled.fetch_add(1, Ordering::SeqCst);
            if self.following.load(Ordering::SeqCst) > 0 {
                futex_wake(&self.polled, u32::MAX, true);
            }
        }
        found
    }

    /// The sleeper's half of the protocol around `sleep`; the mark is set already.
    fn guarded<R, S: Default>(
        &self,
        gate: &AtomicU32,
        look: &mut impl FnMut() -> Option<R>,
        sleep: impl FnOnce() -> S,
    ) -> (Option<R>, S) {
        gate.fetch_add(1, Ordering::Relaxed);
        if !mutant("wake: sleeper without fence") {
            fence(Ordering::SeqCst);
        }
        let found = if mutant("wake: no second look") { None } else { look() };
        let slept = if found.is_none() { sleep() } else { S::default() };
        gate.fetch_sub(1, Ordering::Relaxed);
        (found, slept)
    }

    /// Wakes every thread that sleeps by descriptor, for what happens inside this process.
    pub fn wake_pollers(&self, doorbell: &Doorbell) {
        if self.polling.load(Ordering::SeqCst) {
            doorbell.nudge();
        }
    }
}

/// Whether a wait under this policy begins with the futex.
pub fn starts_with_futex(spin: &Spin) -> bool {
    spin.idle() != Idle::Poll
}
