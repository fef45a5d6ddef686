//! `skiff kubelet`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use clap::Args;
use component::Context;
use component::health::Server;
use component::identity::Identity;
use k8s_openapi::api::core::v1::Taint;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bootstrap::bootstrap;
use super::kubelet_config::KubeletConfiguration;
use crate::join::Base;

/// What the kubelet is told. Each flag goes before what the file of `--config` says.
#[derive(Args, Clone, Debug)]
pub struct KubeletFlags {
    /// How the API server is reached, and as whom
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// By what the kubelet gets a certificate as its node, and with it --kubeconfig, if it has none yet
    #[arg(long)]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Where the certificates are that it got
    #[arg(long, default_value = "/var/lib/kubelet/pki")]
    pub cert_dir: PathBuf,
    /// A file with a KubeletConfiguration
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// The runtime's socket, such as unix:///run/containerd/containerd.sock; without it the kubelet runs a containerd of
    /// its own
    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
    /// Name of the node; the host's name by default
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Addresses of the node; that of the default route by default
    #[arg(long, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Everything the kubelet keeps lies below this folder
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Addresses of the cluster's DNS
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Option<Vec<IpAddr>>,
    /// Domain of the cluster
    #[arg(long)]
    pub cluster_domain: Option<String>,
    /// Address that the kubelet's server listens on
    #[arg(long)]
    pub address: Option<IpAddr>,
    /// Port that it listens on
    #[arg(long)]
    pub port: Option<u16>,
    /// Port that health is served on, without TLS; 0 for none
    #[arg(long)]
    pub healthz_port: Option<u16>,
    /// Address that health is served on
    #[arg(long)]
    pub healthz_bind_address: Option<IpAddr>,
    /// Certificate of the kubelet's server; without one there is no server, and so no logs
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// Who signs the certificates of the server's clients
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Taints that the node registers with, such as key=value:NoSchedule
    #[arg(long, value_delimiter = ',', value_parser = taint)]
    pub register_with_taints: Option<Vec<Taint>>,
    /// Labels that the node registers with, such as key=value
    #[arg(long, value_delimiter = ',', value_parser = label)]
    pub node_labels: Vec<(String, String)>,
    /// The most pods
    #[arg(long)]
    pub max_pods: Option<u32>,
    /// Range of the node's pods, when it is not for a controller to say
    #[arg(long)]
    pub pod_cidr: Option<String>,
    /// Cgroup below which the pods' cgroups are made
    #[arg(long)]
    pub cgroup_root: Option<String>,
    /// The most bytes of a pod's packet, as the way to other nodes allows; by default what the system thinks right
    #[arg(long)]
    pub network_plugin_mtu: Option<u32>,
    #[command(flatten)]
    pub cloud: CloudNode,
}

/// What a node knows of the cloud that it is in.
#[derive(Args, Clone, Debug, Default)]
pub struct CloudNode {
    /// Wait until a cloud controller manager has said what the node is; there is no cloud in this program
    #[arg(long, value_parser = ["external"])]
    pub cloud_provider: Option<String>,
    /// What the cloud calls this machine, when it is not for the cloud to find out
    #[arg(long)]
    pub provider_id: Option<String>,
}

impl CloudNode {
    /// Tells the kubelet.
    pub fn apply(&self, config: &mut kubelet::Config) {
        config.external_cloud = self.cloud_provider.is_some();
        config.provider_id.clone_from(&self.provider_id);
    }
}

impl KubeletFlags {
    /// The configuration, from the flags and the file.
    fn merged(&self, file: &KubeletConfiguration, serving: Option<Arc<Identity>>) -> Result<kubelet::Config> {
        let mut config =
            kubelet::Config::new(super::node_name(self.hostname_override.as_deref())?, &self.root_dir);
        config.node_ips.clone_from(&self.node_ip);
        let endpoint = self.container_runtime_endpoint.as_ref().or(file.container_runtime_endpoint.as_ref());
        config.runtime_endpoint = endpoint.map(|text| super::socket(text)).transpose()?;
        // Pods of a kubelet that is told no DNS get the node's, as upstream has it.
        config.cluster_dns =
            self.cluster_dns.clone().or_else(|| file.cluster_dns.clone()).unwrap_or_default();
        if let Some(domain) = self.cluster_domain.as_ref().or(file.cluster_domain.as_ref()) {
            config.cluster_domain.clone_from(domain);
        }
        if let Some(root) = self.cgroup_root.as_ref().or(file.cgroup_root.as_ref()) {
            config.cgroup_root.clone_from(root);
        }
        if let Some(most) = self.max_pods.or(file.max_pods) {
            config.max_pods = most;
        }
        config.pod_mtu = self.network_plugin_mtu;
        config.pod_cidr = self.pod_cidr.clone().or_else(|| file.pod_cidr.clone());
        config.labels = self.node_labels.iter().cloned().collect::<BTreeMap<_, _>>();
        config.taints = self
            .register_with_taints
            .clone()
            .or_else(|| file.register_with_taints.clone())
            .unwrap_or_default();
        self.cloud.apply(&mut config);
        config.provider_id = config.provider_id.or_else(|| file.provider_id.clone());
        config.server = self.server(file, serving)?;
        Ok(config)
    }

