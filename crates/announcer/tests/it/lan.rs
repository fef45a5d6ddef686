//! A link with a switch, two nodes, a client that speaks ARP itself, and one that leaves it to the kernel; and an API server.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use announcer::Config;
use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::gate::{GateConfig, cluster_gate};
use apiserver::limits::Limits;
use apiserver::tokens::Tokens;
use apiserver::types::UserInfo;
use apiserver::{ApiServer, Dependencies};
use component::{Api, Context};
use host::arp::{MacAddress, Operation, Packet, PacketSocket, Station, Wire};
use host::links;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use store::simdisk::SimDisk;
use store::{EmbeddedStore, Options};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The load balancer's address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// The client that speaks ARP itself.
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Whatever is waited for happens within this time, on a slow machine too.
const PATIENCE: Duration = Duration::from_secs(40);
/// An answer that has not come by now does not come.
const ANSWER: Duration = Duration::from_millis(400);

/// A node's announcer.
struct Running {
    task: JoinHandle<()>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// All of it.
pub struct Lan {
    server: Arc<ApiServer>,
    /// The control plane cannot be reached.
    away: CancellationToken,
    admin: kube::Client,
    /// Owner of the announcers.
    owner: TaskTracker,
    running: BTreeMap<String, Running>,
    wires: BTreeMap<String, Arc<PacketSocket>>,
    pub client: PacketSocket,
}

/// Runs a scenario on this thread, which has moved into a namespace of its own.
pub fn isolated(scenario: impl AsyncFnOnce(Lan)) {
    if let Err(error) = host::network::isolate() {
        assert!(
            std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_none(),
            "cannot make a network namespace: {error}"
        );
        eprintln!("SKIPPED: cannot make a network namespace ({error}); run as root");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut lines: Vec<String> =
            ["link add lan type bridge", "address add 192.0.2.1/24 dev lan", "link set lan up"]
                .map(str::to_owned)
                .into();
        for name in ["n1", "n2", "client"] {
            lines.push(format!("link add {name} type veth peer name {name}-port"));
            lines.push(format!("link set {name}-port master lan up"));
            lines.push(format!("link set {name} up"));
        }
        links::ip(&lines).await.expect("links");
        scenario(Lan::start_server().await).await;
    });
}

impl Lan {
    async fn start_server() -> Lan {
        let store = EmbeddedStore::open(Arc::new(SimDisk::new(1)), Options::simulated(1)).expect("a store");
        let (clock, entropy) = (Clock::system(), Entropy::seeded(3));
        let dependencies = Dependencies {
            store: Arc::new(store),
            catalog: apiserver::catalog::Catalog::built_in(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            kubelets: Arc::new(apiserver::proxy::NoKubelets),
        };
        let tokens = Tokens::ephemeral("https://kubernetes.default.svc", entropy.clone()).expect("tokens");
        let gate = GateConfig { clock, entropy, tokens: Arc::new(tokens), limits: Limits::default() };
        let server = ApiServer::start(apiserver::Config::default(), dependencies, cluster_gate(gate))
            .await
            .expect("it starts");
        let admin = server.client(UserInfo::new("admin", &["system:masters", "system:authenticated"]));
        let open = |name: &str| PacketSocket::open(name).expect("a link");
        let wires = ["n1", "n2"].map(|name| (name.to_owned(), Arc::new(open(name)))).into();
        let lan = Lan {
            server,
            away: CancellationToken::new(),
            admin,
            owner: TaskTracker::new(),
            running: BTreeMap::new(),
            wires,
            client: open("client"),
        };
        for name in ["n1", "n2"] {
            lan.make::<Node>(Api::all(lan.admin.clone()), json!({"metadata": {"name": name}})).await;
        }
        lan
    }

    async fn make<K>(&self, api: Api<K>, object: Value)
    where
        K: component::api::Object + serde::de::DeserializeOwned + serde::Serialize,
    {
        let object: K = serde_json::from_value(object).expect("an object");
        api.create(&PostParams::default(), &object).await.expect("it is made");
    }

    pub async fn ip(&self, lines: &[&str]) {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        links::ip(&lines).await.expect("allowed");
    }

    /// A node's hardware address.
    pub fn mac(&self, node: &str) -> MacAddress {
        self.wires[node].hardware_address().expect("the link is there")
    }

    /// Starts a node's announcer with the rights that a node has: one as the server's own, one that joined.
    pub fn start(&mut self, node: &str) {
        let user = match node {
            "n1" => UserInfo::new("system:kube-proxy", &["system:authenticated"]),
            _ => UserInfo::new("skiff:node-network:n2", &["skiff:node-network", "system:authenticated"]),
        };
        let context = Context {
            client: self.cut(self.server.client(user)),
            clock: Clock::system(),
            entropy: Entropy::seeded(5),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        let (tasks, shutdown) = (context.tasks.clone(), context.shutdown.clone());
        let (config, link) = (Config { node_name: node.to_owned() }, node.to_owned());
        let open = move || PacketSocket::open(&link).map(|socket| Arc::new(socket) as Arc<dyn Wire>);
        let task = self.owner.spawn(announcer::run(context, config, open));
        self.running.insert(node.to_owned(), Running { task, tasks, shutdown });
    }

    /// From one moment to the next.
    pub async fn kill(&mut self, node: &str) {
        let Running { task, shutdown, .. } = self.running.remove(node).expect("it runs");
        task.abort();
        let ended = task.await.expect_err("it was running");
        assert!(ended.is_cancelled(), "{ended}");
        shutdown.cancel();
    }

    /// Told to end.
    pub async fn stop(&mut self, node: &str) {
        let Running { task, tasks, shutdown, .. } = self.running.remove(node).expect("it runs");
        shutdown.cancel();
        timeout(PATIENCE, task).await.expect("it ends").expect("it ends well");
        tasks.close();
        timeout(PATIENCE, tasks.wait()).await.expect("nothing of it is left");
    }

    /// A client whose requests fail while the control plane is away.
    fn cut(&self, client: kube::Client) -> kube::Client {
        let away = self.away.clone();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (client, away) = (client.clone(), away.clone());
            async move {
                if away.is_cancelled() {
                    return Err::<http::Response<kube::client::Body>, tower::BoxError>(
                        "no route to host".into(),
                    );
                }
                Ok(client.send(request).await?)
            }
        });
        kube::Client::new(service, "default")
    }

