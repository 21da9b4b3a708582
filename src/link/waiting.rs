//! Waiting, and the four things one can wait for.

use super::end::End;
use super::intake::IntakeWords;
use crate::call::{Stop, Ticket};
use crate::sync::{self, AtomicU32, FutexWord, Ordering, mutant};
use crate::wake::{Deadline, FUTEX_STAGE, HOW_BITS, How, Spin, Spot, starts_with_futex};
use core::cell::Cell;
use core::time::Duration;

/// With `Idle::Spin`, after this many turns the descriptors are looked at: about every 3 ms, so that a death is noticed in less
/// than 10 ms. A look costs a system call.
const ALARM_TURNS: u32 = 1 << 17;

/// A wait that was woken so often for nothing goes on by descriptor, where rings have a budget.
const IN_VAIN: u32 = 32;

impl End {
    /// Waits until `look` finds something: spins, then sleeps under the mark of `spot`. Returns what it found and whether a
    /// spin found it. `recheck` bounds each sleep, for what rings nobody.
    pub(super) fn wait<R>(
        &self,
        spot: &impl Spot,
        deadline: Deadline,
        spin: bool,
        recheck: Option<Duration>,
        mut look: impl FnMut() -> Option<R>,
    ) -> Result<(R, bool), Stop> {
        let (ours, theirs) = (&self.ours.control.cpu.0, &self.theirs.control.cpu.0);
        let (turns, yields) = if spin {
            self.spin.begin(ours, theirs)
        } else {
            Spin::tell(ours);
            (0, 0)
        };
        let mut turn = 0;
        while turn < turns {
            if let Some(found) = look() {
                self.spin.paid();
                return Ok((found, true));
            }
            sync::spin_loop();
            turn += 1;
            // The first 2 us or so cost no look at anything else.
            if turn.is_multiple_of(128) {
                if turn == 128 {
                    self.catch_up();
                }
                if let Some(ended) = self.ended_now() {
                    return look().map(|found| (found, true)).ok_or(Stop::Ended(ended));
                }
                if deadline.has_passed() {
                    return Err(Stop::Deadline);
                }
                if turns == u32::MAX && turn >= ALARM_TURNS {
                    turn = 0;
                    self.look_for_alarm();
                }
            }
        }
        if turns > 0 {
            self.spin.missed();
            self.spins_missed.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(found) = self.spin.give_way(yields, deadline, &mut look) {
            return Ok((found, false));
        }
        self.catch_up();
        let mut by_futex = starts_with_futex(&self.spin);
        // One for the whole wait: a bell that keeps ringing for nothing must not keep this thread from the descriptors.
        let mut stage_one = None;
        let mut in_vain = 0;
        loop {
            if let Some(found) = look() {
                if let Some(doorbell) = self.doorbell.as_ref().filter(|_| !by_futex) {
                    doorbell.paid();
                }
                return Ok((found, false));
            }
            if let Some(ended) = self.ended_now() {
                // What was published before the end still counts.
                return look().map(|found| (found, false)).ok_or(Stop::Ended(ended));
            }
            if deadline.has_passed() {
                return Err(Stop::Deadline);
            }
            self.parks.fetch_add(1, Ordering::Relaxed);
            let until = recheck.map_or(deadline, |limit| deadline.sooner(limit));
            let gate = &self.ours.control.sleepers.0;
            // Whoever ends the link wakes what it finds marked, so look for the end too after marking.
            let mut look_twice = || look().map(Some).or_else(|| self.ended_now().map(|_| None));
            let found = match &self.doorbell {
                Some(doorbell) if !by_futex => self.sleep.by_descriptor(gate, spot, until, &mut look_twice, || {
                    if doorbell.wait(until.until(), &self.theirs.control.rings.0, self.traffic()) {
                        self.alarm();
                    }
                }),
                doorbell => {
                    // Without a descriptor there is no stage two, and the first has no end.
                    let until = doorbell.as_ref().map_or(until, |_| {
                        until.earlier(*stage_one.get_or_insert_with(|| Deadline::after(FUTEX_STAGE)))
                    });
                    let (found, long) = self.sleep.by_futex(gate, spot, until, &mut look_twice);
                    in_vain += 1;
                    by_futex = !long && in_vain < IN_VAIN;
                    found
                }
            };
            if let Some(Some(found)) = found {
                return Ok((found, false));
            }
        }
    }
}

/// A bell as it stands, to sleep on until it is rung.
fn now_at(bell: &AtomicU32) -> FutexWord<'_> {
    FutexWord::shared(bell, bell.load(Ordering::Acquire))
}

