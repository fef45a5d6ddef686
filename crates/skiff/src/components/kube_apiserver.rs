//! `skiff kube-apiserver`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::catalog::Catalog;
use apiserver::config::{Authentication, Cidr};
use apiserver::gate::{self, GateConfig};
use apiserver::kubelets::TlsKubelets;
use apiserver::limits::Limits;
use apiserver::serve::Tls;
use apiserver::tokens::Tokens;
use apiserver::{ApiServer, Dependencies, ProxyClient, RequestHeader};
use clap::{ArgAction, Args};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::datastore::DatastoreFlags;

/// What the API server is told.
#[derive(Args, Clone, Debug)]
pub struct KubeApiserverFlags {
    /// Keep everything in a store of our own below this folder, which one server can have at a time; with etcd only the
    /// keys that Secrets are encrypted with, the same for all servers
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Addresses of an etcd's members, separated by commas, that servers share
    #[arg(long, value_delimiter = ',')]
    pub etcd_servers: Vec<String>,
    /// Who signed the certificates of etcd's members
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// Certificate to show to etcd
    #[arg(long, requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// While etcd has no quorum, answer reads with the last known state and a warning instead of an error
    #[arg(long)]
    pub stale_reads_without_quorum: bool,
    /// How long events stay after they were last written
    #[arg(long, default_value = "1h0m0s", value_parser = super::duration)]
    pub event_ttl: Duration,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// Address that pods reach this server at; that of the default route by default
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Certificate to serve with
    #[arg(long)]
    pub tls_cert_file: PathBuf,
    /// Its key
    #[arg(long)]
    pub tls_private_key_file: PathBuf,
    /// Who signs the certificates of clients; several authorities may be in the file
    #[arg(long)]
    pub client_ca_file: PathBuf,
    /// Range of the Services' addresses
    #[arg(long, default_value = "10.0.0.0/24")]
    pub service_cluster_ip_range: Cidr,
    /// Range of the Services' node ports
    #[arg(long, default_value = "30000-32767", value_parser = ports)]
    pub service_node_port_range: RangeInclusive<u16>,
    /// Who issues tokens of service accounts, and for whom they are by default
    #[arg(long)]
    pub service_account_issuer: String,
    /// Key that they are signed with and checked against: ECDSA on P-256 in PKCS #8
    #[arg(long)]
    pub service_account_signing_key_file: PathBuf,
    /// Files with keys that tokens are checked against as well, public or private: keys that were signed with before, or that
    /// other servers sign with
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// Tell whoever shows no credentials of health and version; otherwise nothing
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub anonymous_auth: bool,
    /// Certificate that kubelets are asked with
    #[arg(long)]
    pub kubelet_client_certificate: PathBuf,
    /// Its key
    #[arg(long)]
    pub kubelet_client_key: PathBuf,
    /// Who signs the kubelets' certificates
    #[arg(long)]
    pub kubelet_certificate_authority: PathBuf,
    /// Who signs the certificates of front proxies, which say in headers who asks; none is believed by default
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names that front proxies may have; any by default
    #[arg(long, value_delimiter = ',', requires = "requestheader_client_ca_file")]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers with the name of who asks
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-User")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers with the unique id of who asks
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Uid")]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers with the groups of who asks
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Group")]
    pub requestheader_group_headers: Vec<String>,
    /// What the names of headers with further attributes begin with
    #[arg(long, value_delimiter = ',', default_value = "X-Remote-Extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Certificate with which aggregated servers are told who asks
    #[arg(long, requires = "proxy_client_key_file")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "proxy_client_cert_file")]
    pub proxy_client_key_file: Option<PathBuf>,
    /// Who decides; there is no other choice
    #[arg(long, default_value = "Node,RBAC", value_parser = ["Node,RBAC"])]
    pub authorization_mode: String,
    /// Reads by users at a time
    #[arg(long, default_value_t = 400)]
    pub max_requests_inflight: usize,
    /// Writes by users at a time
    #[arg(long, default_value_t = 200)]
    pub max_mutating_requests_inflight: usize,
}

/// `30000-32767`
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let parsed =
        text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    let (first, last): (u16, u16) =
        parsed.ok_or_else(|| format!("{text:?} is not a range such as 30000-32767"))?;
    if first == 0 || first > last {
        return Err(format!("{text:?} is not a range such as 30000-32767"));
    }
    Ok(first..=last)
}

/// All certificates in a file, of which there must be one.
fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = super::read(flag, path)?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let found = found.with_context(|| format!("{flag}: {}", path.display()))?;
    if found.is_empty() {
        bail!("{flag}: {} holds no certificate", path.display());
    }
    Ok(found)
}

fn key(flag: &str, path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&super::read(flag, path)?)
        .with_context(|| format!("{flag}: {}", path.display()))
}

impl KubeApiserverFlags {
    fn config(&self) -> Result<apiserver::Config> {
        Ok(apiserver::Config {
            service_cidr: self.service_cluster_ip_range,
            node_ports: self.service_node_port_range.clone(),
            advertise_address: self.advertise_address.unwrap_or_else(host::system::primary_address),
            port: self.secure_port,
            // As upstream: whoever runs DNS makes its Service.
            dns_address: None,
            shared_store: !self.etcd_servers.is_empty(),
            stale_reads_without_quorum: self.stale_reads_without_quorum,
            event_ttl: self.event_ttl,
            proxy_client: self.proxy_client()?,
            authentication: Authentication {
                client_ca: super::read_text("--client-ca-file", &self.client_ca_file)?,
                request_header: self.request_header()?,
            },
            ..apiserver::Config::default()
        })
    }

