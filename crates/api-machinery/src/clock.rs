//! Time as a parameter: the wall clock, or one that follows tokio's (paused, virtual) time.
//!
//! Does not sleep or schedule; tokio's timers do that and obey the same virtual time.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// Where "now" comes from. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Simulated { start: Timestamp, origin: Instant },
}

impl Clock {
    /// The machine's wall clock.
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that shows `start` now and then advances with tokio's time, which a test may have paused.
    pub fn simulated(start: Timestamp) -> Clock {
        Clock(Source::Simulated { start, origin: Instant::now() })
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => wall_clock(),
            Source::Simulated { start, origin } => {
                let elapsed = SignedDuration::try_from(origin.elapsed()).unwrap_or(SignedDuration::MAX);
                start.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// The current time as `metadata.creationTimestamp` and its like write it.
    pub fn now_rfc3339(&self) -> String {
        rfc3339(self.now())
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
fn wall_clock() -> Timestamp {
    Timestamp::now()
}

/// `metav1.Time`: UTC, whole seconds, fractions cut off.
pub fn rfc3339(time: Timestamp) -> String {
    let whole = Timestamp::from_second(time.as_second()).unwrap_or(time);
    format!("{whole:.0}")
}

/// `metav1.MicroTime`: UTC, always six digits of fraction.
pub fn rfc3339_micro(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// Reads either form.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_time() {
        let time: Timestamp = "2026-03-01T10:20:30.987654321Z".parse().expect("a literal");
        assert_eq!(rfc3339(time), "2026-03-01T10:20:30Z");
        assert_eq!(rfc3339_micro(time), "2026-03-01T10:20:30.987654Z");
        let whole: Timestamp = "2026-03-01T10:20:30Z".parse().expect("a literal");
        assert_eq!(rfc3339_micro(whole), "2026-03-01T10:20:30.000000Z");
        assert_eq!(parse("2026-03-01T11:20:30+01:00"), Some(whole));
    }

    #[test]
    fn simulated_time_follows_the_paused_clock() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
            tokio::time::sleep(std::time::Duration::from_secs(300)).await;
            assert_eq!(clock.now_rfc3339(), "1970-01-01T00:05:00Z");
        });
    }
}
