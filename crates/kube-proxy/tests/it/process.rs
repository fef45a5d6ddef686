//! The whole proxy against an API that the test plays: what stays while the API is away, what comes when it answers,
//! what is put back, and what is left at the end.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use async_trait::async_trait;
use bytes::Bytes;
use component::Context;
use host::nft::{Nft, NftError, NftProgram};
use host::process;
use http_body_util::{BodyExt, Full, StreamBody};
use kube_proxy::Config;
use kube_proxy::plan::Plan;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::packets::{ask, at, backends};
use crate::{isolated, service};

const PATIENCE: Duration = Duration::from_secs(10);

/// The real packet filter, which tells the test what was asked of it.
struct Told {
    nft: NftProgram,
    what: mpsc::UnboundedSender<&'static str>,
}

#[async_trait]
impl Nft for Told {
    async fn apply(&self, script: &str) -> Result<(), NftError> {
        let outcome = self.nft.apply(script).await;
        self.what.send("applied").expect("the test listens");
        outcome
    }

    async fn list(&self, table: &str) -> Result<Option<Value>, NftError> {
        let outcome = self.nft.list(table).await;
        self.what.send("listed").expect("the test listens");
        outcome
    }

    fn monitor(&self) -> Result<mpsc::Receiver<()>, NftError> {
        self.nft.monitor()
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

#[test]
fn rules_outlive_the_proxy_and_its_api_and_follow_the_api_when_it_answers() {
    isolated(async |mut world| {
        backends(2).await;
        // What an earlier proxy left behind: a service with one pod.
        world.apply(&Plan::from([service(9, 1)])).await;

        let (what, mut told) = mpsc::unbounded_channel();
        let until = async |told: &mut mpsc::UnboundedReceiver<&'static str>, word: &str| {
            while timeout(PATIENCE, told.recv()).await.expect("the proxy works").expect("the proxy lives")
                != word
            {}
        };
        let (answer, answers) = watch::channel(false);
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let context = Context {
            client: client(answers),
            clock: Clock::system(),
            entropy: Entropy::seeded(1),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        };
        let config =
            Config { ranges: world.ranges.clone(), local_addresses: vec![Ipv4Addr::new(10, 43, 0, 10)] };
        let nft = Arc::new(Told { nft: NftProgram::new(tasks.clone()), what });
        let proxy = tasks.spawn(kube_proxy::run(context, config, nft));

        until(&mut told, "listed").await;
        assert_eq!(ask(at(9)).await.unwrap(), 1, "without an API the old rules stay");
        answer.send_replace(true);
        until(&mut told, "applied").await;
        assert_eq!(ask(at(9)).await.unwrap(), 2, "what the API says counts");
        process::run("nft", &["delete", "table", "ip", kube_proxy::rules::TABLE]).await.unwrap();
        until(&mut told, "applied").await;
        assert_eq!(ask(at(9)).await.unwrap(), 2, "what others delete is put back");
        shutdown.cancel();
        proxy.await.unwrap().unwrap();
        assert_eq!(ask(at(9)).await.unwrap(), 2, "and all of it stays behind");
    });
}
