//! The cluster's certificates and keys: one CA, a certificate for each part that must prove who it is, and the key that
//! tokens of service accounts are signed with.
//!
//! All of it is made at the first start and kept in `DIR/server/tls`. A certificate is issued anew when it ends soon or its
//! names have changed; the CA and the signing key never are. A damaged file is an error that names it: making another
//! would lock out whoever trusts the old one.

mod etcd;
mod files;
mod issue;
mod kubeconfig;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use api_machinery::names::is_dns1123_subdomain;
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls_pki_types::CertificateDer;

pub use self::etcd::EtcdPki;
pub use self::files::write as write_private;
pub use self::issue::Credential;
use self::issue::{Authority, Maker, Usage, Wanted};
use crate::aggregation::ProxyClient;
use crate::authn::front_proxy::RequestHeader;
use crate::kubelets::TlsKubelets;
use crate::serve::{Tls, TlsError};
use crate::tokens::{TokenError, Tokens};

/// The name under which the API server is a client of kubelets. It is in no group: towards the API it may do nothing.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
/// The name under which the API server says to aggregated ones who asks.
pub const FRONT_PROXY: &str = "front-proxy-client";
const SIGNING_KEY: &str = "service-account.key";
const CLUSTER: &str = "skiff";

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file holds something else than it should.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate cannot be made.
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// The names that certificates are for.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The name of the node that the server shares its machine with.
    pub node_name: String,
    /// The machine's host name, or empty.
    pub hostname: String,
    /// The addresses of the machine; loopback is always among them.
    pub addresses: Vec<IpAddr>,
    /// The cluster address of the Service `kubernetes`.
    pub service_address: Option<IpAddr>,
    /// Such as `cluster.local`.
    pub cluster_domain: String,
    /// Further names and addresses of the API server.
    pub extra: Vec<String>,
}

/// Whose client certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// `kubernetes-admin` in `system:masters`.
    Admin,
    /// `system:kube-scheduler`.
    Scheduler,
    /// `system:kube-controller-manager`.
    ControllerManager,
    /// `system:cloud-controller-manager`, for whoever runs one beside the server.
    CloudControllerManager,
    /// `system:kube-proxy`.
    KubeProxy,
    /// `system:node:NAME` in `system:nodes`.
    Node,
}

impl Client {
    /// All of them.
    pub const ALL: [Client; 6] = [
        Client::Admin,
        Client::Scheduler,
        Client::ControllerManager,
        Client::CloudControllerManager,
        Client::KubeProxy,
        Client::Node,
    ];

    /// The name of its files.
    pub fn file(self) -> &'static str {
        match self {
            Client::Admin => "admin",
            Client::Scheduler => "scheduler",
            Client::ControllerManager => "controller-manager",
            Client::CloudControllerManager => "cloud-controller-manager",
            Client::KubeProxy => "kube-proxy",
            Client::Node => "kubelet",
        }
    }

    fn wanted(self, node: &str) -> Wanted {
        let (name, group) = match self {
            Client::Admin => ("kubernetes-admin".to_owned(), Some("system:masters")),
            Client::Scheduler => ("system:kube-scheduler".to_owned(), None),
            Client::ControllerManager => ("system:kube-controller-manager".to_owned(), None),
            Client::CloudControllerManager => ("system:cloud-controller-manager".to_owned(), None),
            Client::KubeProxy => ("system:kube-proxy".to_owned(), None),
            Client::Node => (format!("system:node:{node}"), Some("system:nodes")),
        };
        let groups = group.into_iter().map(str::to_owned).collect();
        Wanted { name, groups, usage: Usage::Client, alternatives: BTreeSet::new() }
    }
}

impl Names {
    /// What the API server is called.
    fn of_server(&self) -> BTreeSet<String> {
        let domain = &self.cluster_domain;
        let mut names: BTreeSet<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1", "::1"]
                .map(str::to_owned)
                .into();
        if !domain.is_empty() {
            names.insert(format!("kubernetes.default.svc.{domain}"));
        }
        names.extend(self.service_address.map(|address| address.to_string()));
        names.extend(self.extra.iter().cloned());
        names.extend(self.of_machine());
        names
    }

    /// What the machine is called.
    fn of_machine(&self) -> BTreeSet<String> {
        let names = [&self.hostname, &self.node_name]
            .into_iter()
            .filter(|name| is_dns1123_subdomain(name).is_empty());
        names.cloned().chain(self.addresses.iter().map(IpAddr::to_string)).collect()
    }

    /// What the kubelet is called. It answers to its node's name, whatever that looks like.
    fn of_kubelet(&self) -> BTreeSet<String> {
        let own = [self.node_name.clone(), "127.0.0.1".to_owned()];
        self.of_machine().into_iter().chain(own).filter(|name| !name.is_empty()).collect()
    }
}

/// All certificates and keys.
#[derive(Debug)]
pub struct Pki {
    folder: PathBuf,
    authority: Authority,
    /// Signs front proxies and nothing else: whoever has such a certificate may be anybody.
    front_authority: Authority,
    server: Credential,
    kubelet_client: Credential,
    proxy_client: Credential,
    kubelet_serving: Credential,
    clients: Vec<(Client, Credential)>,
    signing: Vec<u8>,
}

