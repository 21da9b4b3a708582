//! The life of a call or an event, step by step.

use super::{Gone, Handle, Header, State, Table, Word};
use crate::ring::mpmc::Slots;
use crate::sync::{Ordering, crash, mutant, prefetch_write};
use bytemuck::{AnyBitPattern, NoUninit};

/// How far a call is, for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not answered yet.
    Pending,
    /// The reply is there, to be read and then completed.
    Replied,
    /// Its worker died; to be completed.
    Died {
        /// Whether it may have been executed.
        maybe_executed: bool,
    },
}

/// What giving up came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// It was still queued: it is not executed.
    NotExecuted,
    /// A worker has it: its reply will be dropped.
    Abandoned,
    /// Too late, it has ended: complete it.
    Ended,
}

/// What a worker may do with a slot that it has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Execute it.
    Execute,
    /// Nothing: its caller had given up, and it is free.
    Abandoned,
}

/// What became of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The caller will see it.
    Seen,
    /// The caller sleeps, and its bell was bumped: wake it.
    Wake {
        /// Its number.
        caller: u16,
    },
    /// Nobody awaits it (any longer): the slot is free.
    Nobody,
}

impl<B: NoUninit + AnyBitPattern> Table<B> {
    /// Makes an owned slot a request for `ring` (below 64): a call of this participant, or an event. Its entry may be
    /// installed afterwards, with the handle that this returns.
    ///
    /// # Errors
    /// [`Gone`] if it is not this participant's.
    #[inline]
    pub fn queue(&self, slot: Handle, ring: u8, event: bool) -> Result<Handle, Gone> {
        let (header, word) = self.owned(slot)?;
        let word = word.sent(self.me, ring, event);
        // A store: while it is Owned nobody else writes it, and recovery only after this process is dead.
        header.store(word);
        Ok(Handle { generation: word.generation(), ..slot })
    }

    pub(super) fn owned(&self, slot: Handle) -> Result<(&Header<B>, Word), Gone> {
        let header = self.header(slot.index).ok_or(Gone)?;
        let word = header.word();
        let ours = word.is(State::Owned, slot.generation) && word.holder() == self.me;
        if ours { Ok((header, word)) } else { Err(Gone) }
    }

    /// Takes a queued slot back, because its ring was full.
    ///
    /// # Errors
    /// [`Gone`] if it was sent after all.
    pub fn unqueue(&self, slot: Handle) -> Result<Handle, Gone> {
        let back = |word: Word| {
            let ours = word.is(State::Queued, slot.generation) && word.holder() == self.me;
            if ours { Ok(Word::free(slot.generation).with(State::Owned).held_by(self.me)) } else { Err(Gone) }
        };
        self.header(slot.index).ok_or(Gone)?.update(back).map(|_| slot)
    }

    /// Gives up a call.
    ///
    /// # Errors
    /// [`Gone`] if it is not a call of this participant that was not yet completed.
    pub fn give_up(&self, slot: Handle) -> Result<GivenUp, Gone> {
        let header = self.header(slot.index).ok_or(Gone)?;
        let mut given_up = GivenUp::Abandoned;
        let swapped = header.update(|word| {
            if word.generation() != slot.generation || word.caller() != self.me {
                return Err(Err(Gone));
            }
            match word.state() {
                State::Queued => {
                    given_up = GivenUp::NotExecuted;
                    Ok(word.freed())
                }
                State::Taken | State::Executing => {
                    given_up = GivenUp::Abandoned;
                    Ok(word.orphaned(false))
                }
                State::Replied | State::Died | State::Unrun => Err(Ok(GivenUp::Ended)),
                _ => Err(Err(Gone)),
            }
        });
        if let Err(refused) = swapped {
            return refused;
        }
        if given_up == GivenUp::NotExecuted {
            self.keep(slot.index);
        }
        Ok(given_up)
    }

