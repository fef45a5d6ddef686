//! Events go some time after they were last written, as with upstream's `--event-ttl`.
//!
//! Upstream leaves that to leases of etcd. Here every server looks for old ones itself, which both stores can do; several
//! servers do it beside each other, and whoever comes late finds nothing.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::catalog;
use crate::request::commit::{self, Committed};
use crate::server::ApiServer;
use crate::watch::{Cached, Selection};

/// How often old events are looked for.
const EVERY: Duration = Duration::from_secs(300);
/// Deletions at a time: the store gathers them into few writes.
const AT_ONCE: usize = 64;

/// Forgets old events until shutdown.
pub async fn expire(server: Arc<ApiServer>) {
    let mut due = tokio::time::interval(EVERY);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while server.shutdown().run_until_cancelled(due.tick()).await.is_some() {
        sweep(&server).await;
    }
}

async fn sweep(server: &ApiServer) {
    let catalog = server.catalog();
    let Some(events) = catalog.find("", "v1", "events") else { return };
    let Some(cache) = server.cache().resource(events) else { return };
    let (life, now) = (server.config().event_ttl, server.clock().now());
    let prefix = catalog::prefix(events);
    let old = cache.list(&Selection::all("")).into_iter().filter(|event| is_old(event, life, now));
    let removals = old.map(|event| {
        let txn = commit::removal(&format!("{prefix}{}", event.key), event.revision);
        async move { commit::commit(server, txn).await }
    });
    let mut outcomes = futures::stream::iter(removals).buffer_unordered(AT_ONCE);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            // One that was written meanwhile is not old any more.
            Ok(Committed::Done(_) | Committed::Conflict) => {}
            Err(error) => {
                tracing::warn!(%error, "old events stay for now");
                return;
            }
        }
    }
}

fn is_old(event: &Cached, life: Duration, now: Timestamp) -> bool {
    let Ok(life) = SignedDuration::try_from(life) else { return false };
    let written = event.content().and_then(|value| last_written(&value));
    written.is_some_and(|written| now.duration_since(written) > life)
}

/// When an event was last written, as far as it says so itself.
fn last_written(event: &Value) -> Option<Timestamp> {
    let fields = ["/metadata/creationTimestamp", "/eventTime", "/lastTimestamp", "/series/lastObservedTime"];
    let times = fields.iter().filter_map(|field| event.pointer(field)?.as_str()?.parse().ok());
    times.max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(times: Value) -> Cached {
        Cached::new("default/a", times.to_string().into(), 1)
    }

    #[test]
    fn the_last_of_its_times_counts() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().expect("a time");
        let old = |times| is_old(&event(times), Duration::from_secs(3600), now);
        let created = "2026-01-01T10:00:00Z";
        assert!(old(json!({"metadata": {"creationTimestamp": created}})));
        assert!(!old(json!({"metadata": {"creationTimestamp": "2026-01-01T11:00:01Z"}})));
        assert!(!old(
            json!({"metadata": {"creationTimestamp": created}, "lastTimestamp": "2026-01-01T11:30:00Z"})
        ));
        let series = json!({"lastObservedTime": "2026-01-01T11:30:00.000001Z"});
        assert!(!old(json!({"metadata": {"creationTimestamp": created}, "series": series})));
        assert!(old(
            json!({"metadata": {"creationTimestamp": created}, "lastTimestamp": null, "eventTime": null})
        ));
    }

    #[test]
    fn one_that_says_nothing_of_its_time_stays() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().expect("a time");
        assert!(!is_old(&event(json!({"metadata": {}})), Duration::ZERO, now));
    }
}
