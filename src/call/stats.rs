//! Counters.

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
