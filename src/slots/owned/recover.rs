//! What becomes of the slots of a participant that died.

use super::{Header, State, Table};
use crate::sync::{Ordering, mutant};
use bytemuck::{AnyBitPattern, NoUninit};

/// What becomes of calls that their dead caller left in a queue, or that a worker has not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// They are executed, and their replies dropped.
    Execute,
    /// They are dropped, when a worker comes to them.
    Drop,
}

/// What a recovery found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Slots that are free again.
    pub freed: u32,
    /// Calls of others that end because their worker died.
    pub died: u32,
    /// Requests that live on without the dead participant, which had sent them.
    pub orphaned: u32,
}

impl<B: NoUninit + AnyBitPattern> Table<B> {
    /// Ends what the participant `dead` had under way, beside living participants, which go on meanwhile.
    ///
    /// | of `dead` | becomes |
    /// |---|---|
    /// | Owned | Free(g+1) |
    /// | Queued, in its ring | the same without sender and caller: still served, or dropped, see [`Orphans`] |
    /// | Queued, in no ring | Free(g+1): it was never sent |
    /// | Taken for C, Executing for C | Unrun(C), Died(C) after freeing the attached slot |
    /// | Taken, Executing for nobody | Free(g+1) |
    /// | Taken, Executing, `dead` being the caller | the same without caller |
    /// | Replied, Died, Unrun, `dead` being the caller | the attached slot freed, Free(g+1) |
    ///
    /// `present` says whether a ring holds an entry for a slot in a generation, as it was seen after the death and
    /// before this call: [`Snapshot::holds`](crate::ring::mpmc::Snapshot::holds). (An entry that was absent then was
    /// never installed, or its slot is no longer queued.) `wake` is called for every slot whose caller must be woken,
    /// whoever owed it that: its bell was bumped. One thread of all processes recovers one participant; its number may
    /// be used again afterwards.
    pub fn recover(
        &self,
        dead: u16,
        orphans: Orphans,
        present: impl Fn(u8, u32, u32) -> bool,
        mut wake: impl FnMut(u32),
    ) -> Recovered {
        let mut recovered = Recovered::default();
        for index in 0..self.count() {
            let header = self.slots.at(index);
            self.recover_slot(index, header, dead, orphans, &present, &mut recovered);
            let word = header.word();
            match word.state() {
                State::Replied | State::Died | State::Unrun
                    if word.asleep() && !mutant("owned: recovery does not ring") =>
                {
                    self.bells.at(index).fetch_add(1, Ordering::AcqRel);
                    wake(index);
                }
                // It may have lain in a place of the dead process. In one of a living process it is found there anyhow.
                State::Free => {
                    if let Some(range) = self.range_of(index) {
                        self.hint(range, index, false);
                    }
                }
                _ => {}
            }
        }
        recovered
    }

    fn recover_slot(
        &self,
        index: u32,
        header: &Header<B>,
        dead: u16,
        orphans: Orphans,
        present: impl Fn(u8, u32, u32) -> bool,
        recovered: &mut Recovered,
    ) {
        loop {
            let word = header.word();
            let (holds, calls) = (word.holder() == dead, word.caller() == dead);
            let state = word.state();
            if matches!(state, State::Free | State::Unknown) || !holds && !calls {
                return;
            }
            let others = word.caller() != 0 && !calls;
            let execute = orphans == Orphans::Execute;
            let next = match state {
                State::Queued
                    if present(word.ring(), index, word.generation()) && !mutant("owned: queued slot freed") =>
                {
                    let word = word.held_by(0);
                    if word.event() { word } else { word.orphaned(execute) }
                }
                State::Taken if !holds => word.orphaned(execute),
                State::Executing if !holds => word.orphaned(false),
                State::Taken if others => word.with(State::Unrun).held_by(0),
                State::Executing if others && !mutant("owned: executing slot freed by recovery") => {
                    word.with(State::Died).held_by(0)
                }
                _ => word.freed(),
            };
            let ends = matches!(state, State::Executing if holds)
                || matches!(state, State::Replied | State::Died | State::Unrun);
            if ends && !mutant("owned: ext not freed by recovery") {
                self.free_ext(header);
            }
            if mutant("owned: recovery stores") {
                header.store(next);
            } else if header.swap(word, next).is_err() {
                continue;
            }
            match next.state() {
                State::Free => recovered.freed += 1,
                State::Died | State::Unrun => recovered.died += 1,
                _ => recovered.orphaned += 1,
            }
            return;
        }
    }
}
