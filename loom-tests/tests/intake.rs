//! The receiving side of a lane with several threads of one end: who sleeps, who is woken, who takes what.
//!
//! Modelled: the intake and the sleep that ship, against a sender that does what an end does after it has published; the loop
//! around them follows that of an end (`wake.rs` has whole ends, with fewer threads). Receivers that spin or park, callers
//! that wait for what is nested in their call, messages set aside or put back. Not modelled: replies.

#![cfg(busway_loom)]

use busway::internals::link::words::{Body, entry};
use busway::internals::link::{Intake, IntakeWords};
use busway::region::Array;
use busway::ring::spsc::{Entry, Producer};
use busway::sync::{AtomicU32, FutexWord, Mutex, Ordering, PeerWord, fence};
use busway::wake::{Deadline, How, Ringer, Sleep, Spot};
use busway_loom_tests::{Failure, Model};
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use loom::thread::JoinHandle;
use std::sync::Arc;

const CALLERS: Model = Model::new("intake: two callers asleep, each takes what is nested in its call").bound(2);
const RECEIVER_AND_CALLER: Model = Model::new("intake: a receiver takes one message, a caller the next").bound(2);
const SPINNER: Model = Model::new("intake: one receiver spins, the other falls asleep").bound(3);
const ASIDE: Model = Model::new("intake: a caller sets a message aside, a receiver looks");
const PUT_BACK: Model = Model::new("intake: one receiver gives a message back, the other falls asleep").bound(3);

const ENTRIES: u32 = 4;

/// A lane, seen from both sides.
struct Lane {
    tx: Mutex<Producer<Body>>,
    rung: Ringer,
    bell: AtomicU32,
    intake: Intake,
    pos: AtomicU32,
    park: AtomicU32,
    gate: AtomicU32,
    sleep: Sleep,
    _entries: Box<[Entry<Body>]>,
}

/// What a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    Anything,
    /// What is nested in the call of this cell.
    ChildOf(u32),
}

impl Lane {
    fn new() -> Arc<Self> {
        let entries: Box<[_]> = (0..ENTRIES).map(|i| Entry::new(i, ENTRIES, 0, Body::default())).collect();
        Arc::new_cyclic(|lane: &std::sync::Weak<Self>| {
            let pos = lane.as_ptr().cast::<u8>().wrapping_add(core::mem::offset_of!(Self, pos)).cast::<PeerWord>();
            // SAFETY: entries and position lie on the heap until the lane is dropped, and with it both ends of the ring.
            unsafe {
                let pos = NonNull::new(pos.cast_mut()).expect("an address inside the lane");
                Self {
                    tx: Mutex::new(Producer::new(NonNull::from(&entries[..]).cast(), pos, ENTRIES, 0)),
                    rung: Ringer::default(),
                    bell: AtomicU32::new(0),
                    intake: Intake::new(Array::of(&entries), 0, 0),
                    pos: AtomicU32::new(0),
                    park: AtomicU32::new(0),
                    gate: AtomicU32::new(0),
                    sleep: Sleep::default(),
                    _entries: entries,
                }
            }
        })
    }

    fn words(&self) -> IntakeWords<'_> {
        IntakeWords { pos: &self.pos, park: &self.park, bell: &self.bell }
    }

    /// Sends an event, nested in the call of a cell or in none.
    fn send(&self, parent: Option<u32>) {
        let tag = u32::from(entry::EVENT) | parent.map_or(0, |cell| (cell + 1) << 16);
        self.tx.lock().publish(tag, Body::default());
        fence(Ordering::SeqCst);
        if self.gate.load(Ordering::Relaxed) != 0 {
            self.rung.ring(PeerWord::of(&self.park), &self.bell, 1);
        }
    }

    fn take(&self, wants: Wants, spun: bool) -> Option<()> {
        let words = self.words();
        if !spun && !self.intake.ready(&words) {
            return None;
        }
        match wants {
            Wants::Anything => {
                let (taken, _) = self.intake.take(&words, &mut MaybeUninit::uninit(), spun);
                taken.then_some(())
            }
            Wants::ChildOf(cell) => self.intake.take_child(&words, cell).0.map(drop),
        }
    }

    /// Takes one message, asleep until it is there.
    fn wait(&self, wants: Wants) {
        loop {
            if self.take(wants, false).is_some() {
                return;
            }
            let spot = Place { lane: self, receiver: wants == Wants::Anything };
            // A receiver only looks, and takes when it is awake again; a caller takes at once.
            let mut look = || match wants {
                Wants::Anything => self.intake.ready(&self.words()).then_some(false),
                Wants::ChildOf(_) => self.take(wants, false).map(|()| true),
            };
            if let (Some(true), _) = self.sleep.by_futex(&self.gate, &spot, Deadline::NEVER, &mut look) {
                return;
            }
        }
    }
}

