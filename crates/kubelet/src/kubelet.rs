//! Putting the kubelet together: what starts in which order, and what waits for what. The node registers at once; pods
//! wait for the runtime's first answer.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use component::Api;
use component::Context;
use component::events::Recorder;
use component::freshness::Freshness;
use component::informer::{Informer, Selection};
use futures::future::BoxFuture;
use host::cgroup::Hierarchy;
use host::mount::LinuxMounts;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use crate::changes::{self, Health, Listener};
use crate::config::Config;
use crate::containerd::{Containerd, ContainerdError};
use crate::images::Images;
use crate::lifecycle::NodeFacts;
use crate::network;
use crate::node::{self, NodeKeeper};
use crate::objects::Objects;
use crate::own_runtime;
use crate::pods::{self, Pods, Workers};
use crate::podspec::ClusterFacts;
use crate::rotate;
use crate::runtime::Runtime;
use crate::server::{self, ServerError};
use crate::shared::Shared;
use crate::tokens::Tokens;
use crate::worker::Signal;

/// How soon a runtime that somebody else runs is asked again for its name.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Why the kubelet cannot run at all. What may get better by itself is waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory cannot be made, or the machine cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Our containerd has no place to be.
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    /// The kubelet's server cannot be started.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Runs the kubelet until `context.shutdown`. Containers go on.
///
/// # Errors
/// See [`Error`]; all of them are told at the start.
pub async fn run(context: Context, config: Config) -> Result<(), Error> {
    for directory in [config.pods_dir(), config.logs_dir(), config.images_dir()] {
        let fail = |source| Error::File { path: directory.clone(), source };
        host::files::make_dir(&directory, 0o755).map_err(fail)?;
    }
    let bound = match &config.server {
        Some((address, tls)) => Some((server::bind(*address, tls).await?, tls.clients.clone())),
        None => None,
    };
    let own = match &config.runtime_endpoint {
        Some(_) => None,
        None => {
            Some(Containerd::new(&config.data_dir, config.containerd.clone(), config.cni_plugins.clone())?)
        }
    };
    let socket = match (&config.runtime_endpoint, &own) {
        (Some(socket), _) => socket.clone(),
        (None, Some(own)) => own.layout().socket.clone(),
        (None, None) => unreachable!("one of the two was just made"),
    };
    let runtime: Arc<dyn Runtime> = Arc::new(cri::Client::new(&socket));
    let shutdown = context.shutdown.clone();
    let parts = Parts { context, config, runtime, workers: Workers::default() };
    shutdown.run_until_cancelled(parts.run(own, bound)).await.unwrap_or(Ok(()))
}

/// A server that listens already, and who may ask it.
type Bound = ((tokio::net::TcpListener, tokio_rustls::TlsAcceptor), Vec<String>);

struct Parts {
    context: Context,
    config: Config,
    runtime: Arc<dyn Runtime>,
    workers: Workers,
}

impl Parts {
    async fn run(self, containerd: Option<Containerd>, bound: Option<Bound>) -> Result<(), Error> {
        let (health, healthy) = watch::channel(Health::Down("it did not answer yet".to_owned()));
        let recorder = Recorder::new(&self.context, "kubelet", Some(self.config.node_name.clone()));
        let addresses = match self.config.node_ips.as_slice() {
            [] => vec![host::system::primary_address()],
            given => given.to_vec(),
        };
        let (pod_cidr, range) = watch::channel(self.config.pod_cidr.clone());
        let own = node::informer(&self.context, &self.config.node_name);
        if self.config.pod_cidr.is_none() {
            network::follow(&own, pod_cidr.clone());
        }
        let informer = pods::informer(&self.context, &self.config.node_name);
        let mut imported = None;
        if let Some(containerd) = containerd {
            let (done, wait) = watch::channel(false);
            imported = Some(wait);
            let keeper = own_runtime::Keeper {
                containerd,
                config: self.config.clone(),
                workers: self.workers.clone(),
                range,
                ready: done,
            };
            self.spawn(keeper.run(self.context.shutdown.clone()));
        }
        let listener = self.listener(health);
        self.spawn(changes::follow(self.context.clone(), self.runtime.clone(), listener));
        let keeper = NodeKeeper {
            context: self.context.clone(),
            config: self.config.clone(),
            addresses: addresses.clone(),
            runtime: self.runtime.clone(),
            health: healthy.clone(),
            recorder: recorder.clone(),
            pod_cidr,
            own,
            written: Freshness::default(),
        };
        self.spawn(keeper.run());
        self.serve(bound, &informer);
        if let Some(mut imported) = imported {
            // The sender lives in a task that ends only with us.
            if imported.wait_for(|done| *done).await.is_err() {
                return Ok(());
            }
        }
        let runtime_name = self.runtime_name(healthy).await;
        self.spawn(rotate::run(self.context.clone(), self.runtime.clone(), self.workers.clone()));
        let shared = Arc::new(self.shared(recorder, &addresses, runtime_name)?);
        Pods::new(shared, informer, self.workers.clone()).run().await;
        Ok(())
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.context.shutdown.clone();
        let future: BoxFuture<'static, ()> = Box::pin(future);
        self.context.tasks.spawn(shutdown.run_until_cancelled_owned(future));
    }