impl Pki {
    /// Reads what is in `DIR/server/tls` and makes what is missing.
    pub fn load_or_create(
        dir: &Path,
        names: &Names,
        clock: &Clock,
        entropy: &Entropy,
    ) -> Result<Pki, PkiError> {
        let folder = dir.join("server");
        let tls = folder.join("tls");
        let maker = Maker { folder: &tls, now: clock.now(), entropy };
        let authority = maker.authority("ca", "skiff-ca")?;
        let front_authority = maker.authority("front-proxy-ca", "skiff-front-proxy-ca")?;
        let serves = |name: &str, groups: &[&str], alternatives| Wanted {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            usage: Usage::Server,
            alternatives,
        };
        let server =
            maker.credential("server", &serves("kube-apiserver", &[], names.of_server()), &authority)?;
        let kubelet =
            serves(&format!("system:node:{}", names.node_name), &["system:nodes"], names.of_kubelet());
        let kubelet_serving = maker.credential("kubelet-serving", &kubelet, &authority)?;
        let asks = |name: &str| Wanted {
            name: name.to_owned(),
            groups: Vec::new(),
            usage: Usage::Client,
            alternatives: BTreeSet::new(),
        };
        let kubelet_client = maker.credential("kubelet-client", &asks(KUBELET_CLIENT), &authority)?;
        let proxy_client = maker.credential("front-proxy-client", &asks(FRONT_PROXY), &front_authority)?;
        let mut clients = Vec::new();
        for client in Client::ALL {
            let credential = maker.credential(client.file(), &client.wanted(&names.node_name), &authority)?;
            clients.push((client, credential));
        }
        let signing = signing_key(&tls)?;
        Ok(Pki {
            folder,
            authority,
            front_authority,
            server,
            kubelet_client,
            proxy_client,
            kubelet_serving,
            clients,
            signing,
        })
    }

    /// The CA's certificate as PEM: what every client trusts.
    pub fn ca_certificate(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// The CA's key as PEM, for the controller that signs what nodes ask for.
    pub fn ca_key(&self) -> String {
        self.authority.key_pem()
    }

    /// The CA's certificate: signs servers and clients alike.
    pub fn authorities(&self) -> [CertificateDer<'static>; 1] {
        [self.authority.certificate().clone()]
    }

    /// The API server's certificate.
    pub fn server(&self) -> &Credential {
        &self.server
    }

    /// The certificate of the kubelet's own server.
    pub fn kubelet_serving(&self) -> &Credential {
        &self.kubelet_serving
    }

    /// The certificate of one client.
    pub fn client(&self, client: Client) -> &Credential {
        let found = self.clients.iter().find(|(known, _)| *known == client);
        found.map(|(_, credential)| credential).expect("there is one for every client")
    }

    /// TLS for the API server's listener; client certificates are optional and count if the CA signed them.
    pub fn server_config(&self) -> Result<Tls, TlsError> {
        let tls = Tls::new(vec![self.server.certificate().clone()], self.server.key(), &self.authorities())?;
        tls.with_front_proxies(self.request_header().into())
    }

    /// Whom this cluster's servers believe that says who somebody is: each other.
    pub fn request_header(&self) -> RequestHeader {
        RequestHeader::usual(self.front_authority.certificate_pem(), &[FRONT_PROXY])
    }

    /// As whom the API server tells aggregated ones who asks.
    pub fn proxy_client(&self) -> Result<ProxyClient, TlsError> {
        ProxyClient::new(vec![self.proxy_client.certificate().clone()], self.proxy_client.key())
    }

    /// The way to kubelets as the API server, and to pods with TLS as `pods` says.
    pub fn kubelets(&self, pods: ClientConfig) -> Result<TlsKubelets, TlsError> {
        let chain = vec![self.kubelet_client.certificate().clone()];
        TlsKubelets::new(&self.authorities(), chain, self.kubelet_client.key(), pods)
    }

    /// What signs and checks tokens of service accounts.
    pub fn tokens(&self, issuer: &str, entropy: Entropy) -> Result<Tokens, TokenError> {
        Tokens::new(&self.signing, issuer, entropy)
    }

    /// A kubeconfig with everything inside. `server` is such as `https://127.0.0.1:6443`.
    pub fn kubeconfig(&self, client: Client, server: &str) -> String {
        kubeconfig::text(CLUSTER, server, self.ca_certificate(), self.client(client))
    }

    /// Where a client's kubeconfig is written.
    pub fn kubeconfig_path(&self, client: Client) -> PathBuf {
        self.folder.join("cred").join(format!("{}.kubeconfig", client.file()))
    }

    /// Writes all kubeconfigs to `DIR/server/cred`.
    pub fn write_kubeconfigs(&self, server: &str) -> Result<(), PkiError> {
        for client in Client::ALL {
            write_if_changed(&self.kubeconfig_path(client), &self.kubeconfig(client, server))?;
        }
        Ok(())
    }
}

/// Writes a file that is not what it should be already.
pub fn write_if_changed(path: &Path, text: &str) -> Result<(), PkiError> {
    if files::read(path).ok().flatten().as_deref() == Some(text) {
        return Ok(());
    }
    write_private(path, text.as_bytes())
}

/// The signing key in PKCS #8, made if there is none.
fn signing_key(tls: &Path) -> Result<Vec<u8>, PkiError> {
    let path = tls.join(SIGNING_KEY);
    let key = match files::read(&path)? {
        Some(text) => issue::key_of(&text).map_err(|why| PkiError::Damaged { path, why })?,
        None => {
            let key = KeyPair::generate()?;
            write_private(&path, key.serialize_pem().as_bytes())?;
            key
        }
    };
    Ok(key.serialize_der())
}

#[cfg(test)]
mod tests;
