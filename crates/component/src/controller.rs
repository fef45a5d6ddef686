//! The loop of every controller: take a key, reconcile, queue again as told. An error is logged here, once, and the key
//! comes back later.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::queue::Queue;

/// When a key that was reconciled is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something changes.
    Done,
    /// When something changes, or after this time at the latest.
    After(Duration),
}

impl Next {
    /// The earlier of two.
    #[must_use]
    pub fn or_sooner(self, other: Self) -> Self {
        match (self, other) {
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
            (Self::Done, next) | (next, Self::Done) => next,
        }
    }
}

/// Runs `workers` tasks that reconcile the queue's keys until shutdown, when the queue is closed.
pub fn run<T, R, F, E>(
    tasks: &TaskTracker,
    shutdown: CancellationToken,
    name: &'static str,
    queue: Queue<T>,
    workers: usize,
    reconcile: R,
) where
    T: Ord + Clone + Display + Send + Sync + 'static,
    R: Fn(T) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Next, E>> + Send + 'static,
    E: Display,
{
    // Boxed, so that the loop and its tasks exist once for each type of key, and not for each controller.
    let reconcile: Reconcile<T> = Arc::new(move |key| {
        let pass = reconcile(key);
        Box::pin(async move { pass.await.map_err(|error| error.to_string()) })
    });
    for _ in 0..workers {
        tasks.spawn(work(name, queue.clone(), reconcile.clone()));
    }
    tasks.spawn(async move {
        shutdown.cancelled().await;
        queue.close();
    });
}

type Reconcile<T> = Arc<dyn Fn(T) -> BoxFuture<'static, Result<Next, String>> + Send + Sync>;

async fn work<T: Ord + Clone + Display>(name: &'static str, queue: Queue<T>, reconcile: Reconcile<T>) {
    while let Some(key) = queue.get().await {
        match reconcile(key.clone()).await {
            Ok(next) => {
                queue.forget(&key);
                if let Next::After(delay) = next {
                    queue.add_after(key.clone(), delay);
                }
            }
            Err(error) => {
                tracing::info!(controller = name, %key, %error, "not reconciled; trying again");
                queue.add_rate_limited(key.clone());
            }
        }
        queue.done(&key);
    }
}