    /// The kubelet's own server: all three files, or none; with a certificate that it was given, the CA alone.
    fn server(
        &self,
        file: &KubeletConfiguration,
        serving: Option<Arc<Identity>>,
    ) -> Result<Option<(SocketAddr, kubelet::config::ServerTls)>> {
        let certificate = self.tls_cert_file.as_ref().or(file.tls_cert_file.as_ref());
        let key = self.tls_private_key_file.as_ref().or(file.tls_private_key_file.as_ref());
        let client_ca = self.client_ca_file.as_ref().or(file.authentication.x509.client_ca_file.as_ref());
        let (identity, client_ca) = match (serving, certificate, key, client_ca) {
            (Some(identity), None, None, Some(client_ca)) => (identity, client_ca),
            (None, None, None, None) => {
                tracing::warn!(
                    "no certificate to serve with: logs of this node cannot be read through the API"
                );
                return Ok(None);
            }
            (None, Some(certificate), Some(key), Some(client_ca)) => {
                let certificate = super::read("--tls-cert-file", certificate)?;
                let key = super::read("--tls-private-key-file", key)?;
                (Identity::from_pem(&certificate, &key).context("--tls-cert-file")?, client_ca)
            }
            (None, ..) => {
                bail!("--tls-cert-file, --tls-private-key-file and --client-ca-file are needed together")
            }
            (Some(_), ..) => {
                bail!("serverTLSBootstrap needs --client-ca-file, and no certificate of its own")
            }
        };
        let tls = kubelet::config::ServerTls {
            identity,
            client_ca: super::read("--client-ca-file", client_ca)?,
            clients: vec![apiserver::pki::KUBELET_CLIENT.to_owned()],
        };
        let address = self.address.or(file.address).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Ok(Some((SocketAddr::new(address, self.port.or(file.port).unwrap_or(10250)), tls)))
    }

    /// The API as the node, and the certificate that it serves with if that is for the API to give; `None` when told to
    /// end before there is any.
    async fn api(
        &self,
        file: &KubeletConfiguration,
        shutdown: &CancellationToken,
    ) -> Result<Option<(Context, Option<Arc<Identity>>)>> {
        let Some(from) = &self.bootstrap_kubeconfig else {
            if file.server_tls_bootstrap || file.rotate_certificates == Some(true) {
                bail!("serverTLSBootstrap and rotateCertificates need --bootstrap-kubeconfig");
            }
            return Ok(Some((super::context(&self.kubeconfig, shutdown)?, None)));
        };
        let base = Base {
            clock: Clock::system(),
            entropy: Entropy::from_os(),
            tasks: TaskTracker::new(),
            shutdown: shutdown.clone(),
        };
        let node = super::node_name(self.hostname_override.as_deref())?;
        let begun = bootstrap(from, &self.kubeconfig, &self.cert_dir, &node, &base).await?;
        let Some(begun) = begun else { return Ok(None) };
        if file.rotate_certificates.unwrap_or(true) {
            begun.renew(&base);
        }
        let mut addresses = self.node_ip.clone();
        if addresses.is_empty() {
            addresses.push(host::system::primary_address());
        }
        let serving = file.server_tls_bootstrap.then(|| begun.serving(addresses, &base)).transpose()?;
        Ok(Some((base.context(begun.client), serving)))
    }

    fn health(&self, file: &KubeletConfiguration) -> Option<SocketAddr> {
        let port = self.healthz_port.or(file.healthz_port).unwrap_or(10248);
        let address = self.healthz_bind_address.or(file.healthz_bind_address);
        (port != 0).then(|| SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), port))
    }
}

