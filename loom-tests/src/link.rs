//! A link small enough for a model.

use busway::sync::PeerCell;
use busway::{Config, Geometry, Idle, Link, SizeClass};
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use loom::thread::JoinHandle;
use std::sync::Arc;

/// Both ends of a link with the smallest rings there are (eight entries and eight cells, of which an eighth is kept for
/// nested calls) and one slot of 64 bytes in each direction, whose payload is tracked.
pub struct Ends {
    /// One end.
    pub host: Kept<Link>,
    /// The other end.
    pub plugin: Kept<Link>,
    /// What is in the slot of the host.
    pub to_plugin: Payload,
    /// What is in the slot of the plugin.
    pub to_host: Payload,
}

/// Makes the two ends, whose threads wait as `idle` says. Every thread of a model holds them until it is done, so that what
/// closes them is the end of the model.
pub fn ends(idle: Idle) -> Arc<Ends> {
    ends_of(Link::pair(&config(idle)))
}

/// As [`ends`], with doorbells for event loops.
pub fn ends_with_doorbells(idle: Idle) -> Arc<Ends> {
    ends_of(Link::pair_with_doorbells(&config(idle)))
}

fn config(idle: Idle) -> Config {
    let geometry = Geometry { entries: 8, cells: 8, classes: vec![SizeClass { size: 64, count: 1 }] };
    Config::default().idle(idle).geometry(geometry)
}

fn ends_of(pair: busway::Result<(Link, Link)>) -> Arc<Ends> {
    let (host, plugin) = pair.expect("a geometry within bounds");
    Arc::new(Ends {
        host: Kept::new(host),
        plugin: Kept::new(plugin),
        to_plugin: Payload::new(),
        to_host: Payload::new(),
    })
}

/// A value that is dropped unless the model has failed: that is the end of its words, which cannot be used any more.
pub struct Kept<T>(ManuallyDrop<T>);

impl<T> Kept<T> {
    /// Keeps a value.
    pub fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }

    /// Gives it back.
    pub fn into_inner(kept: Self) -> T {
        let mut kept = ManuallyDrop::new(kept);
        // SAFETY: taken once, because what kept it is not dropped.
        unsafe { ManuallyDrop::take(&mut kept.0) }
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Kept<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.0) }
        }
    }
}

/// Stands for the bytes of the one slot of an end, which loom does not see: written and read at the same moments, so that
/// a slot which two hold, or which is reused before its last reader is done, is a race.
pub struct Payload(PeerCell<u64>);

impl Payload {
    /// A length that takes a slot.
    pub const LENGTH: usize = 48;

    fn new() -> Self {
        Self(PeerCell::new(0))
    }

    /// Writes; the slot must be loaned to this thread.
    pub fn write(&self, value: u64) {
        // SAFETY: exclusive if the slot is, which the model checks.
        unsafe { self.0.write(value) }
    }

    /// Reads; a message with the slot must be held.
    pub fn read(&self) -> u64 {
        self.0.read()
    }
}

/// Runs `body` with the ends on a thread of its own.
pub fn on_thread<R: 'static>(ends: &Arc<Ends>, body: impl FnOnce(&Ends) -> R + 'static) -> JoinHandle<R> {
    let ends = ends.clone();
    loom::thread::spawn(move || body(&ends))
}
