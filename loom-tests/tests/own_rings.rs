//! How a crate that uses busway's rings models its own code over them: an example, with nothing but the public API.
//!
//! The code under test here is [`Meter`], which two threads share: one counts what it hands over in a ring, the other
//! what it takes. `RUSTFLAGS="--cfg busway_loom"` makes busway use loom's atomics, and `Spsc::pair` and `Mpmc::group`
//! lie in plain memory.

#![cfg(busway_loom)]

use busway::ring::{Consumer, Mpmc, Producer, Spsc};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use loom::thread;

/// Counts what went into a ring, and what came out.
struct Meter {
    pushed: AtomicUsize,
    popped: AtomicUsize,
}

impl Meter {
    fn send(&self, to: &mut Producer<u64>, value: u64) {
        // Before the push, so that nobody takes what is not counted yet. The ring orders the two.
        self.pushed.fetch_add(1, Relaxed);
        while to.push(value).is_err() {
            thread::yield_now();
        }
    }

    fn receive(&self, from: &mut Consumer<u64>) -> Option<u64> {
        let value = from.pop().expect("a model does not fork")?;
        self.popped.fetch_add(1, Relaxed);
        assert!(self.popped.load(Relaxed) <= self.pushed.load(Relaxed), "taken before it was counted");
        Some(value)
    }
}

#[test]
fn nothing_is_taken_before_it_is_counted() {
    loom::model(|| {
        let meter = Arc::new(Meter { pushed: AtomicUsize::new(0), popped: AtomicUsize::new(0) });
        let (mut producer, mut consumer) = Spsc::pair(2).unwrap();
        let sender = meter.clone();
        let thread = thread::spawn(move || (0..3).for_each(|value| sender.send(&mut producer, value)));
        let mut next = 0;
        while next < 3 {
            match meter.receive(&mut consumer) {
                Some(value) => {
                    assert_eq!(value, next);
                    next += 1;
                }
                None => thread::yield_now(),
            }
        }
        thread.join().unwrap();
    });
}

#[test]
fn one_of_two_consumers_gets_the_element() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let mut members = Mpmc::group(2, 2).unwrap();
        let (other, ours) = (members.pop().unwrap(), members.pop().unwrap());
        ours.push(7u64).unwrap();
        let thread = thread::spawn(move || other.pop().unwrap());
        let popped = [ours.pop().unwrap(), thread.join().unwrap()];
        assert!(matches!(popped, [Some(7), None] | [None, Some(7)]), "{popped:?}");
    });
}
