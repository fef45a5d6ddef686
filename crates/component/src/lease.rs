//! Leader election by a Lease: of several instances of a component one leads, and another takes over when it no longer
//! renews, or at once when it was told to end and gave the Lease up. Only locally observed time decides whether a holder
//! is gone: clocks of machines may differ.
//!
//! Deliberately absent: deleting Leases. One that nobody holds stays, and keeps its count of transitions.

use std::time::Duration;

use crate::Api;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
    written: Option<Lease>,
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

    /// Waits until this candidate leads; `None` after the shutdown.
    pub async fn lead(mut self) -> Option<Leadership> {
        let (shutdown, lease) = (self.context.shutdown.clone(), self.name.clone());
        tracing::info!(lease, identity = self.identity, "waiting to lead");
        // What was begun is finished: who is told to end in the middle of it may hold the Lease, which is then given up.
        while self.attempt().await != Attempt::Held {
            shutdown.run_until_cancelled(tokio::time::sleep(self.jittered())).await?;
        }
        tracing::info!(lease, identity = self.identity, "leading");
        let (leading, lost, finished) =
            (shutdown.child_token(), CancellationToken::new(), CancellationToken::new());
        let (token, at_loss, until) = (leading.clone(), lost.clone(), finished.clone());
        let mut renewal = JoinSet::new();
        renewal.spawn(async move {
            let held = self.renew_until_lost(&until).await;
            if !held {
                at_loss.cancel();
                token.cancel();
            }
            held.then_some(self)
        });
        Some(Leadership { leading, lost, finished, renewal })
    }

    /// Renews until told to finish, and says whether the Lease is held then: it is not when it could not be renewed before
    /// its deadline. That counts from before the last good attempt, and no attempt lasts beyond it: whoever takes over
    /// counts from then at the earliest.
    async fn renew_until_lost(&mut self, finished: &CancellationToken) -> bool {
        let mut renewed = Instant::now();
        loop {
            match tokio::time::timeout_at(renewed + self.timing.renew_deadline, self.renew(finished)).await {
                Ok(Some(began)) => renewed = began,
                Ok(None) => return true,
                Err(_) => break,
            }
        }
        tracing::error!(lease = self.name, identity = self.identity, "leadership was lost");
        false
    }

    /// Renews the Lease once, however many attempts it takes; says when the good one began. `None` if told to finish between
    /// two attempts.
    async fn renew(&mut self, finished: &CancellationToken) -> Option<Instant> {
        loop {
            finished.run_until_cancelled(tokio::time::sleep(self.timing.retry)).await?;
            let began = Instant::now();
            if self.attempt().await == Attempt::Held {
                return Some(began);
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
            Err(_) => {
                // Who is silent for so long is not told either that the Lease is given up.
                self.written = None;
                Attempt::Unknown
            }
        }
    }

    /// Gives the Lease up, so that others need not wait for it to run out: it has no holder any more, if it still is as this
    /// candidate wrote it. Not while an attempt is under way.
    pub async fn release(&mut self) {
        let Some(mut lease) = self.written.take() else { return };
        let now = MicroTime(self.context.clock.now());
        lease.spec = Some(LeaseSpec {
            // As upstream: it must be greater than zero.
            lease_duration_seconds: Some(1),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: lease.spec.and_then(|held| held.lease_transitions),
            ..LeaseSpec::default()
        });
        let parameters = PostParams::default();
        let releasing = self.api.replace(&self.name, &parameters, &lease);
        match tokio::time::timeout(self.timing.renew_deadline, releasing).await {
            Ok(Ok(_)) => {
                tracing::info!(lease = self.name, identity = self.identity, "the lease was given up")
            }
            Ok(Err(error)) => {
                tracing::info!(lease = self.name, %error, "the lease was not given up; it runs out")
            }
            Err(_) => tracing::info!(lease = self.name, "the lease was not given up; it runs out"),
        }
    }

    async fn try_hold(&mut self) -> kube::Result<Attempt> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.held(None)),
            };
            self.written = Some(self.api.create(&PostParams::default(), &lease).await?);
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
        self.written = Some(self.api.replace(&self.name, &PostParams::default(), &lease).await?);
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

/// A Lease that is held, and renewed all the while. Dropped, it is renewed no more and runs out, as that of a leader that
/// dies.
pub struct Leadership {
    leading: CancellationToken,
    lost: CancellationToken,
    finished: CancellationToken,
    /// Ends with the candidate if it is told to finish, with nothing if leadership was lost.
    renewal: JoinSet<Option<Candidate>>,
}

impl Leadership {
    /// Cancelled when the leader must end: at the shutdown, and when leadership is lost, since another may lead already.
    pub fn token(&self) -> CancellationToken {
        self.leading.clone()
    }

    /// Waits until leadership is lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Runs a component as the leader, until its context ends and all that it started has ended.
    pub async fn run<F: Future<Output = ()>>(&self, context: &Context, component: impl FnOnce(Context) -> F) {
        let tasks = TaskTracker::new();
        component(Context { tasks: tasks.clone(), shutdown: self.token(), ..context.clone() }).await;
        tasks.close();
        tasks.wait().await;
    }

    /// Gives the Lease up, unless it was lost. Nothing may be done any more that only a leader may do.
    pub async fn release(mut self) {
        self.leading.cancel();
        self.finished.cancel();
        let ended = self.renewal.join_next().await.expect("there is one task, which nobody else waits for");
        if let Some(mut candidate) = ended.expect("the task neither panics nor is cancelled") {
            candidate.release().await;
        }
    }
}

/// Runs a component of the control plane for as long as this instance, `identity`, leads as `name`, and again when it leads
/// again, until the shutdown. Another leads at once after it.
pub async fn run_while_leading<F: Future<Output = ()>>(
    context: Context,
    name: &str,
    identity: &str,
    component: impl Fn(Context) -> F,
) {
    while !context.shutdown.is_cancelled() {
        let candidate = Candidate::new(context.clone(), "kube-system", name, identity.to_owned());
        let Some(leadership) = candidate.lead().await else { return };
        leadership.run(&context, &component).await;
        leadership.release().await;
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
