//! The word of a slot: who has it, and how far its request is.

/// Bits of a generation.
pub const GENERATION_BITS: u32 = 28;
const GENERATION: u64 = (1 << GENERATION_BITS) - 1;
/// Participants are numbered from 1 to this.
pub const MAX_PARTICIPANT: u16 = (1 << 12) - 1;
/// Slots of one table, and so of one segment: an index and "none" fit 16 bits.
pub const MAX_SLOTS: u32 = (1 << 16) - 1;

/// How far a slot is. Zeroed memory is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody's.
    Free,
    /// Its holder writes into it.
    Owned,
    /// In a ring, or on its way there. Its holder is who sent it, until recovery forgets them.
    Queued,
    /// Its holder, a worker, has it, and its user has not.
    Taken,
    /// Handed to the user of its holder.
    Executing,
    /// Answered: the caller's to read.
    Replied,
    /// Its worker died, perhaps while executing it.
    Died,
    /// Its worker died before executing it.
    Unrun,
    /// The payload of a reply. It belongs to the slot that names it, and to no process.
    Attached,
    /// Not a state. Nobody wrote this by our rules.
    Unknown,
}

/// A slot word: generation 28, caller 12, holder 12, ring 6, flags 2, state 4, from the top. Zero is free, of
/// generation 0.
///
/// A caller is who awaits the reply, 0 for none; a holder is who must not die.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word(u64);

impl Word {
    const CALLER: u32 = 24;
    const HOLDER: u32 = 12;
    const RING: u32 = 6;
    const EVENT: u64 = 1 << 5;
    const ASLEEP: u64 = 1 << 4;

    /// From the bits in memory.
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits in memory.
    #[inline(always)]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// A free slot of this generation.
    #[inline(always)]
    pub fn free(generation: u32) -> Self {
        Self((u64::from(generation) & GENERATION) << 36)
    }

    /// How far it is.
    #[inline(always)]
    pub fn state(self) -> State {
        const STATES: [State; 16] = {
            use State::*;
            [
                Free, Owned, Queued, Taken, Executing, Replied, Died, Unrun, Attached, Unknown, Unknown, Unknown,
                Unknown, Unknown, Unknown, Unknown,
            ]
        };
        STATES[(self.0 & 15) as usize]
    }

    /// How often the slot was sent or freed, modulo 2^28.
    #[inline(always)]
    pub fn generation(self) -> u32 {
        (self.0 >> 36) as u32
    }

    /// Who awaits the reply; 0 for nobody.
    #[inline(always)]
    pub fn caller(self) -> u16 {
        (self.0 >> Self::CALLER) as u16 & MAX_PARTICIPANT
    }

    /// Who has it; 0 for nobody.
    #[inline(always)]
    pub fn holder(self) -> u16 {
        (self.0 >> Self::HOLDER) as u16 & MAX_PARTICIPANT
    }

    /// Number of the ring it is queued in.
    #[inline(always)]
    pub fn ring(self) -> u8 {
        (self.0 >> Self::RING) as u8 & 63
    }

    /// Whether the caller sleeps on the slot's bell.
    #[inline(always)]
    pub fn asleep(self) -> bool {
        self.0 & Self::ASLEEP != 0
    }

    /// Whether it is to be executed though nobody awaits a reply.
    #[inline(always)]
    pub fn event(self) -> bool {
        self.0 & Self::EVENT != 0
    }

    /// Whether it is a call whose caller is gone.
    #[inline(always)]
    pub fn abandoned(self) -> bool {
        self.caller() == 0 && !self.event()
    }

    /// In this state and generation.
    #[inline(always)]
    pub fn is(self, state: State, generation: u32) -> bool {
        self.state() == state && self.generation() == generation
    }

    /// Queued in this ring, in this generation.
    #[inline(always)]
    pub fn queued(self, generation: u32, ring: u8) -> bool {
        self.is(State::Queued, generation) && self.ring() == ring
    }

