//! `skiff server`: the control plane in one process, and a node process beside it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::config::Cidr;
use apiserver::pki::{Names, Pki};
use apiserver::types::UserInfo;
use apiserver::{ApiServer, Config, Dependencies};
use component::Context;
use store::{EmbeddedStore, FileDisk, Options};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::files::AgentFiles;
use crate::flags::{AgentFlags, ServerFlags};
use crate::node_process;

/// Runs until shutdown, or until a part of the control plane cannot go on.
pub async fn run(flags: ServerFlags, shutdown: CancellationToken) -> Result<()> {
    let plan = Plan::of(&flags)?;
    let pki = plan.certificates(&flags)?;
    // Bound before anything is slow, so that a port that is taken is said at once.
    let listener = TcpListener::bind(plan.listen).await.with_context(|| format!("cannot listen on {}", plan.listen))?;
    let server = plan.start(&pki).await?;
    let tls = pki.server_config().context("the API server's certificate")?;
    let mut parts: JoinSet<Result<()>> = JoinSet::new();
    let serving = apiserver::serve::listen(server.clone(), listener, tls, shutdown.clone());
    parts.spawn(async move { serving.await.context("API server") });
    tracing::info!(address = %plan.listen, kubeconfig = %plan.kubeconfig.display(), "the API server is ready");

    let tasks = TaskTracker::new();
    let context = |user: &str| Context {
        client: server.client(UserInfo::new(user, &["system:authenticated"])),
        clock: plan.clock.clone(),
        entropy: plan.entropy.clone(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    };
    // Whoever holds the embedded store is the only server there is: leadership needs no election.
    let scheduler = context("system:kube-scheduler");
    parts.spawn(async move { scheduler::run(scheduler).await; Ok(()) });
    let controllers = context("system:kube-controller-manager");
    let root_ca = pki.ca_certificate().to_owned();
    parts.spawn(async move {
        controllers::run(controllers, controllers::Config { root_ca, ..Default::default() }).await;
        Ok(())
    });
    if !flags.disable_agent {
        let agent = AgentFlags { service_cidr: flags.service_cidr.clone(), node: flags.node.clone() };
        parts.spawn(node_process::keep(agent, shutdown.clone()));
    }
    let outcome = crate::first_to_end(&mut parts, &shutdown).await;
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    server.stop().await;
    outcome
}

/// What follows from the flags.
struct Plan {
    folder: PathBuf,
    kubeconfig: PathBuf,
    listen: SocketAddr,
    node_address: IpAddr,
    node_name: String,
    config: Config,
    clock: Clock,
    entropy: Entropy,
}

impl Plan {
    fn of(flags: &ServerFlags) -> Result<Plan> {
        let service_cidr: Cidr = flags.service_cidr.parse().context("--service-cidr")?;
        let node_address = flags.node.node_ip.unwrap_or_else(host::system::primary_address);
        let folder = flags.node.data_dir.join("server");
        let config = Config {
            service_cidr,
            advertise_address: node_address,
            port: flags.https_listen_port,
            dns_address: Some(flags.node.cluster_dns),
            ..Config::default()
        };
        Ok(Plan {
            kubeconfig: flags.write_kubeconfig.clone().unwrap_or_else(|| folder.join("cred/admin.kubeconfig")),
            folder,
            listen: SocketAddr::new(flags.bind_address, flags.https_listen_port),
            node_address,
            node_name: flags.node.name()?,
            config,
            clock: Clock::system(),
            entropy: Entropy::from_os(),
        })
    }
}
