//! Pods in network namespaces of their own behind a bridge, as the kubelet's CNI configuration makes them, and a client
//! outside of the node: services from within, the way back to oneself, what leaves and under which address, names.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use api_machinery::entropy::Entropy;
use dns::forward::Upstreams;
use host::{network, process};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_proxy::plan::{Backend, Frontend, Plan, PortPlan, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use kube_proxy::ProxyMode;

use crate::{World, plan, port};

const PATIENCE: Duration = Duration::from_secs(5);
/// What a silent network is given before its silence counts.
pub const SILENCE: Duration = Duration::from_millis(300);
pub const GATEWAY: &str = "10.42.0.254";
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 9);
const DNS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 10);

type Job = Box<dyn FnOnce(&TaskTracker) + Send>;

/// A thread in a network namespace of its own, which runs what it is given until this value goes.
pub struct Elsewhere {
    jobs: mpsc::UnboundedSender<Job>,
    /// The thread's number, by which `ip` finds the namespace.
    thread: String,
}

impl Elsewhere {
    fn start() -> Self {
        let (jobs, mut work) = mpsc::unbounded_channel::<Job>();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            network::isolate().unwrap();
            let this = std::fs::read_link("/proc/thread-self").unwrap();
            tell.send(this.file_name().unwrap().to_str().unwrap().to_owned()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let tasks = TaskTracker::new();
            runtime.block_on(async {
                while let Some(job) = work.recv().await {
                    job(&tasks);
                }
            });
        });
        Self { jobs, thread: told.recv().unwrap() }
    }

    /// Runs there, and waits for the outcome here.
    pub async fn run<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (tell, told) = oneshot::channel();
        let job: Job = Box::new(move |tasks| {
            tasks.spawn(async move {
                assert!(tell.send(work.await).is_ok(), "the test waits for the outcome");
            });
        });
        assert!(self.jobs.send(job).is_ok(), "the thread lives as long as this value");
        told.await.expect("the work in the namespace failed; its panic is above")
    }

    /// Runs there from now on.
    fn leave(&self, work: impl Future<Output = ()> + Send + 'static) {
        let job: Job = Box::new(move |tasks| drop(tasks.spawn(work)));
        assert!(self.jobs.send(job).is_ok(), "the thread lives as long as this value");
    }

    /// A link from here to there with an address, and the route to everywhere.
    async fn plug(&self, here: &str, address: Ipv4Addr, length: u8, gateway: Option<&str>) {
        ip(&["link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", &self.thread]).await;
        let (address, gateway) = (format!("{address}/{length}"), gateway.map(str::to_owned));
        self.run(async move {
            ip(&["link", "set", "lo", "up"]).await;
            ip(&["address", "add", &address, "dev", "eth0"]).await;
            ip(&["link", "set", "eth0", "up"]).await;
            if let Some(gateway) = gateway {
                ip(&["route", "add", "default", "via", &gateway]).await;
            }
        })
        .await;
    }
}

pub async fn ip(arguments: &[&str]) {
    process::run("ip", arguments).await.unwrap();
}

/// Two pods, a node with an address, and somebody outside who knows no way to pods or services.
pub struct Site {
    pub pods: Vec<Elsewhere>,
    pub outside: Elsewhere,
}

pub fn pod(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 42, 0, number)
}

pub async fn site() -> Site {
    ip(&["link", "add", "cni0", "type", "bridge"]).await;
    ip(&["address", "add", &format!("{GATEWAY}/24"), "dev", "cni0"]).await;
    ip(&["link", "set", "cni0", "up"]).await;
    let mut pods = Vec::new();
    for number in 1..=2 {
        let (there, here) = (Elsewhere::start(), format!("pod{number}"));
        there.plug(&here, pod(number), 24, Some(GATEWAY)).await;
        ip(&["link", "set", &here, "master", "cni0", "up"]).await;
        ip(&["link", "set", &here, "type", "bridge_slave", "hairpin", "on"]).await;
        pods.push(there);
    }
    let outside = Elsewhere::start();
    outside.plug("uplink", OUTSIDE, 24, None).await;
    ip(&["address", "add", &format!("{NODE}/24"), "dev", "uplink"]).await;
    ip(&["link", "set", "uplink", "up"]).await;
    Site { pods, outside }
}

/// A server that answers each connection with one line: who it is, and whom it sees.
pub async fn serve(there: &Elsewhere, name: u8) {
    let listener = there.run(async { TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).await.unwrap() }).await;
    there.leave(async move {
        while let Ok((mut stream, client)) = listener.accept().await {
            stream.write_all(format!("{name} {}", client.ip()).as_bytes()).await.expect("the client reads");
        }
    });
}

/// The same for datagrams.
pub async fn serve_datagrams(there: &Elsewhere, name: u8) {
    let socket = there.run(async { UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5353)).await.unwrap() }).await;
    there.leave(async move {
        let mut buffer = [0; 16];
        while let Ok((_, client)) = socket.recv_from(&mut buffer).await {
            socket.send_to(&[name], client).await.expect("the client is there");
        }
    });
}