    /// Free, with the next generation.
    #[inline(always)]
    pub fn freed(self) -> Self {
        Self::free(self.generation().wrapping_add(1))
    }

    /// The next generation, queued in `ring` by `sender`, who awaits a reply unless it is an event.
    #[inline(always)]
    pub fn sent(self, sender: u16, ring: u8, event: bool) -> Self {
        let sent = Self(self.freed().0 | u64::from(ring & 63) << Self::RING).held_by(sender).with(State::Queued);
        if event { Self(sent.0 | Self::EVENT) } else { sent.called_by(sender) }
    }

    /// The same in another state.
    #[inline(always)]
    pub fn with(self, state: State) -> Self {
        Self(self.0 & !15 | state as u64)
    }

    /// The same with another holder.
    #[inline(always)]
    pub fn held_by(self, holder: u16) -> Self {
        Self(self.0 & !(u64::from(MAX_PARTICIPANT) << Self::HOLDER) | u64::from(holder) << Self::HOLDER)
    }

    fn called_by(self, caller: u16) -> Self {
        Self(self.0 & !(u64::from(MAX_PARTICIPANT) << Self::CALLER) | u64::from(caller) << Self::CALLER)
    }

    /// The same, with nobody who awaits the reply. `execute` makes an event of it, so that it is executed anyhow.
    #[inline(always)]
    pub fn orphaned(self, execute: bool) -> Self {
        let word = Self(self.called_by(0).0 & !Self::ASLEEP);
        if execute { Self(word.0 | Self::EVENT) } else { word }
    }

    /// The same with its caller asleep.
    #[inline(always)]
    pub fn with_sleeper(self) -> Self {
        Self(self.0 | Self::ASLEEP)
    }
}

/// Names one use of a slot. It fits the words that carry it: generation 28, index 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// Number of the slot.
    pub index: u32,
    /// Which use of it.
    pub generation: u32,
}

impl Handle {
    /// 44 bits, never 0, for a word that says 0 for "none".
    #[inline(always)]
    pub fn bits(self) -> u64 {
        (u64::from(self.generation) & GENERATION) << 16 | u64::from(self.index + 1) & 0xffff
    }

    /// From such bits; what they name may not exist.
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Option<Self> {
        let index = (bits as u32 & 0xffff).checked_sub(1)?;
        Some(Self { index, generation: (bits >> 16 & GENERATION) as u32 })
    }
}

#[cfg(all(test, not(busway_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_zeroed_word_is_free() {
        assert_eq!(Word::default(), Word::free(0));
        assert_eq!(Word::default().state(), State::Free);
    }

    #[test]
    fn fields_keep_to_their_bits() {
        let word = Word::free(GENERATION as u32).sent(MAX_PARTICIPANT, 63, false);
        let fields = (word.generation(), word.caller(), word.holder(), word.ring(), word.asleep(), word.event());
        assert_eq!(fields, (0, MAX_PARTICIPANT, MAX_PARTICIPANT, 63, false, false));
        assert!(word.queued(0, 63));
        let word = word.with_sleeper().held_by(5).with(State::Taken);
        assert_eq!((word.holder(), word.caller(), word.state()), (5, MAX_PARTICIPANT, State::Taken));
        let word = word.orphaned(false);
        assert_eq!((word.holder(), word.caller(), word.asleep(), word.abandoned()), (5, 0, false, true));
        assert!(!word.orphaned(true).abandoned());
        assert_eq!(word.freed(), Word::free(1));
    }

    #[test]
    fn a_handle_is_never_zero_bits() {
        let last = Handle { index: MAX_SLOTS - 1, generation: GENERATION as u32 };
        assert_eq!(Handle::from_bits(last.bits()), Some(last));
        assert_eq!(last.bits() >> 44, 0);
        assert_eq!(Handle::from_bits(0), None);
        assert_ne!(Handle { index: 0, generation: 0 }.bits(), 0);
    }
}
