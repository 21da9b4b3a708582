//! Finding a free slot, and giving one back.

use super::{Gone, Handle, Range, State, Table, Word};
use crate::sync::{AtomicU32, Ordering, mutant, thread_number};
use bytemuck::{AnyBitPattern, NoUninit};

/// How many words of bitmap a table of such classes has.
pub fn hint_words(counts: impl IntoIterator<Item = u32>) -> u32 {
    counts.into_iter().map(|count| count.div_ceil(64)).sum()
}

impl<B: NoUninit + AnyBitPattern> Table<B> {
    /// A free slot of the class, now owned by this participant; `None` if all are out.
    #[inline]
    pub fn alloc(&self, class: u8) -> Option<Handle> {
        let range = self.classes.get(usize::from(class))?;
        if let Some(place) = self.place(range) {
            let kept = place.load(Ordering::Relaxed);
            if kept != 0 {
                place.store(0, Ordering::Relaxed);
                if let Some(slot) = self.claim(kept - 1) {
                    return Some(slot);
                }
            }
        }
        self.alloc_elsewhere(range)
    }

    #[cold]
    fn alloc_elsewhere(&self, range: &Range) -> Option<Handle> {
        let count = range.class.count;
        let words = count.div_ceil(64);
        // Participants begin at different words, so that they meet less often.
        for turn in 0..words {
            let word = (turn + u32::from(self.me)) % words;
            let mut free = !self.hints.at(range.hints + word).load(Ordering::Relaxed);
            while free != 0 {
                let index = word * 64 + free.trailing_zeros();
                if index < count
                    && let Some(slot) = self.claim(range.first + index)
                {
                    self.hint(range, slot.index, true);
                    return Some(slot);
                }
                free &= free - 1;
            }
        }
        if mutant("owned: hints believed") {
            return None;
        }
        (range.first..range.first + count).find_map(|index| self.claim(index))
    }

    fn claim(&self, index: u32) -> Option<Handle> {
        let slot = self.header(index)?;
        let word = slot.word();
        if word.state() != State::Free && !mutant("owned: claimed whatever its state") {
            return None;
        }
        let generation = word.generation();
        slot.swap(word, Word::free(generation).with(State::Owned).held_by(self.me)).ok()?;
        // Of an earlier life, perhaps; nobody reads it while the slot is Owned.
        slot.ext.store(0, Ordering::Relaxed);
        Some(Handle { index, generation })
    }

    /// Frees an owned slot unsent.
    ///
    /// # Errors
    /// [`Gone`] if it is not this participant's.
    pub fn free(&self, slot: Handle) -> Result<(), Gone> {
        let (header, word) = self.owned(slot)?;
        header.store(word.freed());
        self.keep(slot.index);
        Ok(())
    }

    /// Remembers a slot that this thread has freed, or lets others find it.
    #[inline]
    pub(super) fn keep(&self, index: u32) {
        let Some(range) = self.range_of(index) else { return };
        match self.place(range) {
            Some(place) if place.load(Ordering::Relaxed) == 0 => place.store(index + 1, Ordering::Relaxed),
            _ => self.hint(range, index, false),
        }
    }

    pub(super) fn hint(&self, range: &Range, index: u32, used: bool) {
        let index = index - range.first;
        let (word, bit) = (self.hints.at(range.hints + index / 64), 1 << (index % 64));
        if used {
            word.fetch_or(bit, Ordering::Relaxed);
        } else if word.load(Ordering::Relaxed) & bit != 0 {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn place(&self, range: &Range) -> Option<&AtomicU32> {
        self.places[thread_number()?].get(range.number)
    }
}
