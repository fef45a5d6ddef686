//! Health-check node ports: a load balancer asks a node whether it has ready endpoints of a Service whose external
//! traffic stays on the node. Answers as upstream's proxy does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::plan::{HealthCheck, ServiceName};

/// Connections to one port at the same time; more wait.
const CONNECTIONS: usize = 64;
/// A client that has not asked by then is let go.
const PATIENCE: Duration = Duration::from_secs(5);
/// How soon a port that was taken is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    service: ServiceName,
    endpoints: usize,
}

struct Port {
    answer: watch::Sender<Answer>,
    stop: CancellationToken,
}

/// Serves the ports that Services ask for.
pub struct Server {
    tasks: TaskTracker,
    shutdown: CancellationToken,
    ports: BTreeMap<u16, Port>,
}

impl Server {
    /// Without any port.
    pub fn new(tasks: TaskTracker, shutdown: CancellationToken) -> Self {
        Self { tasks, shutdown, ports: BTreeMap::new() }
    }

    /// From now on just these ports are served, with these answers.
    pub fn serve(&mut self, wanted: &BTreeMap<ServiceName, HealthCheck>) {
        let wanted: BTreeMap<u16, Answer> = wanted
            .iter()
            .map(|(service, check)| {
                (check.port, Answer { service: service.clone(), endpoints: check.endpoints })
            })
            .collect();
        self.ports.retain(|number, port| {
            let keep = wanted.contains_key(number);
            if !keep {
                port.stop.cancel();
            }
            keep
        });
        for (number, answer) in wanted {
            if let Some(port) = self.ports.get(&number) {
                port.answer.send_replace(answer);
                continue;
            }
            let (answer, answers) = watch::channel(answer);
            let stop = self.shutdown.child_token();
            let tasks = self.tasks.clone();
            let serving = stop.clone();
            self.tasks.spawn(async move {
                serving.run_until_cancelled(listen(number, answers, &tasks, &serving)).await;
            });
            self.ports.insert(number, Port { answer, stop });
        }
    }
}

async fn listen(
    number: u16,
    answers: watch::Receiver<Answer>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, number));
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => tracing::warn!(%error, port = number, "a health-check node port cannot be served"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, port = number, "a health check did not arrive");
                continue;
            }
        };
        let (answers, stop) = (answers.clone(), stop.clone());
        tasks.spawn(async move {
            stop.run_until_cancelled(converse(stream, answers)).await;
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, answers: watch::Receiver<Answer>) {
    let service = hyper::service::service_fn(|_: Request<hyper::body::Incoming>| {
        let response = response(&answers.borrow());
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a health check broke off");
    }
}

fn response(Answer { service: (namespace, name), endpoints }: &Answer) -> Response<Full<Bytes>> {
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": true,
    });
    let status = if *endpoints > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", hyper::header::HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", hyper::header::HeaderValue::from(*endpoints));
    response
}
