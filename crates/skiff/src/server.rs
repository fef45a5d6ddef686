//! `skiff server`: the control plane in one process, and a node process beside it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::catalog::Catalog;
use apiserver::config::{Authentication, Cidr};
use apiserver::gate::{self, GateConfig, cluster_gate};
use apiserver::limits::Limits;
use apiserver::pki::{self, Client, Names, Pki};
use apiserver::types::UserInfo;
use apiserver::{ApiServer, Dependencies};
use cloud::bare_metal::BareMetal;
use component::Context;
use controllers::certificates::Authority;
use controllers::node_ipam::{Allocations, NODE_PREFIXES, Range};
use jiff::SignedDuration;
use store::{EmbeddedStore, FileDisk, Options};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::datastore::{self, Datastore, run_while_leading};
use crate::files::AgentFiles;
use crate::flags::{AgentFlags, ServerFlags};
use crate::join::JoinFlags;
use crate::{load_balancers, node_process, token};

/// Who issues the tokens of service accounts.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Runs until shutdown, or until a part of the control plane cannot go on.
pub async fn run(flags: ServerFlags, shutdown: CancellationToken) -> Result<()> {
    let plan = Plan::of(&flags)?;
    // Bound before anything is slow, so that a port that is taken is said at once.
    let listener =
        TcpListener::bind(plan.listen).await.with_context(|| format!("cannot listen on {}", plan.listen))?;
    let pki = plan.certificates(&flags)?;
    let datastore = flags.datastore.open(&plan.folder, pki.ca_certificate()).await?;
    let server = plan.start(&pki, &datastore).await?;
    let tls = pki.server_config().context("the API server's certificate")?;
    let mut parts: JoinSet<Result<()>> = JoinSet::new();
    let serving = apiserver::serve::listen(server.clone(), listener, tls, shutdown.clone());
    parts.spawn(async move {
        serving.await;
        Ok(())
    });
    tracing::info!(address = %plan.listen, "the API server is ready");
    plan.start_clients(&server, &pki, datastore.is_shared(), &shutdown, &mut parts)?;
    let own = server.client(apiserver::bootstrap::identity());
    token::first(&own, &plan.folder, pki.ca_certificate(), &plan.entropy).await?;
    if !flags.disable_agent {
        let agent = AgentFlags {
            service_cidr: flags.service_cidr.clone(),
            join: JoinFlags::default(),
            node: flags.node.clone(),
        };
        parts.spawn(node_process::keep(agent, shutdown.clone()));
    }
    let outcome = crate::together(parts, &shutdown).await;
    server.stop().await;
    datastore.close().await?;
    outcome
}

/// What follows from the flags.
struct Plan {
    folder: PathBuf,
    kubeconfig: Option<PathBuf>,
    /// Where nodes reach the servers as one.
    endpoint: Option<String>,
    listen: SocketAddr,
    names: Names,
    config: apiserver::Config,
    node_ranges: Allocations,
    /// Gives load balancers their addresses.
    addresses: Option<Arc<BareMetal>>,
    /// How long the certificates of nodes are good.
    signing: SignedDuration,
    clock: Clock,
    entropy: Entropy,
}

impl Plan {
    fn of(flags: &ServerFlags) -> Result<Plan> {
        let service_cidr: Cidr = flags.service_cidr.parse().context("--service-cidr")?;
        flags.node.check_ranges(&flags.service_cidr)?;
        let address = flags.node.address();
        let config = apiserver::Config {
            service_cidr,
            advertise_address: address,
            port: flags.https_listen_port,
            dns_address: Some(flags.node.cluster_dns),
            shared_store: !flags.datastore.datastore_endpoint.is_empty(),
            stale_reads_without_quorum: flags.datastore.stale_reads_without_quorum,
            egress: flags.egress_selector_mode.mode(),
            ..apiserver::Config::default()
        };
        let names = Names {
            node_name: flags.node.name()?,
            hostname: host::system::machine().context("cannot learn the host's name")?.hostname,
            addresses: vec![address],
            service_address: service_cidr.nth(1).map(IpAddr::V4),
            cluster_domain: flags.node.cluster_domain.clone(),
            extra: flags.control_plane_endpoint.iter().map(|endpoint| endpoint.host.clone()).collect(),
        };
        Ok(Plan {
            folder: flags.node.data_dir.clone(),
            kubeconfig: flags.write_kubeconfig.clone(),
            endpoint: flags.control_plane_endpoint.as_ref().map(|endpoint| endpoint.url.clone()),
            listen: SocketAddr::new(flags.bind_address, flags.https_listen_port),
            names,
            config,
            node_ranges: node_ranges(flags)?,
            addresses: load_balancers::provider(flags, address)?,
            signing: flags.cluster_signing_duration.try_into().context("--cluster-signing-duration")?,
            clock: Clock::system(),
            entropy: Entropy::from_os(),
        })
    }

