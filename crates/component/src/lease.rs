//! Leader election by a Lease: of several instances of a component one leads, and another takes over when it no longer
//! renews. Only locally observed time decides whether a holder is gone: clocks of machines may differ.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::Api;
use kube::api::PostParams;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Context;

/// Upstream's defaults.
const DURATION: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// A candidate for a Lease.
pub struct Candidate {
    context: Context,
    api: Api<Lease>,
    name: String,
    identity: String,
    /// What the Lease said when it last changed, and when that was seen.
    observed: Option<(LeaseSpec, Instant)>,
}

impl Candidate {
    /// A candidate for `namespace/name` that calls itself `identity`, which must be unique among the candidates.
    pub fn new(context: Context, namespace: &str, name: &str, identity: String) -> Self {
        let api = Api::namespaced(context.client.clone(), namespace);
        Self { context, api, name: name.to_owned(), identity, observed: None }
    }

    /// Waits until this candidate leads. The token is cancelled when it no longer does: the component must then end,
    /// since another may lead already.
    pub async fn lead(mut self) -> CancellationToken {
        while !self.attempt().await {
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

    /// Returns when the Lease could not be renewed before its deadline.
    async fn renew_until_lost(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < DEADLINE {
            tokio::time::sleep(RETRY).await;
            if self.attempt().await {
                renewed = Instant::now();
            }
        }
        tracing::error!(lease = self.name, identity = self.identity, "leadership was lost");
    }

    /// Between one and one and a fifth of the retry time, so that candidates do not keep step.
    fn jittered(&self) -> Duration {
        RETRY.mul_f64(1.0 + 0.2 * self.context.entropy.unit_f64())
    }

    /// Acquires or renews; says whether this candidate holds the Lease now.
    async fn attempt(&mut self) -> bool {
        match tokio::time::timeout(DEADLINE, self.try_hold()).await {
            Ok(Ok(held)) => held,
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => false,
            Ok(Err(error)) => {
                tracing::warn!(lease = self.name, %error, "the lease could not be written");
                false
            }
            Err(_) => false,
        }
    }

    async fn try_hold(&mut self) -> kube::Result<bool> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.held(None)),
            };
            self.api.create(&PostParams::default(), &lease).await?;
            return Ok(true);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if self.observed.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.observed = Some((spec.clone(), Instant::now()));
        }
        let holder = spec.holder_identity.as_deref().unwrap_or("");
        let seen = self.observed.as_ref().map_or_else(Instant::now, |(_, seen)| *seen);
        if !holder.is_empty() && holder != self.identity && seen.elapsed() < DURATION {
            return Ok(false);
        }
        lease.spec = Some(self.held(Some(&spec)));
        // The resourceVersion of what was read makes this a compare-and-swap.
        self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        Ok(true)
    }

    /// The Lease as this candidate holds it.
    fn held(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(self.context.clock.now());
        let mine = before.is_some_and(|before| before.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|before| before.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
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
