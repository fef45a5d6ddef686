//! A moto server of the test's own, and a proxy before it that misbehaves as told.
#![expect(clippy::disallowed_methods, reason = "the test starts the simulated cloud")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use bytes::Bytes;
use cloud::aws::client::{Client, Endpoint, Parameters};
use cloud::aws::connect::Connector;
use cloud::aws::sign::Credentials;
use cloud::aws::{Aws, AwsConfig};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is not done, and answered so: status, `Retry-After`, body.
    Refuse(u16, Option<u64>, String),
    /// It is done, and the answer is a server's error.
    LoseAnswer,
    /// It is not done, and answered as if it were.
    Lie(String),
}

/// An error as EC2 and ELB write it, near enough for both.
pub fn error(code: &str) -> String {
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>as told</Message></Error></Errors></Response>"
    )
}

#[derive(Default)]
struct Orders {
    /// By action, what becomes of its next requests.
    faults: BTreeMap<String, Vec<Fault>>,
    /// Every request, in order.
    seen: Vec<String>,
    /// What was answered to a creation with a token: EC2 answers so again, instead of making one more. moto does not.
    made: BTreeMap<String, Bytes>,
}

/// The simulated cloud.
pub struct Moto {
    child: Child,
    orders: Arc<Mutex<Orders>>,
    _tasks: JoinSet<()>,
    address: String,
    pub client: Client,
    pub vpc: String,
    pub zone: String,
}

fn credentials() -> Credentials {
    Credentials { access_key: "test".to_owned(), secret_key: "test".to_owned(), session_token: None }
}

