//! Counters of one end.

use super::end::End;
use super::words::Counters;
use crate::sync::{AtomicU64, Ordering};

impl End {
    /// Counters of this end, and where tools find them.
    pub fn stats(&self) -> Stats {
        if self.forked() {
            return Stats::default();
        }
        let tally = self.intake.tally();
        let mut tx = self.tx.lock();
        self.sweep_given_up(&mut tx);
        let load = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let stats = Stats {
            sent: tx.sent,
            sent_bytes: tx.sent_bytes,
            received: tally.messages,
            received_bytes: tally.bytes,
            full: load(&self.full),
            parks: load(&self.parks),
            wakes: load(&self.wakes),
            spins_paid: tally.spins_paid + self.calls.spins_paid(),
            spins_missed: load(&self.spins_missed),
            violations: load(&self.violations),
            calls_in_use: self.calls.in_use(&mut tx.cells) as u64,
            slots_in_use: self.arena.outstanding().into(),
        };
        stats.publish(&self.ours.counters);
        stats
    }
}

/// Counters of one end since it joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
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
    /// Reply cells in use now: calls under way, or given up and not yet answered.
    pub calls_in_use: u64,
    /// Slots of ours in use now: loaned, or not yet given back by the other side.
    pub slots_in_use: u64,
}

impl Stats {
    fn publish(&self, to: &Counters) {
        let pairs = [
            (&to.sent, self.sent),
            (&to.sent_bytes, self.sent_bytes),
            (&to.received, self.received),
            (&to.received_bytes, self.received_bytes),
            (&to.full, self.full),
            (&to.parks, self.parks),
            (&to.wakes, self.wakes),
            (&to.spins_paid, self.spins_paid),
            (&to.spins_missed, self.spins_missed),
            (&to.violations, self.violations),
        ];
        for (word, value) in pairs {
            word.store(value, Ordering::Relaxed);
        }
    }
}