/// Receivers wait for entries.
pub(super) struct IntakeSpot<'a> {
    pub(super) end: &'a End,
    pub(super) words: IntakeWords<'a>,
    /// This thread is the one that spins; it no longer is once it sleeps.
    pub(super) spinning: Cell<bool>,
}

impl Spot for IntakeSpot<'_> {
    fn bells<R>(&self, sleep: impl FnOnce(&[FutexWord<'_>]) -> R) -> R {
        sleep(&[now_at(self.words.bell)])
    }
    fn park(&self, how: How) {
        self.end.intake.park(&self.words, how, true, self.spinning.replace(false));
    }
    fn unpark(&self, how: How) {
        self.end.intake.unpark(&self.words, how, true);
    }
}

/// A caller waits for its reply and, if it serves them, for calls nested in its own.
pub(super) struct ReplySpot<'a> {
    pub(super) end: &'a End,
    pub(super) ticket: &'a Ticket,
    pub(super) words: IntakeWords<'a>,
    pub(super) children: bool,
}

impl Spot for ReplySpot<'_> {
    fn bells<R>(&self, sleep: impl FnOnce(&[FutexWord<'_>]) -> R) -> R {
        let reply = now_at(self.end.bells.ours.replies.at(self.ticket.cell()));
        if self.children && !mutant("call: asleep on its reply alone") {
            sleep(&[reply, now_at(self.words.bell)])
        } else {
            sleep(&[reply])
        }
    }
    fn park(&self, how: How) {
        let word = self.end.ours.call_words.at(self.ticket.cell());
        word.store(self.ticket.generation() << HOW_BITS | how as u32, Ordering::Relaxed);
        if self.children {
            self.end.intake.park(&self.words, how, false, false);
        }
    }
    fn unpark(&self, how: How) {
        self.end.ours.call_words.at(self.ticket.cell()).store(self.ticket.generation() << HOW_BITS, Ordering::Relaxed);
        if self.children {
            self.end.intake.unpark(&self.words, how, false);
            // The bell may have rung for a receiver.
            self.end.nudge(self.end.intake.pass_on(&self.words));
        }
    }
}

/// Senders wait for room in the ring.
pub(super) struct SpaceSpot<'a> {
    pub(super) end: &'a End,
    /// The peer's position at which there was none.
    pub(super) seen: u32,
}

impl Spot for SpaceSpot<'_> {
    fn bells<R>(&self, sleep: impl FnOnce(&[FutexWord<'_>]) -> R) -> R {
        sleep(&[now_at(&self.end.bells.ours.room.0)])
    }
    fn park(&self, how: How) {
        self.end.tx.lock().space.enter_at(&self.end.ours.lane.space_wait.0, how, self.seen);
    }
    fn unpark(&self, how: How) {
        self.end.tx.lock().space.leave(&self.end.ours.lane.space_wait.0, how);
    }
}

/// Loaners wait for a slot.
pub(super) struct ArenaSpot<'a>(pub(super) &'a End);

impl Spot for ArenaSpot<'_> {
    fn bells<R>(&self, sleep: impl FnOnce(&[FutexWord<'_>]) -> R) -> R {
        sleep(&[now_at(&self.0.bells.ours.slots.0)])
    }
    fn park(&self, how: How) {
        self.0.arena.stock().marks.enter(&self.0.ours.control.arena_wait.0, how);
    }
    fn unpark(&self, how: How) {
        self.0.arena.stock().marks.leave(&self.0.ours.control.arena_wait.0, how);
    }
}
