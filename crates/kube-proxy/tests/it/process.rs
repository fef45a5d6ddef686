//! The whole proxy against an API that the test plays: what stays while the API is away, what comes when it answers,
//! what is put back, and what is left at the end.

use std::net::Ipv4Addr;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use async_trait::async_trait;
use bytes::Bytes;
use component::Context;
use host::process;
use http_body_util::{BodyExt, Full, StreamBody};
use kube_proxy::apply::{ApplyError, Mode};
use kube_proxy::ipvs::Settings;
use kube_proxy::plan::{Changes, Plan};
use kube_proxy::{Config, ProxyMode};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::packets::{ask, at, backends};
use crate::{World, plan, ranges, service};

const PATIENCE: Duration = Duration::from_secs(10);

/// The real mode, which tells the test what was asked of it.
pub struct Told {
    pub mode: Box<dyn Mode>,
    pub what: mpsc::UnboundedSender<&'static str>,
}

#[async_trait]
impl Mode for Told {
    fn monitor(&self) -> Result<mpsc::Receiver<()>, ApplyError> {
        self.mode.monitor()
    }

    fn doubt(&mut self) {
        self.mode.doubt();
    }

    fn next_look(&self) -> Option<Instant> {
        self.mode.next_look()
    }

    async fn establish(&mut self) -> Result<(), ApplyError> {
        let outcome = self.mode.establish().await;
        self.what.send("established").expect("the test listens");
        outcome
    }

    async fn reconcile(&mut self, plan: &Plan, changes: &Changes) -> Result<(), ApplyError> {
        let outcome = self.mode.reconcile(plan, changes).await;
        self.what.send("reconciled").expect("the test listens");
        outcome
    }
}

/// One Service and its slice, once `answers` says so; watches on them never end and say nothing.
fn client(answers: watch::Receiver<bool>) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let mut answers = answers.clone();
        async move {
            let watching = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            if watching {
                return Ok(http::Response::new(StreamBody::new(futures::stream::pending()).boxed()));
            }
            answers.wait_for(|answers| *answers).await?;
            let item = match request.uri().path().ends_with("/services") {
                true => json!({"metadata": {"name": "web", "namespace": "shop"},
                               "spec": {"clusterIP": "10.43.0.9", "ports": [{"port": 80}]}}),
                false => json!({"metadata": {"name": "web-1", "namespace": "shop",
                                             "labels": {"kubernetes.io/service-name": "web"}},
                                "addressType": "IPv4", "ports": [{"port": 8080}],
                                "endpoints": [{"addresses": ["10.42.0.2"]}]}),
            };
            let list = json!({"metadata": {"resourceVersion": "1"}, "items": [item]});
            Ok::<_, tower::BoxError>(http::Response::new(Full::new(Bytes::from(list.to_string())).boxed()))
        }
    });
    kube::Client::new(service, "default")
}

/// How the proxy is started for a test: its surroundings, which end with `shutdown`, and its configuration.
pub fn surroundings(
    mode: ProxyMode,
    answers: watch::Receiver<bool>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> (Context, Config) {
    let context = Context {
        client: client(answers),
        clock: Clock::system(),
        entropy: Entropy::seeded(1),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    };
    let config = Config {
        node_name: "here".to_owned(),
        ranges: ranges(),
        local_addresses: vec![Ipv4Addr::new(10, 43, 0, 10)],
        mode,
        ipvs: Settings::default(),
    };
    (context, config)
}

every_mode!(rules_outlive_the_proxy_and_its_api_and_follow_the_api_when_it_answers);
async fn rules_outlive_the_proxy_and_its_api_and_follow_the_api_when_it_answers(mut world: World) {
    backends(2).await;
    // What an earlier proxy left behind: a service with one pod.
    world.apply(&plan([service(9, 1)])).await;

    let (what, mut told) = mpsc::unbounded_channel();
    let until = async |told: &mut mpsc::UnboundedReceiver<&'static str>, word: &str| {
        while timeout(PATIENCE, told.recv()).await.expect("the proxy works").expect("the proxy lives") != word
        {
        }
    };
    // What is asked of the mode may be nothing new: the answer of a pod counts.
    let answers_after_work = async |told: &mut mpsc::UnboundedReceiver<&'static str>| {
        loop {
            until(told, "reconciled").await;
            if let Ok(2) = ask(at(9)).await {
                return;
            }
        }
    };
    let (answer, answers) = watch::channel(false);
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let (context, config) = surroundings(world.kind, answers, &tasks, &shutdown);
    let mode = Box::new(Told { mode: World::new(world.kind).mode, what });
    let proxy = tasks.spawn(kube_proxy::run_with(context, config, mode));

    until(&mut told, "established").await;
    assert_eq!(ask(at(9)).await.unwrap(), 1, "without an API the old rules stay");
    answer.send_replace(true);
    // What the API says counts.
    answers_after_work(&mut told).await;
    let (program, damage): (_, &[&str]) = match world.kind {
        ProxyMode::Nftables | ProxyMode::Ipvs => {
            ("nft", &["delete", "table", "ip", kube_proxy::rules::TABLE])
        }
        ProxyMode::Iptables => ("iptables", &["-t", "nat", "-F", "KUBE-SERVICES"]),
    };
    while told.try_recv().is_ok() {}
    process::run(program, damage).await.unwrap();
    // What others delete is put back.
    answers_after_work(&mut told).await;
    shutdown.cancel();
    proxy.await.unwrap().unwrap();
    assert_eq!(ask(at(9)).await.unwrap(), 2, "and all of it stays behind");
}
