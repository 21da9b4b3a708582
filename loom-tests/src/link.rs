//! A link small enough for a model.

use busway::sync::PeerCell;
use busway::{Config, Geometry, Idle, Link, SizeClass};
use core::mem::ManuallyDrop;
use loom::thread::JoinHandle;
use std::sync::Arc;

/// Both ends of a link with the smallest rings there are (eight entries and eight cells, of which an eighth is kept for
/// nested calls) and one slot of 64 bytes in each direction, whose payload is tracked.
pub struct Ends {
    /// One end.
    pub host: ManuallyDrop<Link>,
    /// The other end.
    pub plugin: ManuallyDrop<Link>,
    /// What is in the slot of the host.
    pub to_plugin: Payload,
    /// What is in the slot of the plugin.
    pub to_host: Payload,
}

/// Makes the two ends, whose threads wait as `idle` says. Every thread of a model holds them until it is done, so that what
/// closes them is the end of the model.
pub fn ends(idle: Idle) -> Arc<Ends> {
    let geometry = Geometry { entries: 8, cells: 8, classes: vec![SizeClass { size: 64, count: 1 }] };
    let (host, plugin) =
        Link::pair(&Config::default().idle(idle).geometry(geometry)).expect("a geometry within bounds");
    let (host, plugin) = (ManuallyDrop::new(host), ManuallyDrop::new(plugin));
    Arc::new(Ends { host, plugin, to_plugin: Payload::new(), to_host: Payload::new() })
}

impl Drop for Ends {
    fn drop(&mut self) {
        // A model that has failed is over: its words can no longer be used.
        if !std::thread::panicking() {
            // SAFETY: dropped once, here.
            unsafe {
                ManuallyDrop::drop(&mut self.host);
                ManuallyDrop::drop(&mut self.plugin);
            }
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
