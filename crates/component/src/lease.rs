//! Leader election by a Lease: of several instances of a component one leads, and another takes over when it no longer
//! renews. Only locally observed time decides whether a holder is gone: clocks of machines may differ.

use std::time::Duration;

use crate::Api;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{DeleteParams, PostParams, Preconditions};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Context;

/// How long a Lease is good, and how it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Candidates take a Lease over when it was not renewed for this long.
    pub duration: Duration,
    /// A leader that could not renew for this long leads no more.
    pub renew_deadline: Duration,
    /// Between attempts to acquire or renew.
    pub retry: Duration,
}

impl Default for Timing {
    /// Upstream's.
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Attempts of candidates are spread by up to this part of the time between them.
const JITTER: f64 = 0.2;

/// Two leaders at a time would be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// The old leader would go on when a new one leads already.
    #[error("the lease duration must be greater than the renew deadline")]
    Duration,
    /// The deadline would come before the second attempt.
    #[error("the renew deadline must be greater than 1.2 times the retry period")]
    Deadline,
    /// There would be no pause, or no lease.
    #[error("lease duration (whole seconds), renew deadline and retry period must be greater than zero")]
    Zero,
}

impl Timing {
    /// Refuses what would not elect one leader.
    ///
    /// # Errors
    /// Says which two times do not fit.
    pub fn checked(self) -> Result<Timing, TimingError> {
        if self.duration.as_secs() == 0 || self.renew_deadline.is_zero() || self.retry.is_zero() {
            return Err(TimingError::Zero);
        }
        if self.duration <= self.renew_deadline {
            return Err(TimingError::Duration);
        }
        if self.renew_deadline <= self.retry.mul_f64(1.0 + JITTER) {
            return Err(TimingError::Deadline);
        }
        Ok(self)
    }
}

/// A candidate for a Lease.
pub struct Candidate {
    context: Context,
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    /// What the Lease said when it last changed, and when that was seen.
    observed: Option<(LeaseSpec, Instant)>,
    /// The Lease as this candidate wrote it last, while it holds it.
    written: Option<ObjectMeta>,
    /// The last attempt failed, which was said.
    failing: bool,
}

/// What came of an attempt to hold a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// This candidate holds it.
    Held,
    /// Somebody else does, for all that is known until this time.
    Others(Instant),
    /// Nothing was learned: the API is away, or somebody else was faster.
    Unknown,
}

impl Candidate {
    /// A candidate for `namespace/name` that calls itself `identity`, which must be unique among the candidates.
    pub fn new(context: Context, namespace: &str, name: &str, identity: String) -> Self {
        let api = Api::namespaced(context.client.clone(), namespace);
        let (name, timing) = (name.to_owned(), Timing::default());
        Self { context, api, name, identity, timing, observed: None, written: None, failing: false }
    }

    /// With other times than the usual ones.
    #[must_use]
    pub fn timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
    }

    /// Waits until this candidate leads. The token is cancelled when it no longer does: the component must then end,
    /// since another may lead already.
    pub async fn lead(mut self) -> CancellationToken {
        while self.attempt().await != Attempt::Held {
            tokio::time::sleep(self.jittered()).await;
        }
        let leading = self.context.shutdown.child_token();
        let token = leading.clone();
        self.context.tasks.clone().spawn(async move {
            token.run_until_cancelled(self.renew_until_lost()).await;
            token.cancel();
        });
        leading
    }

    /// Returns when the Lease could not be renewed before its deadline. Counted from before the last good attempt, and no
    /// attempt lasts beyond it: whoever takes over counts from then at the earliest.
    async fn renew_until_lost(&mut self) {
        let mut renewed = Instant::now();
        while let Ok(began) =
            tokio::time::timeout_at(renewed + self.timing.renew_deadline, self.renew()).await
        {
            renewed = began;
        }
        tracing::error!(lease = self.name, identity = self.identity, "leadership was lost");
    }

    /// Renews the Lease once, however many attempts it takes; says when the good one began.
    async fn renew(&mut self) -> Instant {
        loop {
            tokio::time::sleep(self.timing.retry).await;
            let began = Instant::now();
            if self.attempt().await == Attempt::Held {
                return began;
            }
        }
    }

    /// Between one and one and a fifth of the retry time, so that candidates do not keep step.
    pub fn jittered(&self) -> Duration {
        self.timing.retry.mul_f64(1.0 + JITTER * self.context.entropy.unit_f64())
    }

    /// Acquires or renews, once. For those who decide themselves what the answer means to them; [`Candidate::lead`] is for
    /// all others.
    pub async fn attempt(&mut self) -> Attempt {
        match tokio::time::timeout(self.timing.renew_deadline, self.try_hold()).await {
            Ok(Ok(attempt)) => {
                self.failing = false;
                attempt
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Attempt::Unknown,
            Ok(Err(error)) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(lease = self.name, %error, "the lease could not be written; trying again");
                }
                Attempt::Unknown
            }
            Err(_) => Attempt::Unknown,
        }
    }

    /// Gives the Lease up, so that others need not wait: it is deleted, if it is still as this candidate wrote it.
    pub async fn release(&mut self) {
        let Some(ObjectMeta { uid, resource_version, .. }) = self.written.take() else { return };
        let parameters = DeleteParams {
            preconditions: Some(Preconditions { uid, resource_version }),
            ..DeleteParams::default()
        };
        let deleting = self.api.delete(&self.name, &parameters);
        match tokio::time::timeout(self.timing.renew_deadline, deleting).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(lease = self.name, %error, "the lease was not given up; it runs out")
            }
            Err(_) => tracing::debug!(lease = self.name, "the lease was not given up; it runs out"),
        }
    }

    async fn try_hold(&mut self) -> kube::Result<Attempt> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.held(None)),
            };
            self.written = Some(self.api.create(&PostParams::default(), &lease).await?.metadata);
            return Ok(Attempt::Held);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if self.observed.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.observed = Some((spec.clone(), Instant::now()));
        }
        let holder = spec.holder_identity.as_deref().unwrap_or("");
        let seen = self.observed.as_ref().map_or_else(Instant::now, |(_, seen)| *seen);
        if !holder.is_empty() && holder != self.identity && seen.elapsed() < self.timing.duration {
            self.written = None;
            return Ok(Attempt::Others(seen + self.timing.duration));
        }
        lease.spec = Some(self.held(Some(&spec)));
        // The resourceVersion of what was read makes this a compare-and-swap.
        self.written = Some(self.api.replace(&self.name, &PostParams::default(), &lease).await?.metadata);
        Ok(Attempt::Held)
    }

    /// The Lease as this candidate holds it.
    fn held(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(self.context.clock.now());
        let mine = before.is_some_and(|before| before.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.duration.as_secs()).ok(),
            acquire_time: before
                .filter(|_| mine)
                .and_then(|before| before.acquire_time.clone())
                .or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if mine || before.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_would_elect_two_leaders_are_refused() {
        let of = |duration, renew_deadline, retry| {
            let [duration, renew_deadline, retry] =
                [duration, renew_deadline, retry].map(Duration::from_secs);
            Timing { duration, renew_deadline, retry }.checked()
        };
        assert_eq!(Timing::default().checked(), Ok(Timing::default()));
        assert_eq!(of(10, 10, 2), Err(TimingError::Duration));
        assert_eq!(of(15, 10, 9), Err(TimingError::Deadline));
        assert_eq!(of(15, 10, 0), Err(TimingError::Zero));
        assert!(of(6, 4, 1).is_ok());
    }
}
