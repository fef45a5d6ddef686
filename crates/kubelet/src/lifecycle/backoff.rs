//! The delay between restarts of a container that keeps ending: doubling from ten seconds to five minutes, forgotten
//! after it ran for twice the longest delay.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The first delay.
pub const CRASH_INITIAL: Duration = Duration::from_secs(10);
/// The longest delay.
pub const CRASH_LIMIT: Duration = Duration::from_secs(300);

/// A delay and when it was last raised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff(Option<(Duration, Timestamp)>);

impl Backoff {
    /// Until when something that ended at `finished` must wait.
    #[must_use]
    pub fn until(&self, finished: Timestamp) -> Option<Timestamp> {
        let (delay, raised) = self.0?;
        (!expired(finished, raised)).then(|| finished + delay)
    }

    /// The present delay.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.0.map_or(Duration::ZERO, |(delay, _)| delay)
    }

    /// What is remembered when it is started again at `now` after it ended at `finished`.
    #[must_use]
    pub fn next(&self, finished: Timestamp, now: Timestamp) -> Self {
        let delay = match self.0 {
            Some((delay, raised)) if !expired(finished, raised) => (delay * 2).min(CRASH_LIMIT),
            _ => CRASH_INITIAL,
        };
        Self(Some((delay, now)))
    }
}

fn expired(finished: Timestamp, raised: Timestamp) -> bool {
    let limit = SignedDuration::try_from(CRASH_LIMIT * 2).expect("ten minutes fit");
    finished.duration_since(raised) > limit
}
