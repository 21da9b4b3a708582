//! A doorbell of a model: a word for the event loop of each side. Threads of a model sleep by futex alone.

use crate::error::Result;
use crate::sync::{AtomicU32, FutexWord, Ordering, PeerWord, futex_wait, futex_wake};
use crate::wake::Deadline;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// As the native one.
#[derive(Debug)]
pub struct Doorbell {
    ours: Arc<AtomicU32>,
    theirs: Arc<AtomicU32>,
    seen: AtomicU32,
}

/// As the native one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// The peer has rung.
    pub rung: bool,
    /// Never.
    pub alarm: bool,
}

fn bump(word: &AtomicU32) {
    word.fetch_add(1, Ordering::AcqRel);
    futex_wake(word, u32::MAX, false);
}

impl Doorbell {
    /// Those of both sides.
    pub fn pair() -> (Self, Self) {
        let words = [(); 2].map(|()| Arc::new(AtomicU32::new(0)));
        let of = |ours: &Arc<AtomicU32>, theirs: &Arc<AtomicU32>| Self {
            ours: ours.clone(),
            theirs: theirs.clone(),
            seen: AtomicU32::new(0),
        };
        (of(&words[0], &words[1]), of(&words[1], &words[0]))
    }

    /// A model has no descriptors.
    pub fn new(_socket: OwnedFd, _watched: Vec<OwnedFd>) -> Result<Self> {
        unreachable!("a model has no descriptors")
    }

    /// As the native one.
    pub fn ring(&self) {
        bump(&self.theirs);
    }

    /// Nobody sleeps by descriptor.
    pub fn nudge(&self) {}

    /// As the native one.
    pub fn nudge_all(&self) {
        bump(&self.ours);
    }

    /// Who shares it with the threads is told of all.
    pub fn arm(&self, _armed: bool) {}

    /// Time stands still.
    pub fn ring_at(&self, _at: Deadline) {}

    /// Threads never come here.
    pub fn wait(&self, _until: Option<u64>, _rings: &PeerWord, _traffic: u32) -> bool {
        unreachable!("a sleep by futex has no limit in a model")
    }

    /// As the native one.
    pub fn look(&self, _rings: &PeerWord, _traffic: u32) -> Seen {
        let now = self.ours.load(Ordering::Acquire);
        let rung = self.seen.load(Ordering::Relaxed) != now;
        self.seen.store(now, Ordering::Relaxed);
        Seen { rung, alarm: false }
    }

    /// The event loop sleeps until it is rung.
    pub fn sleep(&self) {
        futex_wait(FutexWord::private(&self.ours, self.seen.load(Ordering::Relaxed)), None);
    }

    /// All rings are heard.
    pub fn paid(&self) {}

    /// Nobody hangs up.
    pub fn settle(&self) -> bool {
        unreachable!("a model has no descriptors")
    }

    /// Never.
    pub fn alarmed(&self) -> bool {
        false
    }

    /// None.
    pub fn watched(&self) -> &[OwnedFd] {
        &[]
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("a model has no descriptors")
    }
}
