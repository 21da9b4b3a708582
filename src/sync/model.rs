//! The same names under loom. The futex is a queue of parked threads behind one mutex; time stands still.
//!
//! # Steps
//!
//! Loom explores another order of two accesses to a word only if they are the last two that depend on each other. A thread that
//! loads a word and stores into it later hides what others did before its load: a push beside a pop was one iteration, in
//! which the pop comes first. So in a [stepwise](explore_steps) model each access also swaps one word that all threads share,
//! relaxed, and within its preemption bound all orders of all accesses are explored.

use super::Woken;
use core::cell::Cell;
use core::num::NonZeroU32;
use core::sync::atomic::Ordering::{self, SeqCst};
pub use loom::sync::MutexGuard;
pub use loom::sync::atomic::fence;

loom::lazy_static! {
    static ref STEPS: loom::sync::atomic::AtomicU64 = loom::sync::atomic::AtomicU64::new(0);
}

thread_local! {
    // Loom runs all threads of a model on the thread of its test, so these are settings of a test.
    static STEPWISE: Cell<bool> = const { Cell::new(false) };
    static MUTANT: Cell<&'static str> = const { Cell::new("") };
}

/// Runs `body`, whose models explore all orders of accesses.
pub fn explore_steps<R>(body: impl FnOnce() -> R) -> R {
    STEPWISE.set(true);
    let result = body();
    STEPWISE.set(false);
    result
}

fn step() {
    if STEPWISE.get() {
        STEPS.fetch_add(0, Ordering::Relaxed);
    }
}

macro_rules! atomic {
    ($name:ident, $value:ty, $($method:ident),*) => {
        /// As loom's, each access a step.
        #[derive(Debug, Default)]
        pub struct $name(loom::sync::atomic::$name);

        impl $name {
            /// A word.
            pub fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            /// Loads it.
            pub fn load(&self, order: Ordering) -> $value {
                step();
                self.0.load(order)
            }

            /// Stores into it.
            pub fn store(&self, value: $value, order: Ordering) {
                step();
                self.0.store(value, order);
            }

            /// Compares and swaps.
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                step();
                self.0.compare_exchange(current, new, success, failure)
            }

            /// Compares and swaps.
            pub fn compare_exchange_weak(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                step();
                self.0.compare_exchange_weak(current, new, success, failure)
            }

            $(
                /// As loom's.
                pub fn $method(&self, value: $value, order: Ordering) -> $value {
                    step();
                    self.0.$method(value, order)
                }
            )*
        }
    };
}
atomic!(AtomicBool, bool, swap);
atomic!(AtomicU32, u32, swap, fetch_add, fetch_sub, fetch_or, fetch_and);
atomic!(AtomicU64, u64, swap, fetch_add, fetch_sub, fetch_or, fetch_and, fetch_min);

/// As the native mutex.
#[derive(Debug, Default)]
pub struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A mutex around `value`.
    pub fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    /// Locks.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }
}

/// Whether the mutant of this name is switched on for this test.
pub fn mutant(name: &str) -> bool {
    MUTANT.get() == name
}

/// Runs `body` with one mutant switched on.
pub fn with_mutant<R>(name: &'static str, body: impl FnOnce() -> R) -> R {
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            MUTANT.set("");
        }
    }
    let _off = Off;
    MUTANT.set(name);
    body()
}

/// One word of a futex wait.
#[derive(Clone, Copy)]
pub struct FutexWord<'a> {
    word: &'a AtomicU32,
    expected: u32,
    bits: NonZeroU32,
}

impl<'a> FutexWord<'a> {
    /// A word in shared memory.
    pub fn shared(word: &'a AtomicU32, expected: u32) -> Self {
        Self { word, expected, bits: NonZeroU32::MAX }
    }

    /// A word of this process.
    pub fn private(word: &'a AtomicU32, expected: u32) -> Self {
        Self { word, expected, bits: NonZeroU32::MAX }
    }

    /// The same, to be woken only for one of these bits.
    pub fn for_bits(self, bits: NonZeroU32) -> Self {
        Self { bits, ..self }
    }
}

struct Sleeper {
    addresses: Vec<usize>,
    bits: u32,
    thread: loom::thread::Thread,
}

loom::lazy_static! {
    static ref SLEEPERS: loom::sync::Mutex<Vec<Sleeper>> = loom::sync::Mutex::new(Vec::new());
}

/// Sleeps while `word` has the expected value.
pub fn futex_wait(word: FutexWord<'_>, until: Option<u64>) -> Woken {
    futex_wait_any(&[word], until)
}

/// Sleeps while all `words` have their expected values.
pub fn futex_wait_any(words: &[FutexWord<'_>], until: Option<u64>) -> Woken {
    let mut sleepers = SLEEPERS.lock().unwrap();
    if words.iter().any(|w| w.word.load(SeqCst) != w.expected) {
        return Woken::Look;
    }
    if until.is_some_and(|until| until <= now()) {
        return Woken::TimedOut;
    }
    let addresses = words.iter().map(|w| core::ptr::from_ref(w.word).addr()).collect();
    let bits = words.iter().fold(0, |bits, word| bits | word.bits.get());
    sleepers.push(Sleeper { addresses, bits, thread: loom::thread::current() });
    drop(sleepers);
    loom::thread::park();
    Woken::Look
}

/// Wakes up to `count` sleepers of `word`, the longest asleep first.
pub fn futex_wake(word: &AtomicU32, count: u32, _private: bool) {
    futex_wake_bits(word, count, NonZeroU32::MAX);
}

/// Wakes up to `count` sleepers of `word` that sleep for one of `bits`.
pub fn futex_wake_bits(word: &AtomicU32, count: u32, bits: NonZeroU32) {
    let address = core::ptr::from_ref(word).addr();
    let mut left = count;
    SLEEPERS.lock().unwrap().retain(|s| {
        let hit = left > 0 && s.bits & bits.get() != 0 && s.addresses.contains(&address);
        if hit {
            left -= 1;
            s.thread.unpark();
        }
        !hit
    });
}

/// The clock of a model stands still at 1: a deadline of one nanosecond has passed from the start, any other never does.
pub fn now() -> u64 {
    1
}

/// All threads of a model run on one CPU.
pub fn cpu() -> u32 {
    0
}

/// A spin without progress of others never ends in a model, so a spin is a yield.
pub fn spin_loop() {
    loom::thread::yield_now();
}

/// A model has no caches.
pub fn prefetch_read(_at: core::ptr::NonNull<u8>, _len: usize) {}

/// As above.
pub fn demote(_at: core::ptr::NonNull<u8>, _len: usize) {}

/// As above.
pub fn prefetch_write<T>(_line: &T) {}

/// Lets another thread run.
pub fn yield_now() {
    loom::thread::yield_now();
}

/// A model never forks.
#[derive(Clone, Copy, Debug)]
pub struct ForkGuard;

impl ForkGuard {
    /// As the native one.
    pub fn none() -> Self {
        Self
    }

    /// As the native one.
    pub fn new() -> rustix::io::Result<Self> {
        Ok(Self)
    }

    /// Never.
    pub fn forked(&self) -> bool {
        false
    }
}

/// Models take the paths of unnumbered threads unless they say so.
pub fn thread_number() -> Option<usize> {
    NUMBER.with(Cell::get)
}

loom::thread_local! {
    static NUMBER: Cell<Option<usize>> = Cell::new(None);
}

/// Gives this thread of a model a number.
pub fn set_thread_number(number: usize) {
    NUMBER.with(|n| n.set(Some(number)));
}