    /// The control plane is away from now on.
    pub fn cut_off(&self) {
        self.away.cancel();
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.admin.clone(), "default")
    }

    /// A Service that was given its address.
    pub async fn service(&self, changes: Value) {
        let plain = json!({
            "metadata": {"name": "web", "finalizers": ["service.kubernetes.io/load-balancer-cleanup"]},
            "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]},
        });
        self.make(self.services(), api_machinery::patch::merge::apply(&plain, &changes)).await;
        let ingress = json!([{"ip": ADDRESS.to_string(), "ipMode": "VIP"}]);
        let status = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": ingress}}}));
        self.services().patch_status("web", &PatchParams::default(), &status).await.expect("it is given");
    }

    pub async fn delete_service(&self) {
        self.services().delete("web", &DeleteParams::default()).await.expect("it goes");
    }

    /// Endpoints of the Service on these nodes, all ready, and no others.
    pub async fn endpoints(&self, nodes: &[&str]) {
        let api: Api<EndpointSlice> = Api::namespaced(self.admin.clone(), "default");
        let on = |node: &&str| json!({"addresses": ["10.42.0.7"], "nodeName": node, "conditions": {"ready": true}});
        let endpoints: Vec<Value> = nodes.iter().map(on).collect();
        if api.get_opt("web-1").await.expect("an answer").is_none() {
            let labels = json!({"kubernetes.io/service-name": "web"});
            let slice = json!({"metadata": {"name": "web-1", "labels": labels}, "addressType": "IPv4", "endpoints": endpoints});
            return self.make(api, slice).await;
        }
        let patch = Patch::Merge(json!({"endpoints": endpoints}));
        api.patch("web-1", &PatchParams::default(), &patch).await.expect("they are changed");
    }

    pub async fn label(&self, node: &str, label: &str) {
        let api: Api<Node> = Api::all(self.admin.clone());
        let patch = Patch::Merge(json!({"metadata": {"labels": {label: ""}}}));
        api.patch(node, &PatchParams::default(), &patch).await.expect("it is labelled");
    }

    /// Who says that the address is his, asked once.
    pub async fn answers(&self) -> Vec<MacAddress> {
        let asker = Station { mac: self.client.hardware_address().expect("a link"), address: CLIENT };
        let target = Station { mac: MacAddress::UNKNOWN, address: ADDRESS };
        let question = Packet { operation: Operation::Request, sender: asker, target };
        self.client.send(MacAddress::BROADCAST, &question).expect("sent");
        let mut found = Vec::new();
        let listening = async {
            loop {
                let packet = self.client.receive().await.expect("a link");
                let told = packet.operation == Operation::Reply && packet.target == asker;
                if told && packet.sender.address == ADDRESS && !found.contains(&packet.sender.mac) {
                    found.push(packet.sender.mac);
                }
            }
        };
        timeout(ANSWER, listening).await.expect_err("it listens for ever");
        found
    }

    /// A machine says to all that the address is its own.
    pub fn claim(&self, node: &str) {
        for packet in announcer::answer::announcements(ADDRESS, self.mac(node)) {
            self.wires[node].send(MacAddress::BROADCAST, &packet).expect("sent");
        }
    }

    /// Whether a machine says so to all within a while.
    pub async fn heard_claim(&self, node: &str) -> bool {
        let listening = async {
            loop {
                let packet = self.client.receive().await.expect("a link");
                if packet.sender == (Station { mac: self.mac(node), address: ADDRESS })
                    && packet.target.address == ADDRESS
                {
                    return;
                }
            }
        };
        timeout(ANSWER, listening).await.is_ok()
    }

    /// Has the kernel look for the address.
    pub async fn touch(&self) {
        let socket = tokio::net::UdpSocket::bind(("192.0.2.1", 0)).await.expect("a socket");
        socket.send_to(b"x", (ADDRESS, 9)).await.expect("sent");
    }

    /// What the kernel holds for the address.
    pub async fn neighbour(&self) -> Option<MacAddress> {
        let words = ["-json", "neighbour", "show", "to", &ADDRESS.to_string(), "dev", "lan"];
        let listed = host::process::run("ip", &words).await.expect("a list");
        let rows: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap_or_default();
        let known = rows.first()?["lladdr"].as_str()?.to_owned();
        ["n1", "n2"].into_iter().map(|node| self.mac(node)).find(|mac| mac.to_string() == known)
    }

    /// Waits until it is so.
    pub async fn until(&self, what: &str, holds: impl AsyncFn(&Lan) -> bool) {
        let wait = async {
            while !holds(self).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}
