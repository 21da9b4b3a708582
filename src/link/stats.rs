//! Counters of one end.

use super::end::End;
use super::words::Counters;
use crate::call::Stats;
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
        publish(&stats, &self.ours.counters);
        stats
    }
}

/// Where tools find them.
fn publish(stats: &Stats, to: &Counters) {
    let pairs = [
        (&to.sent, stats.sent),
        (&to.sent_bytes, stats.sent_bytes),
        (&to.received, stats.received),
        (&to.received_bytes, stats.received_bytes),
        (&to.full, stats.full),
        (&to.parks, stats.parks),
        (&to.wakes, stats.wakes),
        (&to.spins_paid, stats.spins_paid),
        (&to.spins_missed, stats.spins_missed),
        (&to.violations, stats.violations),
    ];
    for (word, value) in pairs {
        word.store(value, Ordering::Relaxed);
    }
}