    fn listener(&self, health: watch::Sender<Health>) -> Listener {
        let (one, all) = (self.workers.clone(), self.workers.clone());
        Listener {
            health,
            changed: Box::new(move |uid| one.raise(uid, Signal::Runtime)),
            back: Box::new(move || all.raise_all(Signal::RuntimeBack)),
        }
    }

    fn serve(&self, bound: Option<Bound>, pods: &Informer<Pod>) {
        let Some(((listener, acceptor), clients)) = bound else { return };
        let source = server::Source {
            context: self.context.clone(),
            pods: pods.clone(),
            workers: self.workers.clone(),
            clients: clients.into(),
            runtime: self.runtime.clone(),
            streams: server::streams::places(),
        };
        self.spawn(server::serve(listener, acceptor, source));
    }

    /// Container ids begin with it, so nothing can be said of pods before it is known.
    async fn runtime_name(&self, mut health: watch::Receiver<Health>) -> String {
        loop {
            if health.wait_for(|health| *health == Health::Up).await.is_ok() {
                match self.runtime.version().await {
                    Ok(version) => return version.runtime_name,
                    Err(error) => tracing::debug!(%error, "the runtime went away again"),
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    fn shared(
        &self,
        recorder: Recorder,
        addresses: &[IpAddr],
        runtime_name: String,
    ) -> Result<Shared, Error> {
        let file = |path: &str, source| Error::File { path: path.into(), source };
        let machine = host::system::machine().map_err(|source| file("/proc", source))?;
        let data_dir = &self.config.data_dir;
        let disk =
            host::system::disk(data_dir).map_err(|source| Error::File { path: data_dir.clone(), source })?;
        let hierarchy = Hierarchy::detect().map_err(|source| file("/proc/self/mountinfo", source))?;
        let root = format!("{}/kubepods", self.config.cgroup_root.trim_end_matches('/'));
        let cgroup_v2 = matches!(hierarchy, Hierarchy::V2(_));
        let workers = self.workers.clone();
        let notify = Arc::new(move |uid: &str| workers.raise(uid, Signal::Objects));
        let context = self.context.clone();
        let services = Informer::start(
            &context.tasks,
            context.shutdown.clone(),
            Api::all(context.client.clone()),
            Selection::default(),
        );
        Ok(Shared {
            runtime: self.runtime.clone(),
            recorder,
            objects: Objects::new(context.clone(), notify),
            services,
            tokens: Tokens::default(),
            images: Images::default(),
            mounts: Arc::new(LinuxMounts),
            cgroups: Some(hierarchy),
            cluster: ClusterFacts {
                domain: self.config.cluster_domain.clone(),
                dns_servers: self.config.cluster_dns.iter().map(ToString::to_string).collect(),
                cgroup_root: root,
                cgroup_v2,
            },
            node: NodeFacts { addresses: addresses.iter().map(ToString::to_string).collect(), runtime_name },
            resources: node::resources(&machine, disk.total),
            config: self.config.clone(),
            context,
        })
    }
}