struct Place<'a> {
    lane: &'a Lane,
    receiver: bool,
}

impl Spot for Place<'_> {
    fn bells<R>(&self, sleep: impl FnOnce(&[FutexWord<'_>]) -> R) -> R {
        sleep(&[FutexWord::shared(&self.lane.bell, self.lane.bell.load(Ordering::Acquire))])
    }
    fn park(&self, how: How) {
        self.lane.intake.park(&self.lane.words(), how, self.receiver, false);
    }
    fn unpark(&self, how: How) {
        self.lane.intake.unpark(&self.lane.words(), how, self.receiver);
        if !self.receiver {
            let _ = self.lane.intake.pass_on(&self.lane.words());
        }
    }
}

fn on_thread(lane: &Arc<Lane>, body: impl FnOnce(&Lane) + 'static) -> JoinHandle<()> {
    let lane = lane.clone();
    loom::thread::spawn(move || body(&lane))
}

fn callers() {
    let lane = Lane::new();
    let [first, second] = [0, 1].map(|cell| on_thread(&lane, move |lane| lane.wait(Wants::ChildOf(cell))));
    lane.send(Some(1));
    second.join().unwrap();
    lane.send(Some(0));
    first.join().unwrap();
}

/// Whether a message is there is asked without the lock.
fn aside() {
    let lane = Lane::new();
    lane.send(None);
    let receiver = on_thread(&lane, |lane| assert!(lane.intake.ready(&lane.words()), "the message has vanished"));
    assert!(lane.take(Wants::ChildOf(0), false).is_none());
    receiver.join().unwrap();
}

/// The receiver goes off with the first message; what is behind it is the caller's.
fn receiver_and_caller() {
    let lane = Lane::new();
    let receiver = on_thread(&lane, |lane| lane.wait(Wants::Anything));
    let caller = on_thread(&lane, |lane| lane.wait(Wants::ChildOf(0)));
    lane.send(None);
    lane.send(Some(0));
    receiver.join().unwrap();
    caller.join().unwrap();
}

/// One receiver spins, and so clears the mark of the other; it goes off with one of two messages.
fn spinner_and_sleeper() {
    let lane = Lane::new();
    let sleeper = on_thread(&lane, |lane| lane.wait(Wants::Anything));
    assert!(lane.intake.begin_spin(&lane.words()));
    lane.send(None);
    lane.send(None);
    assert!(lane.take(Wants::Anything, true).is_some());
    sleeper.join().unwrap();
}

/// One receiver takes two messages, gives the second back and goes off.
fn put_back() {
    let lane = Lane::new();
    let sleeper = on_thread(&lane, |lane| lane.wait(Wants::Anything));
    lane.send(None);
    lane.send(None);
    let mut chunk = [const { MaybeUninit::uninit() }; 2];
    let (taken, _) = lane.intake.take_chunk(&lane.words(), &mut chunk, false);
    // SAFETY: the first `taken` were written.
    let rest = chunk[..taken].iter().skip(1).map(|taken| unsafe { taken.assume_init() });
    let _ = lane.intake.put_back(&lane.words(), rest);
    if taken == 0 {
        lane.wait(Wants::Anything);
    }
    sleeper.join().unwrap();
}

#[test]
fn each_caller_gets_what_is_nested_in_its_call() {
    CALLERS.holds(callers);
}

#[test]
fn what_is_set_aside_is_always_there() {
    ASIDE.holds(aside);
}

#[test]
fn what_is_set_aside_comes_before_the_position() {
    let vanished = Failure::Assertion("the message has vanished");
    ASIDE.fails("intake: set aside after the position", vanished, aside);
}

#[test]
fn a_caller_gets_what_is_behind_a_message() {
    RECEIVER_AND_CALLER.holds(receiver_and_caller);
}

#[test]
fn what_a_caller_left_alone_is_told() {
    RECEIVER_AND_CALLER.fails("wake: own bell not bumped", Failure::Deadlock, receiver_and_caller);
}

#[test]
fn a_spinner_hands_on() {
    SPINNER.holds(spinner_and_sleeper);
}

#[test]
fn a_thread_about_to_sleep_is_woken_by_its_own_side() {
    SPINNER.fails("wake: own bell not bumped", Failure::Deadlock, spinner_and_sleeper);
}

#[test]
fn what_is_given_back_is_received() {
    PUT_BACK.holds(put_back);
}

#[test]
fn giving_back_is_told() {
    PUT_BACK.fails("wake: own bell not bumped", Failure::Deadlock, put_back);
}
