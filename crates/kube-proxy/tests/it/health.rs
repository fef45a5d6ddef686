//! Health-check node ports, asked as load balancers ask.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use kube_proxy::ProxyMode;
use kube_proxy::health::Server;
use kube_proxy::plan::HealthCheck;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::isolated_in;

const PORT: u16 = 31000;

async fn ask() -> io::Result<(String, Value)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: node\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    Ok((status.to_owned(), serde_json::from_str(body).unwrap()))
}

/// The port opens and closes on a task of the server's.
async fn until<T>(attempt: impl AsyncFn() -> Option<T>) -> T {
    let patiently = async {
        loop {
            if let Some(done) = attempt().await {
                return done;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(5), patiently).await.expect("it comes to pass")
}

#[test]
fn a_load_balancer_learns_whether_the_node_has_endpoints() {
    isolated_in(ProxyMode::Nftables, async |_world| {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let mut server = Server::new(tasks.clone(), shutdown.clone());
        let service = ("shop".to_owned(), "web".to_owned());
        let check = |endpoints| BTreeMap::from([(service.clone(), HealthCheck { port: PORT, endpoints })]);
        let body = |endpoints: usize| {
            json!({"service": {"namespace": "shop", "name": "web"}, "localEndpoints": endpoints,
                   "serviceProxyHealthy": true})
        };
        server.serve(&check(2));
        assert_eq!(until(async || ask().await.ok()).await, ("200".to_owned(), body(2)));
        server.serve(&check(0));
        assert_eq!(ask().await.unwrap(), ("503".to_owned(), body(0)));
        server.serve(&BTreeMap::new());
        until(async || ask().await.is_err().then_some(())).await;
        shutdown.cancel();
        tasks.close();
        tasks.wait().await;
    });
}
