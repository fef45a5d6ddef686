//! What refusals mean to a controller: the API server's, and a cloud's (how long to wait).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use component::Context;
use component::controller::Next;

use crate::provider::ProviderError;

/// The object is gone.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// A namesake exists. (A conflict of revisions has the same code.)
pub(crate) fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}

/// Starts something when `synced` is done, unless the component ends before.
pub(crate) fn when<S>(context: &Context, synced: S, start: impl FnOnce() + Send + 'static)
where
    S: Future<Output = ()> + Send + 'static,
{
    let shutdown = context.shutdown.clone();
    context.tasks.spawn(async move {
        if shutdown.run_until_cancelled(synced).await.is_some() {
            start();
        }
    });
}

/// Why a reconciler did not get to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The API server refused, or is away: the queue tries again soon.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The cloud refused, or is away: clouds are asked less often.
    #[error(transparent)]
    Cloud(#[from] ProviderError),
}

/// How long keys wait after a cloud's refusals: as upstream, 5 s at first and 5 min at last.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    failures: Mutex<BTreeMap<String, u32>>,
}

const FIRST: Duration = Duration::from_secs(5);
const LAST: Duration = Duration::from_secs(300);

impl Retries {
    /// Turns what a reconciler returned into what its queue does.
    pub(crate) fn settle(&self, key: &str, result: Result<Next, Failure>) -> kube::Result<Next> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(next) => {
                failures.remove(key);
                Ok(next)
            }
            Err(Failure::Api(error)) => Err(error),
            Err(Failure::Cloud(error)) => {
                let count = failures.entry(key.to_owned()).or_default();
                let backoff = FIRST.saturating_mul(1 << (*count).min(10)).min(LAST);
                *count += 1;
                let delay = match error {
                    ProviderError::Throttled { retry_after, .. } => retry_after.max(FIRST),
                    ProviderError::Permanent(_) => LAST,
                    ProviderError::NotFound(_) | ProviderError::Transient(_) => backoff,
                };
                tracing::info!(key, %error, seconds = delay.as_secs(), "the cloud refused; trying again");
                Ok(Next::After(delay))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_is_asked_ever_later_and_as_it_says() {
        let retries = Retries::default();
        let wait = |error: ProviderError| match retries.settle("k", Err(error.into())) {
            Ok(Next::After(delay)) => delay.as_secs(),
            other => panic!("{other:?}"),
        };
        let broken = || ProviderError::Transient("x".to_owned());
        assert_eq!([wait(broken()), wait(broken()), wait(broken())], [5, 10, 20]);
        let throttled = |seconds| ProviderError::Throttled {
            retry_after: Duration::from_secs(seconds),
            message: String::new(),
        };
        assert_eq!([wait(throttled(42)), wait(throttled(1))], [42, 5]);
        assert_eq!(wait(ProviderError::Permanent("x".to_owned())), 300);
        assert!(matches!(retries.settle("k", Ok(Next::Done)), Ok(Next::Done)));
        assert_eq!(wait(broken()), 5);
    }
}
