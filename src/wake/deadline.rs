//! Points in time that both sides of a link understand.

use crate::sync;
use core::time::Duration;

/// Until when a blocking operation may wait.
///
/// A point on `CLOCK_MONOTONIC`, which all processes of a machine share, so the other side of a call can see it. A
/// [`Duration`] converts into a deadline that far from now; `None` into [`Deadline::NEVER`].
///
/// ```
/// use busway::Deadline;
/// use std::time::Duration;
///
/// let soon = Deadline::after(Duration::from_millis(5));
/// assert!(!soon.has_passed() && soon.remaining() <= Some(Duration::from_millis(5)));
/// assert_eq!(Deadline::NEVER.remaining(), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Deadline(u64);

impl Deadline {
    /// Wait as long as it takes. The default.
    pub const NEVER: Deadline = Deadline(0);

    /// The point `duration` from now; a duration beyond 500 years is [`Deadline::NEVER`].
    pub fn after(duration: Duration) -> Self {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        match sync::now().checked_add(ns) {
            Some(at) if at < 1 << 63 => Deadline(at.max(1)),
            _ => Deadline::NEVER,
        }
    }

    /// As nanoseconds of `CLOCK_MONOTONIC`; 0 is never.
    pub const fn from_nanos(ns: u64) -> Self {
        Deadline(ns)
    }

    /// Nanoseconds of `CLOCK_MONOTONIC`; 0 is never.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whether the point has passed. Reads the clock unless this is [`Deadline::NEVER`].
    pub fn has_passed(self) -> bool {
        self.0 != 0 && sync::now() >= self.0
    }

    /// What is left, zero if it has passed, `None` if it never does.
    pub fn remaining(self) -> Option<Duration> {
        (self.0 != 0).then(|| Duration::from_nanos(self.0.saturating_sub(sync::now())))
    }

    /// As the futex and the poll take it.
    pub(crate) fn until(self) -> Option<u64> {
        (self.0 != 0).then_some(self.0)
    }

    /// The earlier of this point and `limit` from now.
    pub(crate) fn sooner(self, limit: Duration) -> Self {
        self.earlier(Deadline::after(limit))
    }

    /// The earlier of two points.
    pub(crate) fn earlier(self, other: Self) -> Self {
        // Never is 0: one less than it, on the circle, is the latest point there is.
        Deadline(self.0.wrapping_sub(1).min(other.0.wrapping_sub(1)).wrapping_add(1))
    }
}

impl Default for Deadline {
    fn default() -> Self {
        Self::NEVER
    }
}

impl From<Duration> for Deadline {
    fn from(duration: Duration) -> Self {
        Self::after(duration)
    }
}

impl From<Option<Duration>> for Deadline {
    fn from(duration: Option<Duration>) -> Self {
        duration.map_or(Self::NEVER, Self::after)
    }
}
