//! `skiff kubelet --bootstrap-kubeconfig`: a kubelet that is nobody yet asks, as the user of that file, for a certificate as
//! its node. It keeps what it gets in `--cert-dir`, writes a `--kubeconfig` that names it, and has it renewed while it runs,
//! all as upstream does it: either's kubelet goes on where the other's stopped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use component::identity::Identity;
use component::kubeconfig::Kubeconfig;

use crate::join::certificates::{self, Kept, Pair, Purpose};
use crate::join::{Base, unusable};

/// The certificate and the key of the moment, as a client and as a server.
const CLIENT: &str = "kubelet-client-current.pem";
const SERVING: &str = "kubelet-server-current.pem";

/// What a kubelet is that began as nobody.
pub struct Bootstrapped {
    /// The API as the node.
    pub client: kube::Client,
    client_identity: Arc<Identity>,
    folder: PathBuf,
    node: String,
}

/// A kubeconfig of the node, as upstream's kubelet writes it.
fn kubeconfig(way: &Kubeconfig, pair: &Path) -> String {
    let (data, pair) = (STANDARD.encode(&way.authority), pair.display());
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: default-cluster\n  cluster:\n    certificate-authority-data: {data}\n    \
         server: {}\ncontexts:\n- name: default-context\n  context:\n    cluster: default-cluster\n    namespace: default\n    \
         user: default-auth\ncurrent-context: default-context\nusers:\n- name: default-auth\n  user:\n    \
         client-certificate: {pair}\n    client-key: {pair}\n",
        way.server
    )
}

/// Becomes the node, or goes on as the node that it became before; `None` when told to end first.
pub async fn bootstrap(
    from: &Path,
    written: &Path,
    folder: &Path,
    node: &str,
    base: &Base,
) -> Result<Option<Bootstrapped>> {
    let path = folder.join(CLIENT);
    let before = Pair::read(&path)?.filter(|pair| written.exists() && unusable(pair, node, base).is_none());
    let (way, pair) = match before {
        Some(pair) => (Kubeconfig::read(written).context("--kubeconfig")?, pair),
        None => {
            let way = Kubeconfig::read(from).context("--bootstrap-kubeconfig")?;
            let token = way.token().context("--bootstrap-kubeconfig: its first user has no token")?;
            let first = component::connect::with_token(&way.server, &way.authority, token)
                .context("--bootstrap-kubeconfig")?;
            let asking = certificates::request(&first, node, &Purpose::Client);
            let Some(pair) = base.shutdown.run_until_cancelled(asking).await else { return Ok(None) };
            let pair = pair.context("no certificate for the kubelet")?;
            pair.write(&path)?;
            apiserver::pki::write_if_changed(written, &kubeconfig(&way, &path))?;
            tracing::info!(node, server = way.server, "the kubelet has its certificate");
            (way, pair)
        }
    };
    let client_identity = pair.identity()?;
    let client = component::connect::with_identity(&way.server, &way.authority, client_identity.clone())
        .context("--kubeconfig")?;
    let (folder, node) = (folder.to_owned(), node.to_owned());
    Ok(Some(Bootstrapped { client, client_identity, folder, node }))
}

impl Bootstrapped {
    /// Has the client's certificate renewed, until shutdown.
    pub fn renew(&self, base: &Base) {
        self.keep(Purpose::Client, CLIENT, self.client_identity.clone(), base);
    }

    /// A certificate to serve with, by request as well. It comes once the node is registered.
    pub fn serving(&self, addresses: Vec<std::net::IpAddr>, base: &Base) -> Result<Arc<Identity>> {
        let identity = Arc::new(Identity::default());
        if let Some(pair) = Pair::read(&self.folder.join(SERVING))? {
            let replaced = identity.replace(pair.certificate.as_bytes(), pair.key.as_bytes());
            replaced.context("the serving certificate")?;
        }
        self.keep(Purpose::Serving(vec![self.node.clone()], addresses), SERVING, identity.clone(), base);
        Ok(identity)
    }

    fn keep(&self, purpose: Purpose, file: &str, identity: Arc<Identity>, base: &Base) {
        let kept = Kept { node: self.node.clone(), purpose, path: self.folder.join(file), identity };
        base.tasks.spawn(kept.keep(base.context(self.client.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let bootstrap = "
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: 'https://192.0.2.1:6443', certificate-authority-data: UEVN}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
users: [{name: u, user: {token: abcdef.0123456789abcdef}}]
";
        let way = Kubeconfig::parse(bootstrap, Path::new("/k")).expect("a kubeconfig");
        assert_eq!((way.server.as_str(), way.authority.as_slice()), ("https://192.0.2.1:6443", &b"PEM"[..]));
        assert_eq!(way.token(), Some("abcdef.0123456789abcdef"));
        let written = kubeconfig(&way, Path::new("/p/current.pem"));
        let again = Kubeconfig::parse(&written, Path::new("/k")).expect("a kubeconfig");
        assert_eq!((&again.server, &again.authority), (&way.server, &way.authority));
        assert_eq!(again.token(), None, "the token is for the beginning only");
        assert!(written.contains("client-key: /p/current.pem"), "{written}");
        for bad in ["clusters: []\nusers: []", "clusters: [{cluster: {server: s}}]\nusers: []", "x"] {
            assert!(Kubeconfig::parse(bad, Path::new("/k")).is_err(), "{bad}");
        }
    }
}
