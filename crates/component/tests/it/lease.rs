//! Leader election against one Lease with compare-and-swap.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use component::Context;
use component::lease::{Attempt, Candidate, Timing, run_while_leading};
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
        let mut new: Value = serde_json::from_slice(body).expect("a lease");
        let known = new["metadata"]["resourceVersion"].as_str().unwrap_or("0");
        if known != stored.0.to_string() {
            return failure(409, "Conflict");
        }
        let version = stored.0 + 1;
        new["metadata"]["resourceVersion"] = version.to_string().into();
        *stored = (version, new.clone());
        (200, new)
    }

    fn spec(&self) -> Value {
        self.0.lock().expect("no test panicked").1["spec"].clone()
    }

    fn holder(&self) -> String {
        self.spec()["holderIdentity"].as_str().unwrap_or("").to_owned()
    }

    /// Somebody takes the Lease by force.
    fn steal(&self) {
        let thief = json!({"metadata": {"name": "lease", "resourceVersion": "99"},
                           "spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}});
        *self.0.lock().expect("no test panicked") = (99, thief);
    }

    fn candidate(&self, name: &str, shutdown: &CancellationToken) -> Candidate {
        Candidate::new(context(self.client(), shutdown.clone()), "n", "lease", name.to_owned())
    }
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_another_takes_over_when_it_no_longer_renews() {
    let store = Store::default();
    let stop = CancellationToken::new();
    let first = store.candidate("first", &stop).lead().await.expect("it is free");
    assert_eq!(store.holder(), "first");

    let second = store.candidate("second", &stop).lead();
    tokio::pin!(second);
    let waited = timeout(Duration::from_secs(120), &mut second).await;
    assert!(waited.is_err(), "who renews is not replaced");
    assert!(!first.token().is_cancelled());

    drop(first);
    let died = Instant::now();
    let _second = second.await.expect("it has run out");
    let took = died.elapsed();
    assert_eq!(store.holder(), "second");
    assert!((Duration::from_secs(10)..=Duration::from_secs(20)).contains(&took), "{took:?}");
}

/// Whoever is told to end leads until all that it has begun is done, and then another leads at once.
#[tokio::test(start_paused = true)]
async fn another_leads_at_once_when_the_last_that_a_leader_did_has_ended() {
    let store = Store::default();
    let (stop, others) = (CancellationToken::new(), CancellationToken::new());
    let (began, ended) = (Instant::now(), Arc::new(Mutex::new(None)));
    let note = ended.clone();
    let component = move |leader: Context| {
        let (shutdown, note) = (leader.shutdown.clone(), note.clone());
        leader.tasks.spawn(async move {
            shutdown.cancelled().await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            *note.lock().expect("no test panicked") = Some(Instant::now());
        });
        async move { leader.shutdown.cancelled().await }
    };
    let first = run_while_leading(context(store.client(), stop.clone()), "lease", "first", component);
    let second = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(store.holder(), "first");
        stop.cancel();
        store.candidate("second", &others).lead().await.expect("it is given up");
        Instant::now()
    };
    let ((), led) = tokio::join!(first, second);
    let ended = ended.lock().expect("no test panicked").expect("it has ended");
    assert!(ended - began >= Duration::from_secs(80), "{:?}", ended - began);
    let took = led.checked_duration_since(ended).expect("nobody else leads before");
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert_eq!(store.spec()["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_lost_is_not_given_up_by_whoever_lost_it() {
    let store = Store::default();
    let stop = CancellationToken::new();
    let leadership = store.candidate("first", &stop).lead().await.expect("it is free");
    store.steal();
    leadership.lost().await;
    leadership.release().await;
    assert_eq!(store.holder(), "thief");
    // Nor if that was not noticed yet.
    let store = Store::default();
    let leadership = store.candidate("first", &stop).lead().await.expect("it is free");
    store.steal();
    leadership.release().await;
    assert_eq!(store.holder(), "thief");
}

#[tokio::test(start_paused = true)]
async fn who_is_told_to_end_while_another_leads_waits_no_longer() {
    let store = Store::default();
    let stop = CancellationToken::new();
    let _first = store.candidate("first", &CancellationToken::new()).lead().await.expect("it is free");
    let second = store.candidate("second", &stop).lead();
    tokio::pin!(second);
    assert!(timeout(Duration::from_secs(30), &mut second).await.is_err());
    stop.cancel();
    assert!(second.await.is_none());
    assert_eq!(store.holder(), "first");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_renew_stops_leading_before_another_may_begin() {
    let store = Store::default();
    let stop = CancellationToken::new();
    let leadership = store.candidate("first", &stop).lead().await.expect("it is free");
    let leading = leadership.token();
    // Every renewal from now on is refused.
    store.steal();
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
    let candidate = Candidate::new(context(client, stop.clone()), "n", "lease", "first".to_owned());
    let leadership = candidate.lead().await.expect("it is free");
    let leading = leadership.token();
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
    let (mut first, mut second) = (store.candidate("first", &stop), store.candidate("second", &stop));
    assert_eq!(first.attempt().await, Attempt::Held);
    let until = Instant::now() + Timing::default().duration;
    assert_eq!(second.attempt().await, Attempt::Others(until));
    second.release().await;
    assert_eq!(store.holder(), "first");
    first.release().await;
    let given_up = store.spec();
    assert!(given_up["holderIdentity"].is_null(), "an empty one is not valid");
    assert_eq!((&given_up["leaseDurationSeconds"], &given_up["leaseTransitions"]), (&json!(1), &json!(0)));
    assert_eq!(second.attempt().await, Attempt::Held);
    assert_eq!(store.spec()["leaseTransitions"], 1);
    assert_eq!(second.attempt().await, Attempt::Held);
    first.release().await;
    assert_eq!(store.holder(), "second");
}
