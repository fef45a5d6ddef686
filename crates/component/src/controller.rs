//! The loop of every controller: take a key, reconcile, queue again as told. An error is logged here, once, and the key
//! comes back later.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

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
    F: Future<Output = Result<Next, E>> + Send,
    E: Display,
{
    let reconcile = Arc::new(reconcile);
    for _ in 0..workers {
        let (queue, reconcile) = (queue.clone(), reconcile.clone());
        tasks.spawn(async move {
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
        });
    }
    tasks.spawn(async move {
        shutdown.cancelled().await;
        queue.close();
    });
}
