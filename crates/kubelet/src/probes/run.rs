//! When probes are carried out and what their outcomes amount to. The judging is pure; a prober is a task that waits,
//! probes, and tells its worker what changed.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe as ProbeSpec};
use tokio::time::{Instant, sleep_until};

use super::{Outcome, Target, probe};
use crate::lifecycle::Probe;
use crate::runtime::Runtime;

/// What a series of outcomes amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Enough successes in a row.
    Good,
    /// Enough failures in a row.
    Bad,
}

/// Counts outcomes in a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judge {
    needed: (u32, u32),
    last: Option<Verdict>,
    run: u32,
}

impl Judge {
    /// With a probe's thresholds.
    pub fn new(spec: &ProbeSpec) -> Self {
        let least_one = |value: Option<i32>, usual| u32::try_from(value.unwrap_or(usual)).unwrap_or(1).max(1);
        let needed = (least_one(spec.success_threshold, 1), least_one(spec.failure_threshold, 3));
        Self { needed, last: None, run: 0 }
    }

    /// Takes one outcome; a verdict when there were enough of its kind.
    pub fn take(&mut self, success: bool) -> Option<Verdict> {
        let verdict = if success { Verdict::Good } else { Verdict::Bad };
        if self.last == Some(verdict) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(verdict);
            self.run = 1;
        }
        let needed = if success { self.needed.0 } else { self.needed.1 };
        (self.run >= needed).then_some(verdict)
    }
}

/// One probe of one container, carried out again and again.
pub(crate) struct Prober {
    pub kind: Probe,
    pub container: Container,
    pub spec: ProbeSpec,
    pub target: Target,
    /// How long ago the container was started.
    pub age: Duration,
    /// From 0 to 1: probes of many containers that start together spread out.
    pub jitter: f64,
}

impl Prober {
    /// Probes until it has nothing more to find out. `tell` is called with each failure's words and with each verdict.
    pub async fn run(
        self,
        runtime: &dyn Runtime,
        mut tell: impl FnMut(Probe, Option<Verdict>, Option<String>),
    ) {
        let seconds = |value: Option<i32>, usual| {
            Duration::from_secs(u64::try_from(value.unwrap_or(usual)).unwrap_or(0))
        };
        let period = seconds(self.spec.period_seconds, 10).max(Duration::from_secs(1));
        let delay = seconds(self.spec.initial_delay_seconds, 0).saturating_sub(self.age);
        let mut judge = Judge::new(&self.spec);
        let mut told = None;
        // A container that just started is asked at once; one that ran before us is spread over the period.
        let spread = if self.age > period { period.mul_f64(self.jitter) } else { Duration::ZERO };
        let mut next = Instant::now() + delay + spread;
        loop {
            sleep_until(next).await;
            next = Instant::now() + period;
            let outcome = probe(runtime, &self.container, &self.spec, &self.target).await;
            let (success, words) = match outcome {
                Outcome::Success => (true, None),
                Outcome::Failure(words) => (false, Some(words)),
                Outcome::Unknown(error) => {
                    tracing::debug!(container = self.container.name, %error, "a probe was not carried out");
                    continue;
                }
            };
            let verdict = judge.take(success);
            let news = verdict.filter(|verdict| told != Some(*verdict));
            if news.is_some() {
                told = news;
            }
            if news.is_some() || words.is_some() {
                tell(self.kind, news, words);
            }
            let done = match (self.kind, verdict) {
                // A started container stays started; one that is to be killed needs no more probing.
                (Probe::Startup, Some(_)) | (Probe::Liveness, Some(Verdict::Bad)) => true,
                _ => false,
            };
            if done {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_need_enough_outcomes_in_a_row() {
        let spec =
            ProbeSpec { success_threshold: Some(2), failure_threshold: Some(3), ..ProbeSpec::default() };
        let mut judge = Judge::new(&spec);
        let script = [true, true, false, false, true, false, false, false, false, true, true];
        let verdicts: Vec<_> = script.into_iter().map(|outcome| judge.take(outcome)).collect();
        use Verdict::{Bad, Good};
        let none = None;
        let expected =
            [none, Some(Good), none, none, none, none, none, Some(Bad), Some(Bad), none, Some(Good)];
        assert_eq!(verdicts, expected);
    }
}