impl Moto {
    /// A cloud with nothing in it but a default network; `None`, loudly, where there is no moto.
    pub async fn start() -> Option<Self> {
        let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../out/moto/bin/moto_server");
        if !program.exists() {
            let required = std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_some_and(|value| value == "1");
            assert!(!required, "SKIFF_REQUIRE_CONTAINERD=1, but {} is not there", program.display());
            eprintln!("SKIPPED: {} is not there (scripts/setup)", program.display());
            return None;
        }
        let mut child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("moto starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut tasks = JoinSet::new();
        let server = loop {
            let line = lines.next_line().await.expect("readable").expect("moto says where it listens");
            if let Some((_, address)) = line.split_once("Running on http://") {
                break address.trim().to_owned();
            }
        };
        // What it says of each request is read, or it would block.
        tasks.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let orders = Arc::new(Mutex::new(Orders::default()));
        let address = proxy(&mut tasks, server, orders.clone()).await;
        let client =
            Client::new(Connector::plain(), "us-east-1", credentials(), Clock::system(), Entropy::seeded(1));
        let mut moto = Self {
            child,
            orders,
            _tasks: tasks,
            address,
            client,
            vpc: String::new(),
            zone: "us-east-1a".to_owned(),
        };
        moto.vpc = moto.value("DescribeVpcs", Parameters::default(), "vpcId").await;
        Some(moto)
    }

    pub fn config(&self) -> AwsConfig {
        AwsConfig {
            region: "us-east-1".to_owned(),
            vpc: self.vpc.clone(),
            subnets: Vec::new(),
            route_table: None,
            default_zone: Some(self.zone.clone()),
            ec2_endpoint: Some(self.address.clone()),
            elb_endpoint: Some(self.address.clone()),
            ca_bundle: PathBuf::new(),
        }
    }

    /// The provider under test.
    pub fn provider(&self) -> Aws {
        self.provider_with(self.config())
    }

    pub fn provider_with(&self, config: AwsConfig) -> Aws {
        Aws::new(config, "test", credentials(), Clock::system(), Entropy::seeded(2)).expect("a provider")
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next requests of this action go wrong, one after the other.
    pub fn fail(&self, action: &str, faults: impl IntoIterator<Item = Fault>) {
        self.orders().faults.entry(action.to_owned()).or_default().extend(faults);
    }

    /// From now on nothing goes wrong.
    pub fn calm(&self) {
        self.orders().faults.clear();
    }

    /// Whether all went wrong that was told to.
    pub fn is_calm(&self) -> bool {
        self.orders().faults.values().all(Vec::is_empty)
    }

    /// How often an action was asked for so far.
    pub fn count(&self, action: &str) -> usize {
        self.orders().seen.iter().filter(|seen| *seen == action).count()
    }

    fn endpoint(&self, elb: bool) -> Endpoint {
        let (service, version) =
            if elb { ("elasticloadbalancing", "2015-12-01") } else { ("ec2", "2016-11-15") };
        Endpoint { uri: self.address.parse().expect("an address"), service, version }
    }

    /// Asks EC2 directly.
    pub async fn ec2(&self, action: &str, parameters: Parameters) -> String {
        self.client
            .call(&self.endpoint(false), action, &parameters)
            .await
            .unwrap_or_else(|e| panic!("{action}: {e:?}"))
    }

    /// Asks ELB directly.
    pub async fn elb(&self, action: &str, parameters: Parameters) -> String {
        self.client
            .call(&self.endpoint(true), action, &parameters)
            .await
            .unwrap_or_else(|e| panic!("{action}: {e:?}"))
    }

    /// The first element of this name in an answer of EC2's.
    pub async fn value(&self, action: &str, parameters: Parameters, element: &str) -> String {
        values(&self.ec2(action, parameters).await, element).into_iter().next().unwrap_or_default()
    }

    /// Starts a machine; returns its ID.
    pub async fn run_instance(&self) -> String {
        let parameters = Parameters::default()
            .with("ImageId", "ami-12c6146b")
            .with("InstanceType", "m5.large")
            .with("Placement.AvailabilityZone", &self.zone)
            .with("MinCount", "1")
            .with("MaxCount", "1");
        self.value("RunInstances", parameters, "instanceId").await
    }

    /// Marks two subnets, in two zones, as places for load balancers.
    pub async fn tag_subnets(&self) {
        let subnets = values(&self.ec2("DescribeSubnets", Parameters::default()).await, "subnetId");
        let parameters = Parameters::default()
            .with("ResourceId.1", &subnets[0])
            .with("ResourceId.2", &subnets[1])
            .with("Tag.1.Key", "kubernetes.io/role/elb")
            .with("Tag.1.Value", "1");
        self.ec2("CreateTags", parameters).await;
    }

    /// What there is for load balancers: their number, those of listeners, and of target groups.
    pub async fn balancers(&self) -> (usize, usize, usize) {
        let balancers = self.elb("DescribeLoadBalancers", Parameters::default()).await;
        let arns = values(&balancers, "LoadBalancerArn");
        let mut listeners = 0;
        for arn in &arns {
            let of = Parameters::default().with("LoadBalancerArn", arn);
            listeners += values(&self.elb("DescribeListeners", of).await, "ListenerArn").len();
        }
        let groups = self.elb("DescribeTargetGroups", Parameters::default()).await;
        (arns.len(), listeners, values(&groups, "TargetGroupName").len())
    }

    /// The targets of all target groups: machine and port.
    pub async fn targets(&self) -> Vec<String> {
        let groups = self.elb("DescribeTargetGroups", Parameters::default()).await;
        let mut all = Vec::new();
        for arn in values(&groups, "TargetGroupArn") {
            let health =
                self.elb("DescribeTargetHealth", Parameters::default().with("TargetGroupArn", arn)).await;
            let ports = values(&health, "Port");
            all.extend(values(&health, "Id").into_iter().zip(ports).map(|(id, port)| format!("{id}:{port}")));
        }
        all.sort();
        all
    }

    /// The IDs of all volumes that there are.
    pub async fn volumes(&self) -> Vec<String> {
        let mut volumes = values(
            &self
                .ec2(
                    "DescribeVolumes",
                    Parameters::default().filter(1, "tag-key", &["skiff.dev/persistent-volume"]),
                )
                .await,
            "volumeId",
        );
        volumes.dedup();
        volumes
    }

    /// Ends it in good order.
    pub async fn stop(mut self) {
        self.child.kill().await.expect("moto ends");
    }
}

/// The texts of all elements of a name.
pub fn values(answer: &str, element: &str) -> Vec<String> {
    let document = cloud::aws::xml::parse(answer).expect("XML");
    let found = document.descendants().filter(|node| node.tag_name().name() == element);
    found.filter_map(|node| node.text()).map(str::to_owned).collect()
}

type Http = HttpClient<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>>;

async fn proxy(tasks: &mut JoinSet<()>, server: String, orders: Arc<Mutex<Orders>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let http: Http = HttpClient::builder(TokioExecutor::new()).build_http();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let (http, server, orders) = (http.clone(), server.clone(), orders.clone());
            connections.spawn(async move {
                let serve = hyper::service::service_fn(move |request| {
                    pass(http.clone(), server.clone(), orders.clone(), request)
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), serve)
                    .await;
                // The client may be gone at any time.
                drop(served);
            });
        }
    });
    address
}

