//! Doing something after each load of what a peer has written, for tests of readers that must not depend on loading it again.

use core::cell::Cell;

/// Told where a load was, and how many words it was.
type Then = Box<dyn FnMut(*const u32, usize)>;

thread_local! {
    static THEN: Cell<Option<Then>> = const { Cell::new(None) };
}

/// Stands after each load of memory that a peer writes: of `len` bytes at `from`.
#[inline]
pub fn loaded<T>(from: *const T, len: usize) {
    if let Some(mut then) = THEN.take() {
        then(from.cast(), len / 4);
        THEN.set(Some(then));
    }
}

/// Runs `body`, and calls `then` after each of its loads on this thread.
pub fn after_loads<R>(then: impl FnMut(*const u32, usize) + 'static, body: impl FnOnce() -> R) -> R {
    THEN.set(Some(Box::new(then)));
    let result = body();
    THEN.set(None);
    result
}