    fn datastore(&self) -> DatastoreFlags {
        DatastoreFlags {
            datastore_endpoint: self.etcd_servers.clone(),
            datastore_cafile: self.etcd_cafile.clone(),
            datastore_certfile: self.etcd_certfile.clone(),
            datastore_keyfile: self.etcd_keyfile.clone(),
            stale_reads_without_quorum: self.stale_reads_without_quorum,
        }
    }

    fn tls(&self) -> Result<Tls> {
        let chain = certificates("--tls-cert-file", &self.tls_cert_file)?;
        let key = key("--tls-private-key-file", &self.tls_private_key_file)?;
        let clients = certificates("--client-ca-file", &self.client_ca_file)?;
        let flags = "--tls-cert-file, --tls-private-key-file, --client-ca-file";
        let tls = Tls::new(chain, key, &clients).context(flags)?;
        match self.request_header()? {
            Some(rules) => tls
                .with_front_proxies(Arc::new(rules))
                .context("--requestheader-client-ca-file, --requestheader-allowed-names"),
            None => Ok(tls),
        }
    }

    fn request_header(&self) -> Result<Option<RequestHeader>> {
        let Some(authorities) = &self.requestheader_client_ca_file else { return Ok(None) };
        certificates("--requestheader-client-ca-file", authorities)?;
        Ok(Some(RequestHeader {
            authorities: super::read_text("--requestheader-client-ca-file", authorities)?,
            allowed_names: self.requestheader_allowed_names.clone(),
            username_headers: self.requestheader_username_headers.clone(),
            uid_headers: self.requestheader_uid_headers.clone(),
            group_headers: self.requestheader_group_headers.clone(),
            extra_prefixes: self.requestheader_extra_headers_prefix.clone(),
        }))
    }

    fn proxy_client(&self) -> Result<Option<ProxyClient>> {
        let (Some(chain), Some(own)) = (&self.proxy_client_cert_file, &self.proxy_client_key_file) else {
            return Ok(None);
        };
        let chain = certificates("--proxy-client-cert-file", chain)?;
        let client = ProxyClient::new(chain, key("--proxy-client-key-file", own)?);
        client.map(Some).context("--proxy-client-cert-file, --proxy-client-key-file")
    }

    fn kubelets(&self) -> Result<TlsKubelets> {
        let authorities =
            certificates("--kubelet-certificate-authority", &self.kubelet_certificate_authority)?;
        let chain = certificates("--kubelet-client-certificate", &self.kubelet_client_certificate)?;
        let key = key("--kubelet-client-key", &self.kubelet_client_key)?;
        let pods = component::connect::any_certificate().context("TLS with pods")?;
        TlsKubelets::new(&authorities, chain, key, pods).context("the way to kubelets")
    }

    fn tokens(&self, entropy: &Entropy) -> Result<Tokens> {
        let flag = "--service-account-signing-key-file";
        let pem = super::read_text(flag, &self.service_account_signing_key_file)?;
        let mut tokens =
            Tokens::from_pem(&pem, &self.service_account_issuer, entropy.clone()).context(flag)?;
        for path in &self.service_account_key_file {
            let flag = "--service-account-key-file";
            let trusted = tokens.trust(&super::read_text(flag, path)?);
            trusted.with_context(|| format!("{flag}: {}", path.display()))?;
        }
        Ok(tokens)
    }

    fn limits(&self) -> Limits {
        Limits {
            readonly: self.max_requests_inflight,
            mutating: self.max_mutating_requests_inflight,
            ..Limits::default()
        }
    }
}

/// Runs until shutdown.
pub async fn run(flags: KubeApiserverFlags, shutdown: CancellationToken) -> Result<()> {
    let (clock, entropy) = (Clock::system(), Entropy::from_os());
    let tls = flags.tls()?;
    let config = flags.config()?;
    let kubelets = Arc::new(flags.kubelets()?);
    let tokens = Arc::new(flags.tokens(&entropy)?);
    let address = SocketAddr::new(flags.bind_address, flags.secure_port);
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let ca = super::read_text("--client-ca-file", &flags.client_ca_file)?;
    let datastore = flags.datastore().open(&flags.data_dir, &ca).await?;
    let dependencies = Dependencies {
        store: datastore.store(),
        catalog: Catalog::built_in(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        kubelets,
    };
    let gate =
        gate::gate(GateConfig { clock, entropy, tokens, limits: flags.limits() }, flags.anonymous_auth);
    let server = ApiServer::start(config, dependencies, gate).await?;
    tracing::info!(%address, "the API server is ready");
    apiserver::serve::listen(server.clone(), listener, tls, shutdown).await;
    server.stop().await;
    datastore.close().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports() {
        assert_eq!(ports("30000-32767"), Ok(30000..=32767));
        for bad in ["", "30000", "2-1", "0-5", "1-70000", "a-b"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