pub async fn ask(address: SocketAddr) -> std::io::Result<(u8, IpAddr)> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
    let mut line = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut line)).await??;
    let (name, client) = line.split_once(' ').expect("a name and a client");
    Ok((name.parse().unwrap(), client.parse().unwrap()))
}

pub fn target(pods: impl IntoIterator<Item = u8>, port: u16) -> Vec<Backend> {
    pods.into_iter().map(|number| (pod(number), port)).collect()
}

pub fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(address, port))
}

pub fn address(port: u16, protocol: Protocol) -> Frontend {
    Frontend::Address(SERVICE, protocol, port)
}

every_mode!(a_pod_reaches_a_service_and_through_it_itself);
async fn a_pod_reaches_a_service_and_through_it_itself(mut world: World) {
    let site = site().await;
    serve(&site.pods[0], 1).await;
    serve(&site.pods[1], 2).await;
    world.apply(&plan([port(address(80, Protocol::Tcp), target([1, 2], 8080))])).await;
    let seen = site.pods[0]
        .run(async {
            let mut seen = BTreeSet::new();
            for _ in 0..40 {
                seen.insert(ask(at(SERVICE, 80)).await.unwrap());
            }
            seen
        })
        .await;
    // Another pod sees who asks; the pod itself must not see its own address, or it would answer itself directly.
    let (other, itself) = ((2, IpAddr::V4(pod(1))), (1, GATEWAY.parse().unwrap()));
    assert_eq!(seen, BTreeSet::from([other, itself]));
}

/// Two Services of the same pods on different addresses of one port: what a client has is the port's.
fn sticky(pods: impl IntoIterator<Item = u8>, timeout: Duration) -> Plan {
    let mut web = port(address(80, Protocol::Tcp), target(pods, 8080));
    let node_port = port(Frontend::NodePort(Protocol::Tcp, 30080), []);
    web.frontends.extend(node_port.frontends);
    plan([PortPlan { affinity: Some(timeout), ..web }])
}

pub async fn seen_by(client: &Elsewhere, to: SocketAddr, times: usize) -> BTreeSet<u8> {
    let mut seen = BTreeSet::new();
    for _ in 0..times {
        seen.insert(client.run(ask(to)).await.unwrap().0);
    }
    seen
}

every_mode!(affinity_keeps_a_client_at_its_pod_through_changes_until_it_times_out);
async fn affinity_keeps_a_client_at_its_pod_through_changes_until_it_times_out(mut world: World) {
    let site = site().await;
    for (pod, name) in site.pods.iter().zip(1..) {
        serve(pod, name).await;
    }
    let (client, service) = (&site.outside, at(NODE, 30080));
    let timeout = Duration::from_secs(2);
    world.apply(&sticky([1], timeout)).await;
    assert_eq!(seen_by(client, service, 2).await, BTreeSet::from([1]));
    world.apply(&sticky([1, 2], timeout)).await;
    assert_eq!(seen_by(client, service, 20).await, BTreeSet::from([1]), "the pod that it had");
    let from_pod = seen_by(&site.pods[1], at(SERVICE, 80), 20).await;
    assert_eq!(from_pod.len(), 1, "another client has one of its own: {from_pod:?}");
    world.apply(&sticky([2], timeout)).await;
    assert_eq!(seen_by(client, service, 2).await, BTreeSet::from([2]), "its pod is gone");
    if world.kind == ProxyMode::Ipvs {
        // There a client's time begins when its last connection is forgotten, which takes two minutes.
        return;
    }
    // Every wait is longer than the timeout, so each draws anew: all of twelve the same is one in two thousand.
    world.apply(&sticky([1, 2], Duration::from_secs(1))).await;
    let mut seen = BTreeSet::new();
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(2100)).await;
        seen.extend(seen_by(client, service, 1).await);
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen, BTreeSet::from([1, 2]), "after the timeout it may have another");
}

every_mode!(node_ports_answer_the_outside_and_pods_leave_under_the_nodes_address);
async fn node_ports_answer_the_outside_and_pods_leave_under_the_nodes_address(mut world: World) {
    let site = site().await;
    serve(&site.pods[0], 1).await;
    serve(&site.outside, 9).await;
    world.apply(&plan([port(Frontend::NodePort(Protocol::Tcp, 30080), target([1], 8080))])).await;
    let (name, _) = site.outside.run(ask(at(NODE, 30080))).await.unwrap();
    assert_eq!(name, 1);
    let (name, client) = site.pods[1].run(ask(at(OUTSIDE, 8080))).await.unwrap();
    assert_eq!((name, client), (9, IpAddr::V4(NODE)));
}

