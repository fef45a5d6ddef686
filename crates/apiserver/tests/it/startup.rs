//! How long a start takes, and that what it makes stays.

use std::time::Duration;

use tokio::time::Instant;

use crate::fixture::{Events, Fixture, request};

/// The catalogue, the caches and bootstrap together. The promise is 0.3 s for the whole server in a release build; here
/// is neither a release build nor a machine to itself, so this only finds what has become slow by a factor.
#[tokio::test]
async fn a_server_is_ready_soon() {
    let start = Instant::now();
    let fixture = Fixture::new().await;
    let took = start.elapsed();
    assert!(fixture.server.is_ready());
    eprintln!("ready after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// Nothing works without the API's own Service: it is made again, at the same address, however often it is deleted.
#[tokio::test]
async fn what_the_cluster_needs_comes_back() {
    let fixture = Fixture::new().await;
    let service = "/api/v1/namespaces/default/services/kubernetes";
    let watch = "/api/v1/namespaces/default/services?watch=true&fieldSelector=metadata.name%3Dkubernetes";
    let mut events = Events::new(fixture.call(request("GET", watch, None)).await);
    let first = events.next().await.expect("it is there");
    for _ in 0..3 {
        assert_eq!(fixture.call(request("DELETE", service, None)).await.status(), 200);
        assert_eq!(events.next().await.expect("an event")["type"], "DELETED");
        let again = events.next().await.expect("an event");
        assert_eq!(again["type"], "ADDED");
        let address = "/object/spec/clusterIP";
        assert_eq!(again.pointer(address), first.pointer(address));
        assert_ne!(again.pointer("/object/metadata/uid"), first.pointer("/object/metadata/uid"));
    }
}
