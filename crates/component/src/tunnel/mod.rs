//! Tunnels that a node opens to the API servers, so that a server which cannot reach the node reaches its kubelet and pods
//! all the same: behind NAT, or run by somebody else.
//!
//! One connection to each server, kept open: a node that lost one comes back by itself, later and later and never at the
//! same time as others. What a server may reach through it is for [`targets`] to say; which servers there are is for
//! others to find out.

mod connection;
pub mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api_machinery::entropy::Entropy;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::targets::Targets;
use crate::Context;
use crate::identity::Identity;

/// Between attempts: doubles up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// A tunnel that lived this long did not fail at its start.
const HEALTHY: Duration = Duration::from_secs(10);
/// More servers than this are not connected to.
const MOST_SERVERS: usize = 16;

/// Who opens tunnels, and for what.
#[derive(Clone)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// Who signs the servers' certificates, PEM.
    pub authority: Arc<[u8]>,
    /// The node's certificate.
    pub identity: Arc<Identity>,
    /// What may be reached.
    pub targets: Arc<Targets>,
}

/// Keeps a tunnel to every server, such as `https://192.0.2.1:6443`, until shutdown.
pub async fn keep(context: Context, config: Config, mut servers: watch::Receiver<BTreeSet<String>>) {
    let mut open: BTreeMap<String, DropGuard> = BTreeMap::new();
    loop {
        let wanted: BTreeSet<String> =
            servers.borrow_and_update().iter().take(MOST_SERVERS).cloned().collect();
        open.retain(|server, _| wanted.contains(server));
        for server in wanted {
            open.entry(server.clone()).or_insert_with(|| {
                let end = context.shutdown.child_token();
                let to = to(context.clone(), config.clone(), server, end.clone());
                drop(context.tasks.spawn(end.clone().run_until_cancelled_owned(to)));
                end.drop_guard()
            });
        }
        let changed = context.shutdown.run_until_cancelled(servers.changed()).await;
        match changed {
            Some(Ok(())) => {}
            // Nobody will say more: it stays at these servers.
            Some(Err(_)) => context.shutdown.cancelled().await,
            None => return,
        }
    }
}

/// Keeps a tunnel to one server. What runs in it ends with `end`.
async fn to(context: Context, config: Config, server: String, end: CancellationToken) {
    let mut pause = PAUSE.0;
    let mut told = String::new();
    loop {
        let begun = Instant::now();
        let why = match connection::open(&config, &server).await {
            Ok(upgraded) => {
                tracing::info!(server, "a tunnel is open");
                told.clear();
                connection::serve(upgraded, &config.targets, &context.tasks, &end).await
            }
            Err(error) => error.to_string(),
        };
        if begun.elapsed() >= HEALTHY {
            pause = PAUSE.0;
        }
        if why != told {
            tracing::warn!(server, why, "no tunnel; trying again");
            told = why;
        }
        tokio::time::sleep(jittered(pause, &context.entropy)).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Between half of a pause and all of it.
fn jittered(pause: Duration, entropy: &Entropy) -> Duration {
    pause.mul_f64(0.5 + 0.5 * entropy.unit_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_do_not_come_back_together() {
        let entropy = Entropy::seeded(1);
        let pauses: BTreeSet<Duration> = (0..20).map(|_| jittered(PAUSE.1, &entropy)).collect();
        assert!(pauses.len() > 15, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause >= PAUSE.1 / 2 && *pause <= PAUSE.1), "{pauses:?}");
    }
}
