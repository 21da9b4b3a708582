//! Counters of one process in a pool.

use crate::call::Stats;
use crate::sync::{AtomicU64, NUMBERED_THREADS, Ordering, thread_number};
use crossbeam_utils::CachePadded;

/// Counters by thread, so that counting takes no locked instruction.
#[derive(Debug)]
pub struct Tally(Box<[CachePadded<Counters>]>);

#[derive(Debug, Default)]
struct Counters {
    sent: AtomicU64,
    sent_bytes: AtomicU64,
    received: AtomicU64,
    received_bytes: AtomicU64,
    full: AtomicU64,
    parks: AtomicU64,
    wakes: AtomicU64,
    spins_paid: AtomicU64,
    spins_missed: AtomicU64,
    violations: AtomicU64,
}

impl Default for Tally {
    fn default() -> Self {
        // No model looks at a counter.
        let threads = if cfg!(busway_loom) { 0 } else { NUMBERED_THREADS + 1 };
        Self((0..threads).map(|_| CachePadded::default()).collect())
    }
}

impl Tally {
    #[inline(always)]
    fn add(&self, pick: impl Fn(&Counters) -> [(&AtomicU64, u64); 2]) {
        if cfg!(busway_loom) {
            return;
        }
        match thread_number() {
            // Nobody else writes them.
            Some(thread) => {
                for (counter, by) in pick(&self.0[thread]) {
                    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
                }
            }
            None => {
                for (counter, by) in pick(&self.0[NUMBERED_THREADS]) {
                    counter.fetch_add(by, Ordering::Relaxed);
                }
            }
        }
    }

    #[inline(always)]
    pub fn sent(&self, bytes: usize) {
        self.add(|c| [(&c.sent, 1), (&c.sent_bytes, bytes as u64)]);
    }

    #[inline(always)]
    pub fn received(&self, bytes: usize) {
        self.add(|c| [(&c.received, 1), (&c.received_bytes, bytes as u64)]);
    }

    pub fn full(&self) {
        self.add(|c| [(&c.full, 1), (&c.violations, 0)]);
    }

    pub fn violation(&self) {
        self.add(|c| [(&c.violations, 1), (&c.full, 0)]);
    }

    pub fn park(&self) {
        self.add(|c| [(&c.parks, 1), (&c.wakes, 0)]);
    }

    pub fn wake(&self) {
        self.add(|c| [(&c.wakes, 1), (&c.parks, 0)]);
    }

    #[inline(always)]
    pub fn spin_paid(&self) {
        self.add(|c| [(&c.spins_paid, 1), (&c.spins_missed, 0)]);
    }

    pub fn spin_missed(&self) {
        self.add(|c| [(&c.spins_missed, 1), (&c.spins_paid, 0)]);
    }

    /// What was counted. `calls` and `slots` are those in use.
    pub fn stats(&self, calls: u64, slots: u64) -> Stats {
        let sum = |pick: fn(&Counters) -> &AtomicU64| self.0.iter().map(|c| pick(c).load(Ordering::Relaxed)).sum();
        Stats {
            sent: sum(|c| &c.sent),
            sent_bytes: sum(|c| &c.sent_bytes),
            received: sum(|c| &c.received),
            received_bytes: sum(|c| &c.received_bytes),
            full: sum(|c| &c.full),
            parks: sum(|c| &c.parks),
            wakes: sum(|c| &c.wakes),
            spins_paid: sum(|c| &c.spins_paid),
            spins_missed: sum(|c| &c.spins_missed),
            violations: sum(|c| &c.violations),
            calls_in_use: calls,
            slots_in_use: slots,
        }
    }
}
