//! The network between the API server and its clients: who is cut off, what is lost, what arrives late, and who dies at
//! which write. Everything that chance decides here is decided by the seed.
//!
//! Deliberately absent: broken or reordered answers. A stream keeps its order and its bytes, as TLS does.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Wakers, Poll};
use std::time::Duration;

use api_machinery::entropy::Entropy;
use apiserver::ApiServer;
use apiserver::types::{Body as AnswerBody, UserInfo};
use http::{Method, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use kube::client::Body;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::sabotage::Sabotage;

/// How long a request is on its way. Without it, a component that writes again and again until it sees something that comes
/// later would never see it: virtual time stands still while anybody has something to do.
const WAY: Duration = Duration::from_millis(1);

/// What goes wrong by chance. Probabilities are between 0 and 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// A request never reaches the server.
    pub drop: f64,
    /// A request is carried out, and its answer is lost.
    pub lose: f64,
    /// A control-plane component dies right before or right after one of its writes.
    pub crash: f64,
    /// Changes reach watchers up to this much later.
    pub delay: Duration,
}

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("connection refused")]
pub struct Away;

/// Whose requests these are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Nothing ever happens to the administrator.
    Administrator,
    /// A component of the control plane, by its name.
    Component(String),
    /// A machine, by its name.
    Node(String),
}

/// The network. Cheaply cloned.
#[derive(Clone)]
pub struct Network {
    state: Arc<Mutex<State>>,
    entropy: Entropy,
    /// Components that died at a write.
    dead: mpsc::UnboundedSender<String>,
}

struct State {
    server: Option<Arc<ApiServer>>,
    faults: Faults,
    /// A planted bug.
    sabotage: Option<Sabotage>,
    /// Machines that reach nobody.
    cut: BTreeSet<String>,
    /// Ends the streams of a machine that is cut off.
    streams: std::collections::BTreeMap<String, CancellationToken>,
}

impl Network {
    /// A network without a server. The names of components that die at a write are sent to `dead`.
    pub fn new(entropy: Entropy, dead: mpsc::UnboundedSender<String>) -> Self {
        let state = State {
            server: None,
            faults: Faults::default(),
            sabotage: None,
            cut: BTreeSet::new(),
            streams: Default::default(),
        };
        Self { state: Arc::new(Mutex::new(state)), entropy, dead }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where requests go from now on; returns where they went.
    pub fn set_server(&self, server: Option<Arc<ApiServer>>) -> Option<Arc<ApiServer>> {
        std::mem::replace(&mut self.state().server, server)
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Plants a bug into what components send.
    pub fn sabotage(&self, sabotage: Sabotage) {
        self.state().sabotage = Some(sabotage);
    }

    /// Cuts a machine off: nothing reaches it and nothing leaves it, streams included.
    pub fn cut(&self, node: &str) {
        let mut state = self.state();
        state.cut.insert(node.to_owned());
        if let Some(streams) = state.streams.remove(node) {
            streams.cancel();
        }
    }

    /// Undoes [`Network::cut`].
    pub fn heal(&self, node: &str) {
        self.state().cut.remove(node);
    }

    /// A client that acts as `user` until `alive` is cancelled, through whichever server runs at the time.
    pub fn client(&self, who: Who, user: UserInfo, alive: CancellationToken) -> kube::Client {
        let network = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (network, who, user, alive) = (network.clone(), who.clone(), user.clone(), alive.clone());
            async move {
                let passed = network.pass(&who, user, request, &alive);
                alive.run_until_cancelled(passed).await.unwrap_or_else(|| Err(Away))
            }
        });
        kube::Client::new(service, "default")
    }

