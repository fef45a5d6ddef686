//! Which store the control plane stands on: one of its own, or an etcd that several servers share; and who of several
//! servers does what only one may do.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use component::{Context, lease};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use store::{EmbeddedStore, Encryption, EtcdOptions, EtcdStore, EtcdTls, Store, StoreError};

use crate::components::election;
use crate::join::token::sha256;

/// What all servers of a cluster have in common, below the data directory; the first one makes it.
pub const SHARED: [&str; 4] =
    ["server/tls/ca.pem", "server/tls/service-account.key", KEYS, "server/node-token"];

/// What is encrypted at rest.
pub const ENCRYPTED: &str = "/registry/secrets/";
/// Where what is encrypted keeps its keys, below the data directory.
const KEYS: &str = "server/cred/encryption.keys";

/// How long an etcd may take that starts at the same time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where objects are kept.
#[derive(Args, Clone, Debug, Default)]
pub struct DatastoreFlags {
    /// Addresses of an etcd's members, such as https://10.0.0.1:2379, separated by commas; a store of our own by default
    #[arg(long, env = "SKIFF_DATASTORE_ENDPOINT", value_delimiter = ',')]
    pub datastore_endpoint: Vec<String>,
    /// Who signed the certificates of etcd's members
    #[arg(long, env = "SKIFF_DATASTORE_CAFILE")]
    pub datastore_cafile: Option<PathBuf>,
    /// Certificate to show to etcd
    #[arg(long, env = "SKIFF_DATASTORE_CERTFILE", requires = "datastore_keyfile")]
    pub datastore_certfile: Option<PathBuf>,
    /// Its key
    #[arg(long, env = "SKIFF_DATASTORE_KEYFILE", requires = "datastore_certfile")]
    pub datastore_keyfile: Option<PathBuf>,
    /// While etcd has no quorum, answer reads with the last known state and a warning instead of an error
    #[arg(long)]
    pub stale_reads_without_quorum: bool,
}

/// An open store.
pub enum Datastore {
    /// Ours alone.
    Embedded(Arc<EmbeddedStore>),
    /// Shared with other servers.
    Etcd(Arc<EtcdStore>),
}

impl Datastore {
    /// The store as the API server uses it.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Datastore::Embedded(store) => store.clone(),
            Datastore::Etcd(store) => store.clone(),
        }
    }

    /// Whether other servers may be at it too.
    pub fn is_shared(&self) -> bool {
        matches!(self, Datastore::Etcd(_))
    }

    /// Finishes what was begun.
    pub async fn close(&self) -> Result<()> {
        match self {
            Datastore::Embedded(store) => store.close().await.context("the store did not close"),
            Datastore::Etcd(_) => Ok(()),
        }
    }
}

impl DatastoreFlags {
    /// Opens the store of the cluster that this CA belongs to.
    pub async fn open(&self, data_dir: &Path, ca: &str) -> Result<Datastore> {
        if self.datastore_endpoint.is_empty() {
            if self.datastore_cafile.is_some() || self.datastore_certfile.is_some() {
                bail!(
                    "--datastore-cafile and --datastore-certfile say how to reach the etcd of --datastore-endpoint, which is missing"
                );
            }
            return match crate::server::embedded_store(data_dir) {
                Err(error) => Err(explained(error, data_dir)),
                Ok(store) => Ok(Datastore::Embedded(store)),
            };
        }
        if data_dir.join("server/db").is_dir() {
            tracing::warn!(
                "{} holds a store of an earlier start without --datastore-endpoint; it is left alone, and what is in it is \
                 not in etcd",
                data_dir.join("server/db").display()
            );
        }
        let options = EtcdOptions {
            tls: self.tls()?,
            encryption: encryption(data_dir)?,
            patience: PATIENCE,
            ..EtcdOptions::new(self.datastore_endpoint.clone(), identity(ca)?)
        };
        let shared = format!(
            "cannot use the etcd of --datastore-endpoint (servers of one cluster share the files below {})",
            data_dir.join("server").display()
        );
        Ok(Datastore::Etcd(Arc::new(EtcdStore::open(options).await.context(shared)?)))
    }

