//! Certificates of an etcd's members and of the servers that use it, under a CA of their own: with the cluster's CA every
//! node and user that it ever signed for could read and write the store.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;

use super::PkiError;
use super::issue::{Authority, Credential, Maker, Usage, Wanted};

/// An etcd's CA.
#[derive(Debug)]
pub struct EtcdPki {
    folder: PathBuf,
    authority: Authority,
    clock: Clock,
    entropy: Entropy,
}

impl EtcdPki {
    /// Reads the CA of a folder, or makes it.
    ///
    /// # Errors
    /// A file is damaged, or cannot be read or written.
    pub fn load_or_create(folder: &Path, clock: &Clock, entropy: &Entropy) -> Result<EtcdPki, PkiError> {
        let authority = Maker { folder, now: clock.now(), entropy }.authority("ca", "skiff-ca")?;
        let (clock, entropy) = (clock.clone(), entropy.clone());
        Ok(EtcdPki { folder: folder.to_owned(), authority, clock, entropy })
    }

    /// The CA's certificate as PEM.
    pub fn ca_certificate(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// Certificate and key of a member, as one PEM text: with it a member answers, and asks other members.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn member(&self, name: &str, address: IpAddr) -> Result<String, PkiError> {
        let names = [name.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned(), address.to_string()];
        self.issue(name, Usage::Both, names.into())
    }

    /// Certificate and key with which a server asks, as one PEM text.
    ///
    /// # Errors
    /// It cannot be made or written.
    pub fn client(&self) -> Result<String, PkiError> {
        self.issue("kube-apiserver-etcd-client", Usage::Client, BTreeSet::new())
    }

    fn issue(&self, name: &str, usage: Usage, alternatives: BTreeSet<String>) -> Result<String, PkiError> {
        let maker = Maker { folder: &self.folder, now: self.clock.now(), entropy: &self.entropy };
        let wanted = Wanted { name: name.to_owned(), groups: Vec::new(), usage, alternatives };
        maker.credential(name, &wanted, &self.authority).map(|credential| Credential::to_file(&credential))
    }
}
