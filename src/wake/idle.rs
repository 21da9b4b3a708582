//! How long to spin before sleeping.

use super::Deadline;
use crate::sync::{self, AtomicU32, AtomicU64, Ordering, PeerWord};
use core::time::Duration;
use std::sync::OnceLock;

/// What a thread does while there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Idle {
    /// Spin for up to `spin`, then park. The time adapts: it halves after each wait that spun in vain (down to a tenth),
    /// recovers with one that did not, and is tried in full at every 64th. Where both sides run on one CPU nothing can
    /// happen during a spin, so there the thread yields a few times and parks; it parks at once while others compute there.
    Adaptive {
        /// The longest spin. 20 us is the default: parking and being woken costs that much.
        spin: Duration,
    },
    /// Never park: lowest latency, one CPU each. The peer's death is noticed within some milliseconds.
    Spin,
    /// Park at once, by futex: least CPU.
    Park,
    /// Wait by descriptor at once: for tests and for peers that must not be slept on by futex.
    Poll,
}

impl Default for Idle {
    fn default() -> Self {
        Idle::Adaptive { spin: Duration::from_micros(20) }
    }
}

/// The spin policy of one end, shared by its threads.
#[derive(Debug)]
pub struct Spin {
    idle: Idle,
    /// The full budget, in turns of a spin loop.
    full: u32,
    budget: AtomicU32,
    waits: AtomicU32,
    /// No yield before this time: others compute on our CPU.
    crowded: AtomicU64,
}

const YIELDS: u32 = 3;

/// A yield within this time, in nanoseconds, was cheaper than parking and being woken.
const SHORT: u64 = 20_000;

/// After a longer one, that many times as long goes by before the next, but a second at most.
const RARELY: u64 = 250;
const SECOND: u64 = 1_000_000_000;

impl Spin {
    /// The policy for `idle` on this machine.
    pub fn new(idle: Idle) -> Self {
        let full = match idle {
            Idle::Adaptive { spin } if cpus() > 1 => turns(spin),
            Idle::Spin => u32::MAX,
            _ => 0,
        };
        Self { idle, full, budget: AtomicU32::new(full), waits: AtomicU32::new(0), crowded: AtomicU64::new(0) }
    }

    /// What the user chose.
    pub fn idle(&self) -> Idle {
        self.idle
    }

    /// Begins a wait: how many turns to spin, and how often to yield after them. `ours` is the word that tells the peer our
    /// CPU, `theirs` the one that tells us theirs (CPU + 1; 0 is unknown).
    pub fn begin(&self, ours: &AtomicU32, theirs: &PeerWord) -> (u32, u32) {
        if self.idle == Idle::Spin {
            return (self.full, 0);
        }
        let cpu = Self::tell(ours);
        if !matches!(self.idle, Idle::Adaptive { .. }) {
            return (0, 0);
        }
        if self.full == 0 || theirs.hint() == cpu {
            return (0, YIELDS);
        }
        let turns = self.budget.load(Ordering::Relaxed);
        if turns == self.full {
            return (turns, 0);
        }
        let waits = self.waits.load(Ordering::Relaxed).wrapping_add(1);
        self.waits.store(waits, Ordering::Relaxed);
        (if waits.is_multiple_of(64) { self.full } else { turns }, 0)
    }

    /// Tells the peer our CPU, plus one, as a wait without spinning does.
    pub fn tell(ours: &AtomicU32) -> u32 {
        let cpu = sync::cpu() + 1;
        if ours.load(Ordering::Relaxed) != cpu {
            ours.store(cpu, Ordering::Relaxed);
        }
        cpu
    }

