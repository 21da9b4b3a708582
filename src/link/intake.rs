//! The receiving side of a lane: one ring, several threads.
//!
//! Two kinds of threads look at it. *Receivers* take anything. *Callers* wait for a reply of their own and, where a handler is
//! set, serve the calls nested in theirs, and nothing else. A caller that finds another's message at the head leaves it to
//! a receiver if one sleeps (and wakes it), or else sets it aside, so that what it waits for can come up behind it.
//!
//! All that decides who sleeps and who is woken happens under one lock of this process; the other side sees one mark and
//! rings one bell. Whoever takes a message while others sleep wakes one more if another message is there, and otherwise
//! marks again on their behalf and looks again: so no message waits beside a sleeper (`wake`).

use super::words::{Body, entry};
use crate::region::Array;
use crate::ring::spsc::{Consumer, Entry, Message};
use crate::sync::{AtomicBool, AtomicU32, Mutex, Ordering, fence, mutant};
use crate::wake::{How, Marks};
use core::mem::MaybeUninit;
use std::collections::VecDeque;

/// How many messages a batch takes from the ring at once.
pub const CHUNK: usize = 32;

/// The words an intake works with.
#[derive(Clone, Copy, Debug)]
pub struct IntakeWords<'a> {
    /// Ours: how many entries were taken.
    pub pos: &'a AtomicU32,
    /// Ours: the mark of our receivers.
    pub park: &'a AtomicU32,
    /// Rings for our receivers.
    pub bell: &'a AtomicU32,
}

/// A request as it lay in the ring.
pub type Taken = Message<Body>;

/// The receiving side of a lane.
#[derive(Debug)]
pub struct Intake {
    rx: Mutex<Rx>,
    entries: Array<Entry<Body>>,
    /// A receiver is spinning: nobody has to be woken in its place.
    spinning: AtomicBool,
    set_aside: AtomicU32,
    /// No more than this is set aside, whatever comes.
    aside_limit: usize,
    /// Which of our reply cells carry a call of the peer that was taken and not answered. Set under the lock.
    busy: Box<[AtomicBool]>,
}

/// How many times the size of the ring may be set aside: bounds what a side costs us that floods between nested calls.
const RINGS_ASIDE: usize = 16;

/// The kind that a call gets which names a cell that does not exist or is busy: else two of our threads would write one reply.
pub const BAD_CELL: u8 = 0xff;

#[derive(Debug)]
struct Rx {
    ring: Consumer<Body>,
    aside: VecDeque<Taken>,
    marks: Marks,
    receivers_asleep: u32,
    tally: Tally,
}

/// What was received.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub messages: u64,
    pub bytes: u64,
    pub spins_paid: u64,
}

impl Tally {
    #[inline(always)]
    fn count(&mut self, Message { tag, value: body }: &Taken) {
        self.messages += 1;
        // As the peer claims; what it claims is checked before it is used.
        let bytes = if *tag >> 8 & u32::from(entry::SLOT) == 0 { body.length.into() } else { body.inline[1] };
        self.bytes = self.bytes.wrapping_add(bytes);
    }
}

/// Whether a thread that sleeps by descriptor has to be nudged.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nudge(pub bool);