every_mode!(nothing_leaves_untranslated_and_what_nothing_answers_is_refused);
async fn nothing_leaves_untranslated_and_what_nothing_answers_is_refused(mut world: World) {
    let site = site().await;
    // A trap: somebody outside has the addresses, and the way back.
    let (lost_service, lost_pod) = (Ipv4Addr::new(10, 43, 0, 77), Ipv4Addr::new(10, 42, 7, 7));
    site.outside
        .run(async move {
            for address in [lost_service, lost_pod] {
                ip(&["address", "add", &format!("{address}/32"), "dev", "lo"]).await;
            }
            ip(&["route", "add", "10.42.0.0/24", "via", &NODE.to_string()]).await;
        })
        .await;
    ip(&["route", "add", "default", "via", &OUTSIDE.to_string()]).await;
    serve(&site.outside, 9).await;
    let open = site.pods[0].run(ask(at(OUTSIDE, 8080))).await.unwrap();
    assert_eq!(open.0, 9, "the way outside is open");
    for address in [lost_service, lost_pod] {
        let early = site.pods[0].run(timeout(SILENCE, ask(at(address, 8080)))).await;
        assert!(!matches!(early, Ok(Ok(_))), "before the first rule {address} was reached: {early:?}");
    }
    world.apply(&Plan::default()).await;
    let refused = site.pods[0].run(ask(at(lost_service, 8080))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    let unreachable = site.pods[0].run(ask(at(lost_pod, 8080))).await.unwrap_err();
    assert_eq!(unreachable.kind(), ErrorKind::HostUnreachable, "{unreachable}");
}

every_mode!(datagrams_follow_a_service_to_its_new_backend_and_are_refused_after_the_last);
async fn datagrams_follow_a_service_to_its_new_backend_and_are_refused_after_the_last(mut world: World) {
    let site = site().await;
    serve_datagrams(&site.pods[0], 1).await;
    serve_datagrams(&site.pods[1], 2).await;
    let to = |number| plan([port(address(53, Protocol::Udp), target([number], 5353))]);
    // One socket, so that the kernel sees one flow.
    let client = site.pods[0]
        .run(async {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
            socket.connect(at(SERVICE, 53)).await.unwrap();
            Arc::new(socket)
        })
        .await;
    let ask = async || {
        let client = client.clone();
        let question = async move {
            let mut name = [0];
            client.send(b"who?").await?;
            timeout(PATIENCE, client.recv(&mut name)).await??;
            std::io::Result::Ok(name[0])
        };
        site.pods[0].run(question).await
    };
    for number in [1, 2, 1] {
        world.apply(&to(number)).await;
        assert_eq!(ask().await.unwrap(), number);
    }
    world.apply(&Plan::default()).await;
    assert_eq!(ask().await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

fn query(name: &'static str) -> Vec<u8> {
    let mut packet = simple_dns::Packet::new_query(7);
    let (kind, class) = (simple_dns::TYPE::A.into(), simple_dns::CLASS::IN.into());
    packet.questions.push(simple_dns::Question::new(
        simple_dns::Name::new_unchecked(name),
        kind,
        class,
        false,
    ));
    packet.build_bytes_vec().unwrap()
}

fn addresses(answer: &[u8]) -> Vec<Ipv4Addr> {
    let packet = simple_dns::Packet::parse(answer).unwrap();
    let address = |record: &simple_dns::ResourceRecord| match &record.rdata {
        simple_dns::rdata::RData::A(a) => Some(Ipv4Addr::from(a.address)),
        _ => None,
    };
    packet.answers.iter().filter_map(address).collect()
}

every_mode!(a_pod_asks_the_cluster_dns_at_the_address_that_the_node_holds);
async fn a_pod_asks_the_cluster_dns_at_the_address_that_the_node_holds(mut world: World) {
    let site = site().await;
    world.apply(&Plan::default()).await;
    let config = dns::Config {
        listen: at(DNS, 53),
        domain: "cluster.local".to_owned(),
        upstreams: Upstreams::Fixed(Vec::new()),
    };
    let zone = dns::zone::Zone::build("cluster.local", &[web()], &[] as &[Box<EndpointSlice>]);
    let zone = Arc::new(RwLock::new(Arc::new(zone)));
    let server = dns::server::Server::bind(&config, zone, Entropy::seeded(1)).await.unwrap();
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    server.start(&tasks, &shutdown);
    let by_datagram = async {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        socket.send_to(&query("web.shop.svc.cluster.local"), at(DNS, 53)).await.unwrap();
        let mut answer = vec![0; 512];
        let (length, from) = timeout(PATIENCE, socket.recv_from(&mut answer)).await.unwrap().unwrap();
        assert_eq!(from, at(DNS, 53), "a client drops an answer from another address");
        addresses(&answer[..length])
    };
    assert_eq!(site.pods[0].run(by_datagram).await, [SERVICE]);
    let by_connection = async {
        let mut stream = timeout(PATIENCE, TcpStream::connect(at(DNS, 53))).await.unwrap().unwrap();
        dns::forward::write_frame(&mut stream, &query("web.shop.svc.cluster.local")).await.unwrap();
        addresses(&timeout(PATIENCE, dns::forward::read_frame(&mut stream)).await.unwrap().unwrap())
    };
    assert_eq!(site.pods[1].run(by_connection).await, [SERVICE]);
    shutdown.cancel();
}

fn web() -> Box<Service> {
    let service = serde_json::json!({
        "metadata": {"name": "web", "namespace": "shop"}, "spec": {"clusterIP": SERVICE.to_string()}
    });
    serde_json::from_value(service).map(Box::new).unwrap()
}