    /// Looks, and lets others on this CPU run, the peer among them: up to `yields` times before `deadline`.
    ///
    /// Who yields goes behind all that compute on its CPU, for milliseconds; who sleeps is woken before them. So after a yield
    /// that took long there is none for a while. Measured, two processes and a third that computes on one CPU: 700 calls a second
    /// with yields and 90,000 without; where there is no third, 310,000 with and 220,000 without.
    pub fn give_way<R>(&self, yields: u32, deadline: Deadline, look: &mut impl FnMut() -> Option<R>) -> Option<R> {
        if yields == 0 {
            return None;
        }
        let mut before = sync::now();
        if before < self.crowded.load(Ordering::Relaxed) {
            return None;
        }
        for _ in 0..yields {
            let found = look();
            if found.is_some() || deadline.has_passed() {
                return found;
            }
            sync::yield_now();
            let after = sync::now();
            if after - before > SHORT {
                self.crowded.store(after + SECOND.min(RARELY * (after - before)), Ordering::Relaxed);
                return None;
            }
            before = after;
        }
        None
    }

    /// As [`begin`](Self::begin), for who looks now and then in between: for how many nanoseconds.
    pub fn time(&self, ours: &AtomicU32, theirs: &PeerWord) -> u64 {
        match (self.idle, self.begin(ours, theirs)) {
            (Idle::Adaptive { spin }, (turns, _)) => {
                (spin.as_nanos() as u64) * u64::from(turns) / u64::from(self.full.max(1))
            }
            (_, (0, _)) => 0,
            _ => u64::MAX,
        }
    }

    /// Spinning paid: the next wait may spin in full.
    #[inline]
    pub fn paid(&self) {
        if self.budget.load(Ordering::Relaxed) != self.full {
            self.budget.store(self.full, Ordering::Relaxed);
        }
    }

    /// Spinning did not pay.
    pub fn missed(&self) {
        let less = (self.budget.load(Ordering::Relaxed) / 2).max(self.full / 10);
        self.budget.store(less, Ordering::Relaxed);
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many turns of a spin loop take `time`. A pause takes from 4 to 140 cycles, depending on the CPU, so it is measured
/// once: the wait itself then needs no clock.
pub fn turns(time: Duration) -> u32 {
    if cfg!(busway_loom) {
        return time.as_nanos() as u32; // a model's clock stands still
    }
    static PICOSECONDS: OnceLock<u64> = OnceLock::new();
    let one = *PICOSECONDS.get_or_init(|| {
        let round = || {
            let start = sync::now();
            (0..256).for_each(|_| sync::spin_loop());
            (sync::now() - start) * 1000 / 256
        };
        // The least of a few rounds: being preempted only ever adds.
        (0..5).map(|_| round()).min().unwrap_or_default().clamp(500, 100_000)
    });
    u32::try_from(time.as_nanos() as u64 * 1000 / one).unwrap_or(u32::MAX - 1)
}

#[cfg(all(test, not(busway_loom)))]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn who_yielded_for_long_does_so_rarely() {
        let spin = Spin::new(Idle::default());
        let tried = |look: &mut dyn FnMut()| {
            let mut looks = 0;
            let found = spin.give_way(YIELDS, Deadline::NEVER, &mut || {
                looks += 1;
                look();
                None::<()>
            });
            assert_eq!(found, None);
            looks
        };
        // A turn that takes long is what others on this CPU would make of it.
        let start = sync::now();
        assert_eq!(tried(&mut || thread::sleep(Duration::from_millis(5))), 1);
        let until = spin.crowded.load(Ordering::Relaxed);
        assert!((start + SECOND..=sync::now() + SECOND).contains(&until));
        spin.crowded.store(u64::MAX, Ordering::Relaxed);
        assert_eq!(tried(&mut || ()), 0, "others compute here");
        spin.crowded.store(sync::now(), Ordering::Relaxed);
        assert!(tried(&mut || ()) > 0, "they no longer do");
    }

    #[test]
    fn a_yield_comes_after_a_look_and_before_the_deadline() {
        let (spin, past) = (Spin::new(Idle::default()), Deadline::from_nanos(1));
        assert_eq!(spin.give_way(YIELDS, past, &mut || Some(7)), Some(7));
        let mut looks = 0;
        let found = spin.give_way(YIELDS, past, &mut || {
            looks += 1;
            None::<()>
        });
        assert_eq!((found, looks), (None, 1));
        assert_eq!(spin.give_way(0, Deadline::NEVER, &mut || Some(7)), None);
    }
}