impl Intake {
    /// The receiving side of a ring that stands at `start`, whose calls are answered in `cells` reply cells.
    ///
    /// # Safety
    /// `entries` outlives the intake.
    pub unsafe fn new(entries: Array<Entry<Body>>, start: u32, cells: u32) -> Self {
        // SAFETY: by this function's contract.
        let ring = unsafe { Consumer::new(entries.base(), entries.count(), start) };
        let aside = VecDeque::with_capacity(entries.count() as usize);
        let rx = Rx { ring, aside, marks: Marks::default(), receivers_asleep: 0, tally: Tally::default() };
        Self {
            rx: Mutex::new(rx),
            entries,
            spinning: AtomicBool::new(false),
            set_aside: AtomicU32::new(0),
            aside_limit: entries.count() as usize * RINGS_ASIDE,
            busy: (0..cells).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// How many messages can be there at one time.
    pub fn limit(&self) -> usize {
        self.aside_limit + self.entries.count() as usize
    }

    /// Whether a message is there, without the lock: for polling.
    #[inline(always)]
    pub fn ready(&self, words: &IntakeWords<'_>) -> bool {
        let pos = words.pos.load(Ordering::Relaxed);
        if self.entries.at(pos & (self.entries.count() - 1)).holds(pos) {
            return true;
        }
        // Meets the release of a position that has moved past what was set aside.
        fence(Ordering::Acquire);
        self.set_aside.load(Ordering::Relaxed) != 0
    }

    /// Takes the next message, for a receiver. Returns whether there was one. `spun`: this thread has spun for it, see
    /// [`begin_spin`](Self::begin_spin).
    #[inline(always)]
    pub fn take(&self, words: &IntakeWords<'_>, to: &mut MaybeUninit<Taken>, spun: bool) -> (bool, Nudge) {
        let (count, nudge) = self.take_chunk(words, core::slice::from_mut(to), spun);
        (count > 0, nudge)
    }

    /// Takes what is there into `chunk`, as much as fits; returns how many.
    #[inline(always)]
    pub fn take_chunk(&self, words: &IntakeWords<'_>, chunk: &mut [MaybeUninit<Taken>], spun: bool) -> (usize, Nudge) {
        let mut rx = self.rx.lock();
        self.spun(&mut rx, spun);
        let mut count = 0;
        for place in chunk {
            if !self.next(&mut rx, place) {
                break;
            }
            count += 1;
        }
        // Before anybody acts on them: what a dead process's position had not passed was not executed.
        let late = u32::from(count > 0 && mutant("intake: position told one late"));
        words.pos.store(rx.ring.next().wrapping_sub(late), Ordering::Release);
        (count, self.hand_on(&mut rx, words))
    }

    /// Gives back what was taken in a chunk and not looked at: it is received next.
    pub fn put_back(&self, words: &IntakeWords<'_>, rest: impl DoubleEndedIterator<Item = Taken>) -> Nudge {
        let mut rx = self.rx.lock();
        let mut for_callers = false;
        for taken in rest.rev() {
            for_callers |= taken.tag >> 16 != 0;
            rx.aside.push_front(taken);
            self.set_aside.fetch_add(1, Ordering::Relaxed);
        }
        if for_callers { Nudge(rx.marks.wake_all(words.bell)) } else { self.hand_on(&mut rx, words) }
    }

    #[inline(always)]
    fn spun(&self, rx: &mut Rx, spun: bool) {
        if spun {
            self.spinning.store(false, Ordering::Relaxed);
            rx.tally.spins_paid += 1;
        }
    }

    #[inline(always)]
    fn next(&self, rx: &mut Rx, to: &mut MaybeUninit<Taken>) -> bool {
        if self.set_aside.load(Ordering::Relaxed) != 0 {
            self.set_aside.fetch_sub(1, Ordering::Relaxed);
            match rx.aside.pop_front() {
                Some(taken) => to.write(taken),
                None => return false,
            };
            return true;
        }
        self.pull(rx, to)
    }

    /// Takes the next message from the ring.
    #[inline(always)]
    fn pull(&self, rx: &mut Rx, to: &mut MaybeUninit<Taken>) -> bool {
        if !rx.ring.take_into(to) {
            return false;
        }
        // SAFETY: written just now.
        let taken = unsafe { to.assume_init_mut() };
        rx.tally.count(taken);
        if taken.tag as u8 == entry::CALL {
            match self.busy.get(taken.value.call as u32 as usize) {
                // Acquire meets the release of `answered`: the body of the last reply was written before.
                Some(busy) if !busy.load(Ordering::Acquire) => busy.store(true, Ordering::Relaxed),
                _ => taken.tag |= u32::from(BAD_CELL),
            }
        }
        true
    }

    /// A call was answered: its cell may be named again.
    #[inline(always)]
    pub fn answered(&self, cell: u32) {
        self.busy[cell as usize].store(false, Ordering::Release);
    }

    /// Whether any call was taken and not answered.
    pub fn any_busy(&self) -> bool {
        self.busy.iter().any(|busy| busy.load(Ordering::Relaxed))
    }

    /// Takes the next call nested in the call of our cell `parent`, for the caller that waits there.
    pub fn take_child(&self, words: &IntakeWords<'_>, parent: u32) -> (Option<Taken>, Nudge) {
        let child = |tag: u32| tag >> 16 == parent + 1;
        let mut rx = self.rx.lock();
        if let Some(at) = rx.aside.iter().position(|taken| child(taken.tag)) {
            self.set_aside.fetch_sub(1, Ordering::Relaxed);
            let taken = rx.aside.remove(at);
            words.pos.store(rx.ring.next(), Ordering::Release);
            return (taken, self.hand_on(&mut rx, words));
        }
        let mut found = None;
        let mut left_to_others = false;
        let mut for_other_callers = false;
        while let Some(tag) = rx.ring.peek() {
            if !child(tag) && rx.receivers_asleep > 0 {
                left_to_others = true;
                break;
            }
            if !child(tag) && rx.aside.len() >= self.aside_limit {
                break;
            }
            let mut taken = MaybeUninit::uninit();
            if !self.pull(&mut rx, &mut taken) {
                break;
            }
            // SAFETY: written, as it said.
            let taken = unsafe { taken.assume_init() };
            // The tag that counts is the one that was taken: a peer may change what was peeked at.
            let is_child = child(taken.tag);
            if is_child {
                found = Some(taken);
            } else {
                // Before the position: a thread about to sleep finds the message in the ring or here.
                for_other_callers |= taken.tag >> 16 != 0;
                if mutant("intake: set aside after the position") {
                    words.pos.store(rx.ring.next(), Ordering::Release);
                }
                rx.aside.push_back(taken);
                self.set_aside.fetch_add(1, Ordering::Relaxed);
            }
            // Once a ringful is set aside, what follows goes on counting against the ring: so a side that floods it finds it
            // full, and what is kept there for nested calls comes up.
            if is_child || rx.aside.len() <= self.entries.count() as usize {
                words.pos.store(rx.ring.next(), Ordering::Release);
            }
            if is_child {
                break;
            }
        }
        let nudge = match () {
            // Once, when it is set aside: what it was set aside for looks here again before it sleeps.
            () if for_other_callers => Nudge(rx.marks.wake_all(words.bell)),
            () if left_to_others => Nudge(rx.marks.rouse_one(words.bell)),
            () => self.hand_on(&mut rx, words),
        };
        (found, nudge)
    }

    /// Begins to spin, unless another receiver does: it looks on behalf of all, so the mark of those asleep is cleared.
    pub fn begin_spin(&self, words: &IntakeWords<'_>) -> bool {
        let rx = self.rx.lock();
        if self.spinning.load(Ordering::Relaxed) {
            return false;
        }
        self.spinning.store(true, Ordering::Relaxed);
        if rx.marks.sleepers() > 0 {
            rx.marks.suspend(words.park);
        }
        true
    }

    /// Ends a spin without taking anything or going to sleep: those asleep are marked again.
    pub fn end_spin(&self, words: &IntakeWords<'_>) -> Nudge {
        let mut rx = self.rx.lock();
        self.spinning.store(false, Ordering::Relaxed);
        self.hand_on(&mut rx, words)
    }

    /// Marks this thread as asleep, no longer spinning if it `spun`. Then: raise the gate, fence, look again.
    pub fn park(&self, words: &IntakeWords<'_>, how: How, receiver: bool, spun: bool) {
        let mut rx = self.rx.lock();
        if spun {
            self.spinning.store(false, Ordering::Relaxed);
        }
        rx.receivers_asleep += u32::from(receiver);
        rx.marks.enter(words.park, how);
    }

    /// This thread is awake again.
    pub fn unpark(&self, words: &IntakeWords<'_>, how: How, receiver: bool) {
        let mut rx = self.rx.lock();
        rx.receivers_asleep -= u32::from(receiver);
        rx.marks.leave(words.park, how);
    }

    /// A thread that was woken leaves without taking anything (its reply came, or its time ran out): what it was woken for
    /// is another's now.
    pub fn pass_on(&self, words: &IntakeWords<'_>) -> Nudge {
        self.hand_on(&mut self.rx.lock(), words)
    }

    /// Keeps the promise that no message waits beside a sleeper. Under the lock, by whoever goes off to do something else.
    #[inline(always)]
    fn hand_on(&self, rx: &mut Rx, words: &IntakeWords<'_>) -> Nudge {
        if rx.marks.sleepers() == 0 || mutant("intake: nothing handed on") {
            return Nudge(false);
        }
        self.hand_on_slow(rx, words)
    }

    #[cold]
    fn hand_on_slow(&self, rx: &mut Rx, words: &IntakeWords<'_>) -> Nudge {
        if self.spinning.load(Ordering::Relaxed) {
            return Nudge(false); // it looks, and hands on itself
        }
        // What is set aside concerns receivers; a caller was woken for it, if it is a caller's, when that was done.
        let for_receivers = !rx.aside.is_empty() && rx.receivers_asleep > 0;
        if !for_receivers && !rx.ring.ready() {
            if mutant("intake: sleepers not marked again") {
                return Nudge(false);
            }
            rx.marks.renew(words.park);
            fence(Ordering::SeqCst);
            if !rx.ring.ready() {
                return Nudge(false);
            }
        }
        Nudge(rx.marks.wake_one(words.bell))
    }

    /// What was received so far.
    pub fn tally(&self) -> Tally {
        self.rx.lock().tally
    }
}