    /// How far a call of this participant is. Acquires: after [`Progress::Replied`] the reply can be read.
    ///
    /// # Errors
    /// [`Gone`] if it is not a call of this participant.
    #[inline]
    pub fn progress(&self, slot: Handle) -> Result<Progress, Gone> {
        self.progress_of(slot, self.header(slot.index).ok_or(Gone)?.word())
    }

    fn progress_of(&self, slot: Handle, word: Word) -> Result<Progress, Gone> {
        if word.generation() != slot.generation || word.caller() != self.me {
            return Err(Gone);
        }
        match word.state() {
            State::Queued | State::Taken | State::Executing => Ok(Progress::Pending),
            State::Replied => Ok(Progress::Replied),
            State::Died => Ok(Progress::Died { maybe_executed: true }),
            State::Unrun => Ok(Progress::Died { maybe_executed: false }),
            _ => Err(Gone),
        }
    }

    /// Says that the caller is about to sleep, and returns the value of the [bell](Table::bell) while which it may; or
    /// how the call has ended meanwhile.
    ///
    /// # Errors
    /// [`Gone`] if it is not a call of this participant.
    pub fn sleep(&self, slot: Handle) -> Result<Result<u32, Progress>, Gone> {
        let header = self.header(slot.index).ok_or(Gone)?;
        let bell = self.bells.at(slot.index).load(Ordering::Acquire);
        if mutant("owned: W set without looking again") {
            header.word.fetch_or(Word::default().with_sleeper().bits(), Ordering::AcqRel);
            return Ok(Ok(bell));
        }
        let swapped = header.update(|word| match self.progress_of(slot, word) {
            Ok(Progress::Pending) => Ok(word.with_sleeper()),
            Ok(ended) => Err(Ok(Err(ended))),
            Err(Gone) => Err(Err(Gone)),
        });
        swapped.map_or_else(|refused| refused, |_| Ok(Ok(bell)))
    }

    /// Begins to execute a slot that this participant has taken.
    ///
    /// # Errors
    /// [`Gone`] if it has not.
    pub fn start(&self, slot: Handle) -> Result<Start, Gone> {
        let header = self.header(slot.index).ok_or(Gone)?;
        let word = header.update(|word| {
            if !word.is(State::Taken, slot.generation) || word.holder() != self.me {
                return Err(Gone);
            }
            let abandoned =
                if mutant("owned: event freed as abandoned") { word.caller() == 0 } else { word.abandoned() };
            Ok(if abandoned { word.freed() } else { word.with(State::Executing) })
        })?;
        if word.state() == State::Free {
            self.keep(slot.index);
            return Ok(Start::Abandoned);
        }
        Ok(Start::Execute)
    }

    /// Answers a slot that this participant executes; of an event, says that it is done. What was written into the
    /// slot, and into `payload`, an owned slot of this participant, is the reply. In any case both are out of its
    /// hands.
    ///
    /// # Errors
    /// [`Gone`] if it does not execute the slot, or does not own the payload.
    #[inline]
    pub fn reply(&self, slot: Handle, payload: Option<Handle>) -> Result<Reply, Gone> {
        let header = self.header(slot.index).ok_or(Gone)?;
        if let Some(payload) = payload {
            let word = header.word();
            if !word.is(State::Executing, slot.generation) || word.holder() != self.me {
                return Err(Gone);
            }
            let (attached, word) = self.owned(payload)?;
            header.ext.store(payload.bits(), Ordering::Relaxed);
            // From here on it belongs to `slot`, which recovery finds.
            attached.store(word.with(State::Attached).held_by(0));
        }
        let mut word = header.word();
        loop {
            if !word.is(State::Executing, slot.generation) || word.holder() != self.me {
                return Err(Gone);
            }
            if word.caller() == 0 {
                // Nobody else writes it any more.
                self.free_ext(header);
                header.store(word.freed());
                self.keep(slot.index);
                return Ok(Reply::Nobody);
            }
            match header.swap(word, word.with(State::Replied).held_by(0)) {
                Ok(()) => break,
                Err(now) if mutant("owned: reply does not look again") => {
                    header.store(now.with(State::Replied).held_by(0));
                    break;
                }
                Err(now) => word = now,
            }
        }
        if !word.asleep() || mutant("owned: reply does not look at W") {
            return Ok(Reply::Seen);
        }
        crash();
        self.bells.at(slot.index).fetch_add(1, Ordering::AcqRel);
        Ok(Reply::Wake { caller: word.caller() })
    }