    fn tls(&self) -> Result<Option<EtcdTls>> {
        let read = |flag: &str, path: &Path| {
            std::fs::read(path).with_context(|| format!("{flag}: cannot read {}", path.display()))
        };
        let Some(ca) = &self.datastore_cafile else {
            if self.datastore_certfile.is_some() {
                bail!("--datastore-certfile needs --datastore-cafile");
            }
            return Ok(None);
        };
        let ca = read("--datastore-cafile", ca)?;
        let own = match (&self.datastore_certfile, &self.datastore_keyfile) {
            (Some(certificate), Some(key)) => {
                Some((read("--datastore-certfile", certificate)?, read("--datastore-keyfile", key)?))
            }
            _ => None,
        };
        let own = own.as_ref().map(|(certificate, key)| (certificate.as_slice(), key.as_slice()));
        Ok(Some(EtcdTls::from_pem(&ca, own).context("the way to etcd")?))
    }
}

/// The keys of what is encrypted at rest, made at the first start.
pub fn encryption(data_dir: &Path) -> Result<Encryption> {
    let random = store::system_random();
    Ok(Encryption::from_key_file(&data_dir.join(KEYS), vec![ENCRYPTED.to_owned()], &random)?)
}

/// What a cluster is known by: its certificate authority.
fn identity(ca: &str) -> Result<String> {
    let certificate = CertificateDer::from_pem_slice(ca.as_bytes()).context("the cluster's CA")?;
    Ok(sha256(&certificate))
}

/// What to do about a data directory that is taken.
fn explained(error: anyhow::Error, data_dir: &Path) -> anyhow::Error {
    let taken = error.chain().any(|cause| matches!(cause.downcast_ref(), Some(StoreError::InUse(_))));
    if !taken {
        return error;
    }
    error.context(format!(
        "another server runs on {}; stop it first, or give this one a --data-dir of its own, or let several servers share an \
         etcd with --datastore-endpoint",
        data_dir.display()
    ))
}

/// Runs a component for as long as this server leads as `name`, and again when it leads again, until shutdown. Losing
/// the lead ends the component, not the server: its API server goes on.
pub async fn run_while_leading<F: Future<Output = ()>>(
    context: Context,
    name: &str,
    component: impl Fn(Context) -> F,
) -> Result<()> {
    let identity = election::identity(&context)?;
    lease::run_while_leading(context, name, &identity, component).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_server_on_a_data_directory_hears_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let flags = DatastoreFlags::default();
        let first = flags.open(folder.path(), "").await.expect("the first one");
        assert!(!first.is_shared());
        let Err(error) = flags.open(folder.path(), "").await else { panic!("a second one must be refused") };
        let words = format!("{error:#}");
        for expected in
            ["another server runs on", "--data-dir", "--datastore-endpoint", "in use by another process"]
        {
            assert!(words.contains(expected), "{expected}: {words}");
        }
        first.close().await.expect("closed");
        flags.open(folder.path(), "").await.expect("free again");
    }

    #[tokio::test]
    async fn flags_that_make_no_sense_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let flags = DatastoreFlags { datastore_cafile: Some("/ca".into()), ..DatastoreFlags::default() };
        let Err(error) = flags.open(folder.path(), "").await else { panic!("refused") };
        assert!(error.to_string().contains("--datastore-endpoint"), "{error}");
        let endpoint = vec!["https://127.0.0.1:1".to_owned()];
        let flags = DatastoreFlags { datastore_endpoint: endpoint, ..flags };
        let Err(error) = flags.open(folder.path(), "").await else { panic!("refused") };
        assert!(error.to_string().contains("--datastore-cafile: cannot read /ca"), "{error}");
    }
}
