//! Follows the runtime: which pods something happened to, and whether it answers at all. The runtime's own event stream
//! wakes this; a full list says what changed. Without such a stream the list is taken every second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use component::Context;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::runtime::{Changed, POD_UID, Runtime};

/// Between lists, when there are no events.
const RELIST: Duration = Duration::from_secs(1);
/// Between lists beside events, as a net under them.
const RELIST_SELDOM: Duration = Duration::from_secs(60);
/// Between attempts to reach a runtime that does not answer.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// An end is looked for in the lists first after this, then half as often each time.
const SETTLE: Duration = Duration::from_millis(10);
/// An end that the lists do not show after this time is no news any more.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);

/// Whether the runtime answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// Nothing was heard of it yet, or it went away; in words.
    Down(String),
    /// It answers.
    Up,
}

/// What is told to whom.
pub(crate) struct Listener {
    pub health: watch::Sender<Health>,
    /// Something of this pod changed; the argument is its uid.
    pub changed: Box<dyn Fn(&str) + Send + Sync>,
    /// The runtime answers, again or for the first time.
    pub back: Box<dyn Fn() + Send + Sync>,
}

/// Follows the runtime until shutdown.
pub(crate) async fn follow(context: Context, runtime: Arc<dyn Runtime>, listener: Listener) {
    let mut pause = RECONNECT.0;
    let mut known = BTreeMap::new();
    loop {
        match runtime.version().await {
            Ok(_) => {
                pause = RECONNECT.0;
                if *listener.health.borrow() != Health::Up {
                    listener.health.send_replace(Health::Up);
                    (listener.back)();
                }
                let error = connected(&context, runtime.as_ref(), &listener, &mut known).await;
                tracing::debug!(error, "the runtime's events ended");
            }
            Err(error) => {
                let text = error.to_string();
                if *listener.health.borrow() == Health::Up {
                    tracing::warn!(error = text, "the container runtime does not answer");
                }
                listener.health.send_replace(Health::Down(text));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RECONNECT.1);
            }
        }
    }
}

/// A container or sandbox: whose it is, and its state.
type Known = BTreeMap<String, (String, i32)>;

/// Follows while the connection lives; the reason why it does not is returned.
async fn connected(
    context: &Context,
    runtime: &dyn Runtime,
    listener: &Listener,
    known: &mut Known,
) -> String {
    let stop = context.shutdown.child_token();
    let _ends_with_us = stop.clone().drop_guard();
    let mut events = match runtime.changes(&context.tasks, stop).await {
        Ok(events) => Some(events),
        Err(error) if error.is_unimplemented() => None,
        Err(error) => return error.to_string(),
    };
    let mut ending = Ending::default();
    loop {
        if let Err(error) = relist(runtime, listener, known).await {
            return error.to_string();
        }
        ending.settle(known);
        let usual = if events.is_some() { RELIST_SELDOM } else { RELIST };
        let next = ending.next().unwrap_or(usual).min(usual);
        tokio::select! {
            changed = receive(&mut events) => match changed {
                Some(Changed::Ended(id)) => ending.add(id),
                Some(Changed::Other) => {}
                None => return "the stream ended".to_owned(),
            },
            () = tokio::time::sleep(next) => {}
        }
    }
}

async fn receive(events: &mut Option<mpsc::Receiver<Changed>>) -> Option<Changed> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

/// Ends that were told of and that the lists do not show yet.
#[derive(Default)]
struct Ending {
    ids: BTreeMap<String, Instant>,
    delay: Duration,
}

impl Ending {
    fn add(&mut self, id: String) {
        self.ids.insert(id, Instant::now() + SETTLE_LIMIT);
        self.delay = SETTLE;
    }

    fn settle(&mut self, known: &Known) {
        let now = Instant::now();
        self.ids
            .retain(|id, limit| *limit > now && known.get(id).is_some_and(|(_, state)| is_living(*state)));
        self.delay *= 2;
    }

    fn next(&self) -> Option<Duration> {
        (!self.ids.is_empty()).then_some(self.delay)
    }
}

/// Sandboxes' states are negative here, so that the two kinds do not mix: -1 is a ready one.
fn is_living(state: i32) -> bool {
    state == cri::messages::ContainerState::ContainerRunning as i32 || state == -1
}

async fn relist(runtime: &dyn Runtime, listener: &Listener, known: &mut Known) -> Result<(), cri::Error> {
    let mut seen = Known::new();
    for sandbox in runtime.sandboxes(None).await? {
        if let Some(uid) = sandbox.labels.get(POD_UID) {
            seen.insert(sandbox.id, (uid.clone(), -1 - sandbox.state));
        }
    }
    for container in runtime.containers(None).await? {
        if let Some(uid) = container.labels.get(POD_UID) {
            seen.insert(container.id, (uid.clone(), container.state));
        }
    }
    let mut changed = BTreeSet::new();
    for (id, now) in &seen {
        if known.get(id) != Some(now) {
            changed.insert(now.0.clone());
        }
    }
    let gone = known.iter().filter(|(id, _)| !seen.contains_key(*id));
    changed.extend(gone.map(|(_, (uid, _))| uid.clone()));
    *known = seen;
    for uid in &changed {
        (listener.changed)(uid);
    }
    Ok(())
}
