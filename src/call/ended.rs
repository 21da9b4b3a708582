//! How a bus ends, and how waiting does.

use crate::error::{Error, Violation};

/// Why a link or a pool is no longer usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    ByUs,
    ByPeer,
    PeerDied,
    Poisoned(Violation),
}

impl Ended {
    /// For a word that is 0 while it goes on.
    pub fn to_word(self) -> u32 {
        match self {
            Ended::ByUs => 1,
            Ended::ByPeer => 2,
            Ended::PeerDied => 3,
            Ended::Poisoned(violation) => 16 + violation as u32,
        }
    }

    /// From such a word.
    pub fn from_word(word: u32) -> Option<Self> {
        use Violation::*;
        Some(match word {
            0 => return None,
            1 => Ended::ByUs,
            2 => Ended::ByPeer,
            3 => Ended::PeerDied,
            word => {
                let all = [Position, SlotReference, ReplyCell, EntryKind, InlineLength, ReplyStatus, ControlMessage];
                Ended::Poisoned(all.into_iter().find(|v| *v as u32 == word - 16).unwrap_or(Position))
            }
        })
    }

    /// As the answer to an operation that has not begun.
    pub fn refusal(self) -> Error {
        match self {
            Ended::ByUs | Ended::ByPeer => Error::Closed,
            Ended::PeerDied => Error::PeerDied { maybe_executed: false },
            Ended::Poisoned(reason) => Error::Poisoned { reason },
        }
    }

    /// As the answer to a call under way, whose request the other side had `taken` from the ring.
    pub fn interruption(self, taken: bool) -> Error {
        match self {
            Ended::ByUs | Ended::ByPeer => Error::Cancelled,
            // A dead process takes nothing any more, so what it had not taken was not executed.
            Ended::PeerDied => Error::PeerDied { maybe_executed: taken },
            Ended::Poisoned(reason) => Error::Poisoned { reason },
        }
    }
}

/// Why a wait ended without what it waited for.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    Deadline,
    Ended(Ended),
}

impl Stop {
    /// As the answer to an operation that did nothing.
    pub fn refusal(self) -> Error {
        match self {
            Stop::Deadline => Error::Timeout { maybe_executed: false },
            Stop::Ended(ended) => ended.refusal(),
        }
    }
}
