//! How long a start takes, and what it leaves in memory.

use std::time::Duration;

use tokio::time::Instant;

use crate::fixture::Fixture;

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
