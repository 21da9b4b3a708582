//! Who is a member of a ring of many, and who recovers one that died.

use crate::region::Process;
use crate::sync::{AtomicU64, Ordering, crash, mutant};

/// The place of one member. Zeroed memory is one that nobody has.
///
/// # Protocol
///
/// Join: swap `who` from 0 to oneself; its number is the place's. Leave: `who` = 0, with nothing in hand.
///
/// Recover `d`, found dead in `who`: swap `healer` from 0, or from a process that is dead, to oneself; look at `who`
/// again, since somebody may have been quicker; give back what the member had in hand; `who` = 0; `healer` = 0.
/// Whoever dies in between is found dead in `healer`, and the next one does it all again, which does no harm. `who`
/// is cleared first: the place is given away only when nobody recovers it any more, or is dead.
#[derive(Debug)]
#[repr(C)]
pub struct Place {
    /// A [`Process`], or 0.
    pub who: AtomicU64,
    /// The process whose thread recovers it, or 0.
    pub healer: AtomicU64,
}

impl Place {
    /// A place that nobody has.
    #[allow(clippy::new_without_default, reason = "zeroed memory is one already")]
    pub fn new() -> Self {
        Self { who: AtomicU64::new(0), healer: AtomicU64::new(0) }
    }

    /// Takes the place, if nobody has it.
    pub fn join(&self, own: Process) -> bool {
        // Acquire: what was done for the last one who had the place is done.
        let order = if mutant("place: join without acquire") { Ordering::Relaxed } else { Ordering::Acquire };
        self.who.compare_exchange(0, own.bits(), order, Ordering::Relaxed).is_ok()
    }

    /// Gives it up.
    pub fn leave(&self, who: Process) {
        crash();
        let order = if mutant("place: leave without release") { Ordering::Relaxed } else { Ordering::Release };
        let _not_ours = self.who.compare_exchange(who.bits(), 0, order, Ordering::Relaxed);
    }

    /// Runs `give_back` if who has the place is dead, and nobody else recovers it.
    pub fn recover(
        &self,
        own: Process,
        is_dead: impl Fn(Process) -> bool,
        give_back: impl FnOnce() -> u32,
    ) -> Option<u32> {
        let who = Process::from_bits(self.who.load(Ordering::Acquire))?;
        if !is_dead(who) {
            return None;
        }
        let healer = self.healer.load(Ordering::Relaxed);
        if Process::from_bits(healer).is_some_and(|healer| !is_dead(healer)) {
            return None;
        }
        crash();
        // Acquire: meets the release below, so that what the last one who recovered the place did to `who` is seen.
        let order = if mutant("place: healer without acquire") { Ordering::Relaxed } else { Ordering::Acquire };
        if self.healer.compare_exchange(healer, own.bits(), order, Ordering::Relaxed).is_err() {
            return None;
        }
        let still = self.who.load(Ordering::Acquire) == who.bits() || mutant("place: recovery does not look again");
        let freed = still.then(give_back);
        if still {
            self.leave(who);
        }
        crash();
        let order = if mutant("place: healer without release") { Ordering::Relaxed } else { Ordering::Release };
        self.healer.store(0, order);
        freed
    }
}
