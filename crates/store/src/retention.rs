//! How much history is kept: pure bookkeeping of which revision was current when.
//!
//! Reads no clock and forgets nothing itself; the writer asks and acts.

use std::collections::VecDeque;
use std::time::Duration;

use crate::Revision;

/// Bounds on history. What exceeds any of them is compacted as transactions come in.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// How long history stays readable, give or take one part in sixteen.
    pub keep_for: Duration,
    /// At most so many events.
    pub max_events: usize,
    /// At most so many bytes of keys and values of events.
    pub max_bytes: u64,
}

impl Default for Retention {
    /// Five minutes, as upstream's API server keeps in etcd, within bounds of memory.
    fn default() -> Retention {
        Retention { keep_for: Duration::from_secs(300), max_events: 100_000, max_bytes: 64 << 20 }
    }
}

impl Retention {
    /// History is only forgotten on request.
    pub fn manual() -> Retention {
        Retention { keep_for: Duration::MAX, max_events: usize::MAX, max_bytes: u64::MAX }
    }
}

/// Which revision was current at which time.
#[derive(Debug, Default)]
pub(crate) struct Marks(VecDeque<(Duration, Revision)>);

impl Marks {
    /// Notes the current revision, coarsely: there are never more than a few dozen marks.
    pub(crate) fn note(&mut self, now: Duration, revision: Revision, keep_for: Duration) {
        let due = self.0.back().is_none_or(|(last, _)| now.saturating_sub(*last) >= keep_for / 16);
        if due && keep_for != Duration::MAX {
            self.0.push_back((now, revision));
        }
    }

    /// The newest revision that has been history for long enough, if that is news.
    pub(crate) fn expired(&mut self, now: Duration, keep_for: Duration) -> Option<Revision> {
        let mut expired = None;
        while let Some((time, revision)) = self.0.front()
            && now.saturating_sub(*time) >= keep_for
        {
            expired = Some(*revision);
            self.0.pop_front();
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_expires_no_sooner_than_asked_and_not_much_later() {
        const KEEP: Duration = Duration::from_secs(160);
        let mut marks = Marks::default();
        let mut compacted = 0;
        for second in 0..2000_u64 {
            let now = Duration::from_secs(second);
            marks.note(now, second + 1, KEEP);
            compacted = marks.expired(now, KEEP).unwrap_or(compacted);
            // Revision r was current until second r.
            assert!(compacted <= (second + 1).saturating_sub(160), "too soon at {second}");
            assert!(second < 180 || compacted + 180 >= second, "too late at {second}");
            assert!(marks.0.len() <= 18);
        }
    }

    #[test]
    fn manual_retention_marks_nothing() {
        let mut marks = Marks::default();
        marks.note(Duration::ZERO, 1, Duration::MAX);
        assert!(marks.0.is_empty());
    }
}
