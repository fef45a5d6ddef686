//! An API server of few words: a script of answers, handed out in order, and a record of what was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use bytes::Bytes;
use component::Context;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// One answer of the script.
pub enum Answer {
    /// A whole body.
    Json(u16, Value),
    /// Watch events, after which the stream ends.
    Ends(Vec<Value>),
    /// Watch events, after which the stream stays open and silent.
    Stays(Vec<Value>),
}

impl Answer {
    fn respond(self) -> http::Response<Body> {
        let lines = |events: Vec<Value>| {
            let frames = events.into_iter().map(|event| Ok(Frame::data(Bytes::from(format!("{event}\n")))));
            futures::stream::iter(frames)
        };
        let (status, body) = match self {
            Answer::Json(status, value) => (status, Full::new(Bytes::from(value.to_string())).boxed()),
            Answer::Ends(events) => (200, BodyExt::boxed(StreamBody::new(lines(events)))),
            Answer::Stays(events) => {
                (200, BodyExt::boxed(StreamBody::new(lines(events).chain(futures::stream::pending()))))
            }
        };
        http::Response::builder().status(status).body(body).expect("a response")
    }
}

/// The script and the record.
#[derive(Clone, Default)]
pub struct Api {
    script: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Api {
    pub fn of(script: impl IntoIterator<Item = Answer>) -> Self {
        let api = Self::default();
        api.script.lock().expect("no test panicked").extend(script);
        api
    }

    /// A client of it. When the script is at its end, answers never come.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            api.asked.lock().expect("no test panicked").push(query);
            let answer = api.script.lock().expect("no test panicked").pop_front();
            async move {
                match answer {
                    Some(answer) => Ok::<_, tower::BoxError>(answer.respond()),
                    None => std::future::pending().await,
                }
            }
        });
        kube::Client::new(service, "default")
    }

    /// What a query parameter was in each request, `-` where there was none.
    pub fn asked(&self, parameter: &str) -> Vec<String> {
        let value = |query: &String| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == parameter).map(|(_, value)| value.to_owned()).next()
        };
        let asked = self.asked.lock().expect("no test panicked");
        asked.iter().map(|query| value(query).unwrap_or_else(|| "-".to_owned())).collect()
    }
}

/// What a component lives on in these tests.
pub fn context(client: kube::Client, shutdown: CancellationToken) -> Context {
    let start = "2026-01-01T00:00:00Z".parse().expect("a time");
    let (clock, entropy) = (Clock::simulated(start), Entropy::seeded(1));
    Context { client, clock, entropy, tasks: TaskTracker::new(), shutdown }
}