    /// The slot in which the payload of a reply lies, if it is not in the answered slot itself.
    pub fn attached(&self, slot: Handle) -> Option<Handle> {
        let ext = Handle::from_bits(self.header(slot.index)?.ext.load(Ordering::Relaxed))?;
        self.header(ext.index)?.word().is(State::Attached, ext.generation).then_some(ext)
    }

    /// Ends a call that was answered, or whose worker died, after its reply was read: the one completion.
    ///
    /// # Errors
    /// [`Gone`] if it is not a call of this participant that has ended.
    #[inline]
    pub fn complete(&self, slot: Handle) -> Result<Progress, Gone> {
        let header = self.header(slot.index).ok_or(Gone)?;
        let word = header.word();
        let ended = self.progress_of(slot, word)?;
        if ended == Progress::Pending {
            return Err(Gone);
        }
        // It is its caller's alone by now.
        self.free_ext(header);
        header.store(word.freed());
        self.keep(slot.index);
        Ok(ended)
    }

    /// Frees the slot that the header names, if it is still attached to it.
    pub(super) fn free_ext(&self, header: &Header<B>) {
        let Some(ext) = Handle::from_bits(header.ext.load(Ordering::Relaxed)) else { return };
        let Some(attached) = self.header(ext.index) else { return };
        let freed = attached.update(|word| {
            let named = word.is(State::Attached, ext.generation);
            if named { Ok(word.freed()) } else { Err(Gone) }
        });
        if freed.is_ok() {
            self.keep(ext.index);
        }
    }

    #[inline(always)]
    fn take_as(&self, slot: Handle, ring: u8, state: State) -> bool {
        let Some(header) = self.header(slot.index) else { return false };
        // Read first, the line would come to be shared, and then once more to be written.
        prefetch_write(header);
        let taken = header.update(|word| {
            if !word.queued(slot.generation, ring) {
                Err(Gone)
            } else if word.abandoned() {
                Ok(word.freed())
            } else {
                Ok(word.with(state).held_by(self.me))
            }
        });
        match taken.map(Word::state) {
            Ok(State::Free) => {
                self.keep(slot.index);
                false
            }
            Ok(_) => true,
            Err(Gone) => false,
        }
    }

    /// Takes a queued slot and begins to execute it in one step, which saves [`start`](Self::start). If this
    /// participant dies in between, its caller is told that it may have been executed.
    pub fn straight(&self) -> Straight<'_, B> {
        Straight(self)
    }
}

impl<B: NoUninit + AnyBitPattern> Slots for Table<B> {
    /// The enqueuer of a later lap need not look at a slot that is somebody else's by then.
    const CLEARS: bool = true;

    #[inline(always)]
    fn queued(&self, slot: Handle, ring: u8) -> bool {
        self.header(slot.index).is_some_and(|header| header.word().queued(slot.generation, ring))
    }

    #[inline(always)]
    fn take(&self, slot: Handle, ring: u8) -> bool {
        self.take_as(slot, ring, State::Taken)
    }
}

/// A table from which slots are taken straight into execution, see [`Table::straight`].
#[derive(Debug)]
pub struct Straight<'a, B>(&'a Table<B>);

impl<B: NoUninit + AnyBitPattern> Slots for Straight<'_, B> {
    const CLEARS: bool = true;

    #[inline(always)]
    fn queued(&self, slot: Handle, ring: u8) -> bool {
        self.0.queued(slot, ring)
    }

    #[inline(always)]
    fn take(&self, slot: Handle, ring: u8) -> bool {
        self.0.take_as(slot, ring, State::Executing)
    }
}
