//! A scheduler and kubelets in one: pods get a node, an address and ready after a while, and go a while after they are told
//! to. And the controllers as one process that can be stopped.

use std::collections::BTreeMap;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use component::Context;
use controllers::Informers;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::Api;

/// Pods whose template says so in an annotation never get ready.
pub const BROKEN: &str = "broken";

/// Moves pods along until it is dropped with the runtime.
pub async fn machines(api: Api, entropy: Entropy) {
    let mut due: BTreeMap<(String, bool), Instant> = BTreeMap::new();
    let mut addresses = 0;
    loop {
        let changed = api.changed.notified();
        let now = Instant::now();
        let pods: Vec<Value> = api.state().of("pods").cloned().collect();
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().expect("named").to_owned();
            let ending = !pod["metadata"]["deletionTimestamp"].is_null();
            let ready = !pod["status"]["phase"].is_null();
            if ready && !ending {
                continue;
            }
            let when = *due
                .entry((name.clone(), ending))
                .or_insert_with(|| now + Duration::from_millis(200 + entropy.below(3000)));
            if when > now {
                continue;
            }
            let key = ("pods".to_owned(), "default".to_owned(), name.clone());
            if ending {
                api.state().drop_object(&key);
            } else {
                addresses += 1;
                let run = run(&pod, addresses);
                api.state().put(&key, run);
            }
            api.changed.notify_waiters();
        }
        let next = due.values().filter(|when| **when > now).min().copied();
        match next {
            Some(next) => tokio::select! { () = changed => {}, () = tokio::time::sleep_until(next) => {} },
            None => changed.await,
        }
    }
}

fn run(pod: &Value, number: u32) -> Value {
    let mut pod = pod.clone();
    let ready = if pod["metadata"]["annotations"][BROKEN].is_null() { "True" } else { "False" };
    pod["spec"]["nodeName"] = "n1".into();
    pod["status"] = json!({
        "phase": "Running", "podIP": format!("10.42.0.{number}"),
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-03-01T12:00:00Z"}],
    });
    pod
}

/// The controllers under test, as one process.
pub struct Controllers {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Controllers {
    pub fn start(api: &Api) -> Self {
        Self::start_some(api, |context, informers| {
            controllers::replicaset::start(context, informers);
            controllers::deployment::start(context, informers);
            controllers::endpointslice::start(context, informers);
            controllers::endpoints::start(context, informers);
        })
    }

    pub fn start_some(api: &Api, start: impl FnOnce(&Context, &Informers)) -> Self {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let context = Context {
            client: api.client(),
            clock: Clock::simulated("2026-03-01T12:00:00Z".parse().expect("a literal")),
            entropy: Entropy::seeded(1),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        };
        start(&context, &Informers::start(&context));
        Self { tasks, shutdown }
    }

    /// Ends them, wherever they are.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
