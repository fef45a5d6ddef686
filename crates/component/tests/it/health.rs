//! The small server: health for everybody, metrics for whom the API server allows it, nothing else.

use std::sync::Arc;

use component::health::{HealthError, Metrics, Server};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::api::{Answer, Api, context};

async fn ask(server: std::net::SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(server).await.expect("it listens");
    let request = format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

fn token(user: &str) -> Answer {
    Answer::Json(201, json!({"spec": {}, "status": {"authenticated": true, "user": {"username": user}}}))
}

fn decision(allowed: bool) -> Answer {
    Answer::Json(201, json!({"spec": {}, "status": {"allowed": allowed}}))
}

#[tokio::test]
async fn health_is_open_and_metrics_are_not() {
    let unknown: Value = json!({"spec": {}, "status": {"authenticated": false, "user": {}}});
    let api = Api::of([
        Answer::Json(201, unknown),
        token("ann"),
        decision(false),
        token("prometheus"),
        decision(true),
        Answer::Json(500, json!({"kind": "Status", "status": "Failure", "code": 500, "message": "broken"})),
    ]);
    let stop = CancellationToken::new();
    let context = context(api.client(), stop.clone());
    let server = Server::bind("127.0.0.1:0".parse().expect("an address"), None).await.expect("it listens");
    let address = server.address().expect("an address");
    let metrics: Metrics = Arc::new(|| "up 1\n".to_owned());
    server.start(&context, Some(metrics));

    for path in ["/healthz", "/livez", "/readyz", "/healthz?verbose"] {
        let answer = ask(address, &format!("GET {path} HTTP/1.1")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok"), "{path}: {answer}");
    }
    let with = |token: &str| format!("GET /metrics HTTP/1.1\r\nAuthorization: Bearer {token}");
    for (head, code) in [
        ("GET / HTTP/1.1".to_owned(), "404"),
        ("POST /healthz HTTP/1.1".to_owned(), "405"),
        ("GET /metrics HTTP/1.1".to_owned(), "401"),
        (with("nobody's"), "401"),
        (with("ann's"), "403"),
        (with("prometheus's"), "200"),
        (with("anybody's"), "500"),
    ] {
        let answer = ask(address, &head).await;
        assert_eq!(answer.split(' ').nth(1), Some(code), "{head}: {answer}");
        assert_eq!(answer.ends_with("up 1\n"), code == "200", "{head}: {answer}");
    }
    stop.cancel();
    context.tasks.close();
    context.tasks.wait().await;
    assert!(TcpStream::connect(address).await.is_err(), "it ends with its component");
}

#[tokio::test]
async fn what_is_wrong_is_told_at_the_start() {
    let any = "127.0.0.1:0".parse().expect("an address");
    assert!(matches!(Server::bind(any, Some((b"", b""))).await, Err(HealthError::Tls(_))));
    let first = Server::bind(any, None).await.expect("it listens");
    let taken = first.address().expect("an address");
    let error = Server::bind(taken, None).await.err().expect("the port is taken");
    assert!(error.to_string().starts_with(&format!("cannot listen on {taken}")), "{error}");
}