    /// All certificates, and the files with which the administrator and the node process begin.
    fn certificates(&self, flags: &ServerFlags) -> Result<Pki> {
        let pki = Pki::load_or_create(&self.folder, &self.names, &self.clock, &self.entropy)?;
        let url = format!("https://127.0.0.1:{}", self.config.port);
        pki.write_kubeconfigs(&url)?;
        if let Some(path) = &self.kubeconfig {
            pki::write_if_changed(path, &pki.kubeconfig(Client::Admin, &url))?;
        }
        if !flags.disable_agent {
            let files = AgentFiles::below(&self.folder);
            // The node outlives this server with the help of others, if there are any.
            let url = self.endpoint.as_ref().unwrap_or(&url);
            pki::write_if_changed(&files.kubelet_kubeconfig, &pki.kubeconfig(Client::Node, url))?;
            pki::write_if_changed(&files.proxy_kubeconfig, &pki.kubeconfig(Client::KubeProxy, url))?;
            pki::write_if_changed(&files.serving_certificate, pki.kubelet_serving().certificate_pem())?;
            pki::write_if_changed(&files.serving_key, &pki.kubelet_serving().key_pem())?;
            pki::write_if_changed(&files.client_ca, pki.ca_certificate())?;
        }
        Ok(pki)
    }

    async fn start(&self, pki: &Pki, datastore: &Datastore) -> Result<Arc<ApiServer>> {
        let pods = component::connect::any_certificate().context("TLS with pods")?;
        let dependencies = Dependencies {
            store: datastore.store(),
            catalog: Catalog::built_in(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            kubelets: Arc::new(pki.kubelets(pods).context("the way to kubelets")?),
        };
        let mut config = self.config.clone();
        config.proxy_client = Some(pki.proxy_client().context("the front proxy's certificate")?);
        config.authentication = Authentication {
            client_ca: pki.ca_certificate().to_owned(),
            request_header: Some(pki.request_header()),
        };
        let gate = GateConfig {
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            tokens: Arc::new(pki.tokens(ISSUER, self.entropy.clone()).context("the key for tokens")?),
            limits: Limits::default(),
        };
        Ok(ApiServer::start(config, dependencies, cluster_gate(gate)).await?)
    }

    /// The scheduler and the controllers. Whoever holds the embedded store is the only server there is, so leadership
    /// needs no election; servers that share an etcd elect one of them.
    fn start_clients(
        &self,
        server: &Arc<ApiServer>,
        pki: &Pki,
        elect: bool,
        shutdown: &CancellationToken,
        parts: &mut JoinSet<Result<()>>,
    ) -> Result<()> {
        let context = |user: UserInfo| Context {
            client: server.client(user),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            tasks: TaskTracker::new(),
            shutdown: shutdown.clone(),
        };
        let scheduler = context(gate::scheduler());
        parts.spawn(async move {
            if elect {
                return run_while_leading(scheduler, "kube-scheduler", scheduler::run).await;
            }
            scheduler::run(scheduler.clone()).await;
            ended(scheduler.tasks).await
        });
        if let Some(addresses) = self.addresses.clone() {
            let giver = context(gate::cloud_controller_manager());
            parts.spawn(load_balancers::give(giver, addresses, elect));
        }
        let controllers = context(gate::controller_manager());
        let authority = Authority::from_pem(pki.ca_certificate(), &pki.ca_key(), self.entropy.clone());
        let own = SocketAddr::new(self.config.advertise_address, self.config.port);
        let config = controllers::Config {
            root_ca: pki.ca_certificate().to_owned(),
            node_ranges: Some(self.node_ranges.clone()),
            signer: Some(Arc::new(
                authority.context("the CA that signs for nodes")?.with_longest(self.signing),
            )),
            server: Some(self.endpoint.clone().unwrap_or_else(|| format!("https://{own}"))),
            ..controllers::Config::default()
        };
        parts.spawn(async move {
            if elect {
                let run = |context| controllers::run(context, config.clone());
                return run_while_leading(controllers, "kube-controller-manager", run).await;
            }
            controllers::run(controllers.clone(), config).await;
            ended(controllers.tasks).await
        });
        Ok(())
    }
}

/// The pods' range, from which nodes get theirs.
fn node_ranges(flags: &ServerFlags) -> Result<Allocations> {
    let cluster: Range = flags.node.cluster_cidr.parse().context("--cluster-cidr")?;
    Allocations::new(&[cluster], NODE_PREFIXES).context("--cluster-cidr")
}

/// The store below a data directory. Opening it takes it: there is one server at a time.
pub fn embedded_store(data_dir: &Path) -> Result<Arc<EmbeddedStore>> {
    let folder = data_dir.join("server/db");
    let encryption = datastore::encryption(data_dir)?;
    let disk = FileDisk::new(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let options = Options { encryption, ..Options::default() };
    let store = EmbeddedStore::open(Arc::new(disk), options).context("cannot open the store")?;
    Ok(Arc::new(store))
}

/// Waits for what a component started.
async fn ended(tasks: TaskTracker) -> Result<()> {
    tasks.close();
    tasks.wait().await;
    Ok(())
}