/// `key=value`
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `key=value:Effect` or `key:Effect`
fn taint(text: &str) -> Result<Taint, String> {
    let bad = || format!("{text:?} is not of the form key=value:NoSchedule");
    let (what, effect) = text.rsplit_once(':').ok_or_else(bad)?;
    let (key, value) = what.split_once('=').map_or((what, None), |(key, value)| (key, Some(value)));
    if key.is_empty() || !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(bad());
    }
    Ok(Taint {
        key: key.to_owned(),
        value: value.filter(|value| !value.is_empty()).map(str::to_owned),
        effect: effect.to_owned(),
        time_added: None,
    })
}

/// Runs until shutdown. Containers go on.
pub async fn run(flags: KubeletFlags, shutdown: CancellationToken) -> Result<()> {
    let file = match &flags.config {
        Some(path) => KubeletConfiguration::parse(&super::read_text("--config", path)?)
            .with_context(|| format!("--config: {}", path.display()))?,
        None => KubeletConfiguration::default(),
    };
    let Some((context, serving)) = flags.api(&file, &shutdown).await? else { return Ok(()) };
    let config = flags.merged(&file, serving)?;
    if let Some(address) = flags.health(&file) {
        Server::bind(address, None).await?.start(&context, None);
    }
    let outcome = kubelet::run(context.clone(), config).await.context("kubelet");
    shutdown.cancel();
    super::ended(&context).await;
    outcome
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        flags: KubeletFlags,
    }

    fn flags(words: &str) -> Result<KubeletFlags, clap::Error> {
        Only::try_parse_from(format!("kubelet --kubeconfig /k {words}").split_whitespace())
            .map(|only| only.flags)
    }

    const FILE: &str = "
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
clusterDNS: [10.0.0.10]
clusterDomain: from.file
maxPods: 7
providerID: aws:///z/i-1
registerWithTaints: [{key: a, value: b, effect: NoSchedule}]
authentication: {anonymous: {enabled: false}, x509: {clientCAFile: /ca}}
";

    #[test]
    fn flags_go_before_the_file() {
        let file = KubeletConfiguration::parse(FILE).expect("a configuration");
        let given = flags(
            "--max-pods 9 --hostname-override Me --node-labels=a=b,c=d --root-dir /r --node-ip 192.0.2.1 \
             --container-runtime-endpoint unix:///c.sock --pod-cidr 10.1.0.0/24 --cloud-provider=external",
        );
        let mut given = given.expect("flags");
        given.tls_cert_file = None;
        let mut without_ca = file.clone();
        without_ca.authentication.x509.client_ca_file = None;
        let config = given.merged(&without_ca, None).expect("merged");
        assert_eq!(
            (config.max_pods, config.node_name.as_str(), config.cluster_domain.as_str()),
            (9, "me", "from.file")
        );
        assert_eq!(config.cluster_dns, [IpAddr::from([10, 0, 0, 10])]);
        assert_eq!(config.labels.get("c").map(String::as_str), Some("d"));
        assert_eq!(config.runtime_endpoint.as_deref(), Some(std::path::Path::new("/c.sock")));
        assert_eq!((config.taints[0].key.as_str(), config.taints[0].effect.as_str()), ("a", "NoSchedule"));
        assert_eq!(config.pod_cidr.as_deref(), Some("10.1.0.0/24"));
        assert_eq!((config.external_cloud, config.provider_id.as_deref()), (true, Some("aws:///z/i-1")));
        let half = given.merged(&file, None).expect_err("a CA without a certificate");
        assert!(half.to_string().contains("needed together"), "{half}");
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let unknown = flags("--seccomp-default").expect_err("not supported").to_string();
        assert!(unknown.contains("--seccomp-default"), "{unknown}");
        for bad in [
            "--register-with-taints a=b:Sometimes",
            "--register-with-taints x",
            "--node-labels a",
            "--cloud-provider aws",
        ] {
            assert!(flags(bad).is_err(), "{bad}");
        }
        let taints =
            flags("--register-with-taints a=b:NoExecute,c:NoSchedule").expect("taints").register_with_taints;
        let taints = taints.expect("taints");
        assert_eq!((taints[0].value.as_deref(), taints[1].value.as_deref()), (Some("b"), None));
    }
}
