//! What can be chosen about a link.

use crate::link::{Geometry, Options, Side};
use crate::wake::Idle;
use core::time::Duration;

/// What can be chosen about one side of a link.
///
/// ```
/// use busway::{Config, Idle};
///
/// let config = Config::default().idle(Idle::Park);
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    pub(crate) geometry: Geometry,
    idle: Idle,
    trust_peer: bool,
    max_depth: u32,
    reply_patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            geometry: Geometry::default(),
            idle: Idle::default(),
            trust_peer: false,
            max_depth: 8,
            reply_patience: Duration::from_millis(5),
        }
    }
}

impl Config {
    /// Sizes of ring, reply cells and slots. The host's choice counts; a plugin uses what its host has made.
    pub fn geometry(mut self, geometry: Geometry) -> Self {
        self.geometry = geometry;
        self
    }

    /// What a waiting thread does.
    pub fn idle(mut self, idle: Idle) -> Self {
        self.idle = idle;
        self
    }

    /// How deep nested calls may be served on one thread that waits in a call; deeper ones are rejected with
    /// [`reject::TOO_DEEP`](crate::reject::TOO_DEEP). 8 by default.
    pub fn max_depth(mut self, depth: u32) -> Self {
        self.max_depth = depth;
        self
    }

    /// How long a host's reply waits at most for a slot, within its caller's deadline: a plugin that gives none back would otherwise
    /// say itself how long it keeps the thread that answers. 5 ms by default. A side that trusts the other waits until the
    /// caller's deadline; so does [`loan_async`](crate::Request::loan_async), which keeps no thread.
    pub fn reply_patience(mut self, patience: Duration) -> Self {
        self.reply_patience = patience;
        self
    }

    /// Lets a host see its plugin's payloads as slices, like a plugin sees its host's.
    ///
    /// # Safety
    /// The plugin must leave a slot alone from sending it until it is given back: a reference promises that nobody writes.
    /// A plugin that uses this library without `unsafe` does.
    pub unsafe fn trust_peer(mut self) -> Self {
        self.trust_peer = true;
        self
    }

    pub(crate) fn options(&self, side: Side) -> Options {
        Options {
            idle: self.idle,
            trusted: side == Side::Plugin || self.trust_peer,
            max_depth: self.max_depth,
            reply_patience: self.reply_patience,
        }
    }
}