    async fn pass(
        &self,
        who: &Who,
        user: UserInfo,
        request: Request<Body>,
        alive: &CancellationToken,
    ) -> Result<Response<AnswerBody>, Away> {
        let (server, faults, cut) = self.road(who).ok_or(Away)?;
        if *who == Who::Administrator {
            return Ok(server.call(user, request).await);
        }
        tokio::time::sleep(WAY).await;
        let happens = |probability: f64| probability > 0.0 && self.entropy.unit_f64() < probability;
        if happens(faults.drop) {
            return Err(Away);
        }
        let write = *request.method() != Method::GET;
        let crash = match who {
            Who::Component(name) if write && happens(faults.crash) => Some(name),
            _ => None,
        };
        let before = happens(0.5);
        if let Some(name) = crash.filter(|_| before) {
            return self.die(name, alive);
        }
        let sabotage = self.state().sabotage.clone();
        let answer = match sabotage.filter(|_| matches!(who, Who::Component(_))) {
            Some(sabotage) => sabotage.call(&server, user, request).await,
            None => server.call(user, request).await,
        };
        if let Some(name) = crash {
            return self.die(name, alive);
        }
        if cut.is_cancelled() || (write && happens(faults.lose)) {
            return Err(Away);
        }
        Ok(Late::answer(answer, self.clone(), cut))
    }

    /// The server, what goes wrong on the way, and what tells that the way is no more; `None` without a way.
    fn road(&self, who: &Who) -> Option<(Arc<ApiServer>, Faults, CancellationToken)> {
        let mut state = self.state();
        let streams = match who {
            Who::Node(name) if state.cut.contains(name) => return None,
            Who::Node(name) => state.streams.entry(name.clone()).or_default().clone(),
            Who::Administrator | Who::Component(_) => CancellationToken::new(),
        };
        Some((state.server.clone()?, state.faults, streams))
    }

    fn die(&self, name: &str, alive: &CancellationToken) -> Result<Response<AnswerBody>, Away> {
        alive.cancel();
        // Nobody hears it any more when the whole cluster is being taken down.
        if self.dead.send(name.to_owned()).is_err() {
            tracing::debug!(name, "died while the cluster ends");
        }
        Err(Away)
    }

    fn lag(&self) -> Duration {
        let most = self.state().faults.delay;
        match u64::try_from(most.as_millis()) {
            Ok(0) | Err(_) => Duration::ZERO,
            Ok(most) => Duration::from_millis(self.entropy.below(most)),
        }
    }
}

/// A body whose parts arrive late, but in order, and that ends when its machine is cut off.
struct Late {
    inner: AnswerBody,
    network: Network,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    waiting: VecDeque<(Instant, Frame<bytes::Bytes>)>,
    last: Instant,
    ended: bool,
    sleep: Pin<Box<Sleep>>,
}

impl Late {
    /// The answer as it arrives.
    fn answer(
        answer: Response<AnswerBody>,
        network: Network,
        cut: CancellationToken,
    ) -> Response<AnswerBody> {
        let (head, inner) = answer.into_parts();
        if inner.size_hint().exact().is_some() {
            // Whole answers are no streams: they come at once or not at all.
            return Response::from_parts(head, inner);
        }
        let now = Instant::now();
        let mut late = Self {
            inner,
            network,
            cut: Box::pin(async move { cut.cancelled().await }),
            waiting: VecDeque::new(),
            last: now,
            ended: false,
            sleep: Box::pin(tokio::time::sleep_until(now)),
        };
        let stream = futures::stream::poll_fn(move |wakers| late.poll(wakers));
        Response::from_parts(head, StreamBody::new(stream).boxed_unsync())
    }

    fn poll(
        &mut self,
        wakers: &mut Wakers<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, apiserver::types::BoxError>>> {
        if self.cut.as_mut().poll(wakers).is_ready() {
            return Poll::Ready(Some(Err(Box::new(Away))));
        }
        while !self.ended {
            match Pin::new(&mut self.inner).poll_frame(wakers) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.last = self.last.max(Instant::now() + self.network.lag());
                    self.waiting.push_back((self.last, frame));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => break,
            }
        }
        match self.waiting.front() {
            Some((due, _)) if *due <= Instant::now() => {
                Poll::Ready(self.waiting.pop_front().map(|(_, frame)| Ok(frame)))
            }
            Some((due, _)) => {
                self.sleep.as_mut().reset(*due);
                match self.sleep.as_mut().poll(wakers) {
                    Poll::Ready(()) => Poll::Ready(self.waiting.pop_front().map(|(_, frame)| Ok(frame))),
                    Poll::Pending => Poll::Pending,
                }
            }
            None if self.ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