async fn pass(
    http: Http,
    server: String,
    orders: Arc<Mutex<Orders>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a whole request").to_bytes();
    let text = String::from_utf8_lossy(&body);
    let field = |name: &str| {
        let of = |pair: &str| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        text.split('&').find_map(of)
    };
    let action = field("Action").unwrap_or_default();
    let token = field("ClientToken");
    let fault = {
        let mut orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.seen.push(action.clone());
        orders.faults.get_mut(&action).filter(|faults| !faults.is_empty()).map(|faults| faults.remove(0))
    };
    match fault {
        Some(Fault::Refuse(status, retry, body)) => return Ok(answer(status, retry, body)),
        Some(Fault::Lie(body)) => return Ok(answer(200, None, body)),
        Some(Fault::LoseAnswer) | None => {}
    }
    if let Some(body) = token.as_ref().and_then(|token| made(&orders, token)) {
        return Ok(Response::new(Full::new(body)));
    }
    let mut forwarded = Request::post(format!("http://{server}/"));
    for (name, value) in &head.headers {
        if name != http::header::HOST {
            forwarded = forwarded.header(name, value);
        }
    }
    // moto tells the APIs apart by the name that was asked for, or by the signature.
    let forwarded = forwarded.body(Full::new(body)).expect("a request");
    let response = http.request(forwarded).await.expect("moto answers");
    let (status, body) =
        (response.status(), response.into_body().collect().await.expect("a whole answer").to_bytes());
    if let Some(token) = token.filter(|_| status.is_success()) {
        orders.lock().unwrap_or_else(PoisonError::into_inner).made.insert(token, body.clone());
    }
    if matches!(fault, Some(Fault::LoseAnswer)) {
        return Ok(answer(500, None, "lost".to_owned()));
    }
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    Ok(response)
}

/// What was answered to a creation with this token before.
fn made(orders: &Mutex<Orders>, token: &str) -> Option<Bytes> {
    orders.lock().unwrap_or_else(PoisonError::into_inner).made.get(token).cloned()
}

fn answer(status: u16, retry: Option<u64>, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(StatusCode::from_u16(status).expect("a status"));
    if let Some(seconds) = retry {
        response = response.header(http::header::RETRY_AFTER, seconds);
    }
    response.body(Full::new(Bytes::from(body))).expect("an answer")
}

/// Tries until something is done; it is asked again without delay, as it is in progress only because it is asked for.
pub async fn settle<T, F>(mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = cloud::provider::Answer<cloud::provider::Progress<T>>>,
{
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        match ask().await.unwrap_or_else(|error| panic!("{error}")) {
            cloud::provider::Progress::Done(done) => return done,
            cloud::provider::Progress::Pending => {
                assert!(tokio::time::Instant::now() < deadline, "never done");
                tokio::task::yield_now().await;
            }
        }
    }
}
