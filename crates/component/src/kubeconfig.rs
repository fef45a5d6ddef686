//! The part of a kubeconfig file that components use: its first cluster and its first user. Deliberately absent: contexts,
//! passwords and programs that fetch credentials.

use std::path::{Path, PathBuf};

use api_machinery::decode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::connect::{ConnectError, read};

/// Which cluster, and as whom.
#[derive(Debug)]
pub struct Kubeconfig {
    /// The server's address.
    pub server: String,
    /// PEM of who signed its certificate.
    pub authority: Vec<u8>,
    user: Option<User>,
    path: PathBuf,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
}

/// Without what is secret.
impl std::fmt::Debug for User {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("User").finish_non_exhaustive()
    }
}

impl Kubeconfig {
    /// Reads a file, and the certificate authority that it may name.
    ///
    /// # Errors
    /// A file cannot be read, or does not say what is needed.
    pub fn read(path: &Path) -> Result<Self, ConnectError> {
        let text = String::from_utf8(read(path)?).map_err(|error| wrong(path, error.to_string()))?;
        Self::parse(&text, path)
    }

    /// Reads the text of the file at `path`, to which the paths in it are relative.
    ///
    /// # Errors
    /// As [`Kubeconfig::read`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConnectError> {
        let decoded = decode::yaml(text.as_bytes(), None).map_err(|error| wrong(path, error.to_string()))?;
        let file = File::deserialize(decoded.value).map_err(|error| wrong(path, error.to_string()))?;
        let cluster = file.clusters.into_iter().next();
        let cluster = cluster.ok_or_else(|| wrong(path, "lists no cluster".to_owned()))?.cluster;
        let (data, named) = (cluster.certificate_authority_data, cluster.certificate_authority);
        let authority = part(path, data.as_deref(), named.as_deref(), "certificate-authority")?;
        let user = file.users.into_iter().next().map(|named| named.user);
        Ok(Self { server: cluster.server, authority, user, path: path.to_owned() })
    }

    /// The user's bearer token.
    pub fn token(&self) -> Option<&str> {
        self.user.as_ref()?.token.as_deref()
    }

    /// The user's certificate and key, as PEM.
    ///
    /// # Errors
    /// There is no user, or it has none, or they cannot be read.
    pub fn certificate(&self) -> Result<(Vec<u8>, Vec<u8>), ConnectError> {
        let user = self.user.as_ref().ok_or_else(|| wrong(&self.path, "lists no user".to_owned()))?;
        let part = |data: &Option<String>, named: &Option<PathBuf>, name: &str| {
            part(&self.path, data.as_deref(), named.as_deref(), name)
        };
        Ok((
            part(&user.client_certificate_data, &user.client_certificate, "client-certificate")?,
            part(&user.client_key_data, &user.client_key, "client-key")?,
        ))
    }
}

/// What is in the kubeconfig itself, or in the file that it names.
fn part(path: &Path, data: Option<&str>, named: Option<&Path>, name: &str) -> Result<Vec<u8>, ConnectError> {
    match (data, named) {
        (Some(data), _) => {
            STANDARD.decode(data.trim()).map_err(|error| wrong(path, format!("{name}: {error}")))
        }
        (None, Some(named)) => read(&path.parent().unwrap_or(Path::new("")).join(named)),
        (None, None) => Err(wrong(path, format!("has no {name}"))),
    }
}

pub(crate) fn wrong(path: &Path, what: String) -> ConnectError {
    ConnectError::Kubeconfig { path: path.to_owned(), what }
}
