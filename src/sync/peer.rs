//! A word that another process writes.

use super::{AtomicU32, Ordering, loaded};

/// A 32-bit word in memory of the peer, mapped read-only here: it can be loaded, nothing else.
///
/// Rust promises that a *relaxed* load of a word of this size never writes, so it is the one that may touch a read-only
/// page; the acquire half is a fence behind it. ThreadSanitizer does not understand fences, so under `busway_tsan`, where
/// both ends share one writable mapping, the load itself acquires.
#[derive(Debug)]
#[repr(transparent)]
pub struct PeerWord(AtomicU32);

impl PeerWord {
    /// Sees a word of our own the way the peer does, for in-process pairs and models.
    pub fn of(word: &AtomicU32) -> &PeerWord {
        // SAFETY: the wrapper is transparent and offers less than the word itself.
        unsafe { &*core::ptr::from_ref(word).cast() }
    }

    /// Loads the word, with no ordering. For hints, and before an explicit fence.
    #[inline(always)]
    pub fn hint(&self) -> u32 {
        let value = self.0.load(Ordering::Relaxed);
        loaded(self, 4);
        value
    }

    /// Loads the word and acquires what its writer released with it.
    #[inline(always)]
    pub fn load(&self) -> u32 {
        #[cfg(not(busway_tsan))]
        let value = {
            let value = self.0.load(Ordering::Relaxed);
            super::fence(Ordering::Acquire);
            value
        };
        #[cfg(busway_tsan)]
        let value = self.0.load(Ordering::Acquire);
        loaded(self, 4);
        value
    }
}
