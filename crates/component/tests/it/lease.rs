//! Leader election against one Lease with compare-and-swap.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use component::lease::{Attempt, Candidate, Timing};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::context;

/// The one Lease there is; version 0 means that there is none.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<(u64, Value)>>);

impl Store {
    fn client(&self) -> kube::Client {
        let store = self.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let store = store.clone();
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect().await?.to_bytes();
                let (code, value) = store.answer(&method, &body);
                let body = Full::new(Bytes::from(value.to_string()));
                Ok::<_, tower::BoxError>(http::Response::builder().status(code).body(body)?)
            }
        });
        kube::Client::new(service, "default")
    }

    fn answer(&self, method: &http::Method, body: &[u8]) -> (u16, Value) {
        let failure = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason,
                                "message": reason, "metadata": {}});
            (code, status)
        };
        let mut stored = self.0.lock().expect("no test panicked");
        if *method == http::Method::GET {
            return if stored.0 == 0 { failure(404, "NotFound") } else { (200, stored.1.clone()) };
        }
        let mut new: Value = serde_json::from_slice(body).expect("a lease, or how to delete one");
        if *method == http::Method::DELETE {
            let same =
                new["preconditions"]["resourceVersion"].as_str() == Some(stored.0.to_string().as_str());
            return if same { (200, std::mem::take(&mut *stored).1) } else { failure(409, "Conflict") };
        }
        let known = new["metadata"]["resourceVersion"].as_str().unwrap_or("0");
        if known != stored.0.to_string() {
            return failure(409, "Conflict");
        }
        let version = stored.0 + 1;
        new["metadata"]["resourceVersion"] = version.to_string().into();
        *stored = (version, new.clone());
        (200, new)
    }

    fn holder(&self) -> String {
        self.0.lock().expect("no test panicked").1["spec"]["holderIdentity"].as_str().unwrap_or("").to_owned()
    }
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_another_takes_over_when_it_no_longer_renews() {
    let store = Store::default();
    let (first_stop, second_stop) = (CancellationToken::new(), CancellationToken::new());
    let first = Candidate::new(context(store.client(), first_stop.clone()), "n", "lease", "first".to_owned());
    let second =
        Candidate::new(context(store.client(), second_stop.clone()), "n", "lease", "second".to_owned());
    let leading = first.lead().await;
    assert_eq!(store.holder(), "first");

    let second = second.lead();
    tokio::pin!(second);
    let waited = timeout(Duration::from_secs(120), &mut second).await;
    assert!(waited.is_err(), "who renews is not replaced");
    assert!(!leading.is_cancelled());

    first_stop.cancel();
    let stopped = Instant::now();
    second.await;
    let took = stopped.elapsed();
    assert!(leading.is_cancelled());
    assert_eq!(store.holder(), "second");
    assert!((Duration::from_secs(10)..=Duration::from_secs(20)).contains(&took), "{took:?}");
    second_stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_stops_leading_before_another_may_begin() {
    let store = Store::default();
    let stop = CancellationToken::new();
    let candidate = Candidate::new(context(store.client(), stop.clone()), "n", "lease", "first".to_owned());
    let leading = candidate.lead().await;
    // Somebody took it by force: every renewal from now on is refused.
    let thief = json!({"metadata": {"name": "lease", "resourceVersion": "99"},
                       "spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}});
    *store.0.lock().expect("no test panicked") = (99, thief);
    let began = Instant::now();
    leading.cancelled().await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_never_answered_does_not_keep_a_leader() {
    let store = Store::default();
    let (stop, silent) = (CancellationToken::new(), CancellationToken::new());
    let (answering, store_of_client) = (silent.clone(), store.clone());
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (silent, store) = (answering.clone(), store_of_client.clone());
        async move {
            if silent.is_cancelled() {
                std::future::pending::<()>().await;
            }
            let method = request.method().clone();
            let body = request.into_body().collect().await?.to_bytes();
            let (code, value) = store.answer(&method, &body);
            let body = Full::new(Bytes::from(value.to_string()));
            Ok::<_, tower::BoxError>(http::Response::builder().status(code).body(body)?)
        }
    });
    let client = kube::Client::new(service, "default");
    let leading =
        Candidate::new(context(client, stop.clone()), "n", "lease", "first".to_owned()).lead().await;
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(!leading.is_cancelled());
    silent.cancel();
    let began = Instant::now();
    leading.cancelled().await;
    assert!(began.elapsed() <= Duration::from_secs(10), "{:?}", began.elapsed());
    stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_up_is_free_at_once_and_that_of_another_is_not_touched() {
    let store = Store::default();
    let stop = CancellationToken::new();
    let candidate = |name: &str| {
        let context = context(store.client(), stop.clone());
        Candidate::new(context, "n", "lease", name.to_owned()).timing(Timing::default())
    };
    let (mut first, mut second) = (candidate("first"), candidate("second"));
    assert_eq!(first.attempt().await, Attempt::Held);
    let until = Instant::now() + Timing::default().duration;
    assert_eq!(second.attempt().await, Attempt::Others(until));
    second.release().await;
    assert_eq!(store.holder(), "first");
    first.release().await;
    assert_eq!(second.attempt().await, Attempt::Held);
    assert_eq!(second.attempt().await, Attempt::Held);
    first.release().await;
    assert_eq!(store.holder(), "second");
}
