//! Aggregation: versions of groups for which another server answers, which a Service of the cluster leads to. An APIService
//! says which; what it says is in force as soon as it is seen.
//!
//! Requests are passed on as they are, with who asks in headers of the front proxy: the other server decides by itself what
//! he may do there. Objects of other servers are not looked into here: no cache, no admission, no conversion.

mod availability;
mod documents;
mod keeper;
pub mod local;
mod pass;
mod remote;
pub mod trust;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub use self::documents::foreign;
pub use self::keeper::keep;
pub use self::pass::{Passing, pass};
pub use self::remote::Remote;
use crate::catalog::Catalog;
use crate::discovery::Whole;
use crate::types::RequestInfo;
use crate::watch::{Cache, Cached, ResourceCache, Selection};

pub(crate) const GROUP: &str = "apiregistration.k8s.io";
pub(crate) const PLURAL: &str = "apiservices";

/// As whom this server tells others who asks.
#[derive(Clone)]
pub struct ProxyClient(Arc<dyn ResolvesClientCert>);

impl std::fmt::Debug for ProxyClient {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("ProxyClient")
    }
}

impl ProxyClient {
    /// The owner of a certificate that the front proxies' authority has signed.
    ///
    /// # Errors
    /// Certificate and key do not belong together, or are none.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<ProxyClient, crate::serve::TlsError> {
        let provider = rustls::crypto::ring::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider)?;
        Ok(ProxyClient(Arc::new(SingleCertAndKey::from(key))))
    }
}

/// By group and version.
type Remotes = BTreeMap<(Arc<str>, Arc<str>), Arc<Remote>>;

/// What other servers answer for.
#[derive(Default)]
pub struct Aggregation {
    cache: Option<Arc<ResourceCache>>,
    held: RwLock<Held>,
    merged: RwLock<Option<Merged>>,
    /// Counts what was learned from other servers.
    learned: AtomicU64,
}

/// The revision of an APIService, and what it says if that is about another server.
type Read = (u64, Option<Arc<Remote>>);

/// What the APIServices say.
#[derive(Clone, Default)]
struct Held {
    /// The newest change that is in it.
    at: u64,
    /// All that were read, by name; most of them are about this server.
    read: Arc<BTreeMap<String, Read>>,
    remotes: Arc<Remotes>,
}

/// Discovery of everything, for as long as nothing of it changes.
struct Merged {
    catalog: Arc<Catalog>,
    at: u64,
    learned: u64,
    whole: Arc<Whole>,
}

impl Aggregation {
    /// What the APIServices say that the cache holds.
    pub fn new(catalog: &Catalog, cache: &Cache) -> Aggregation {
        let resource = catalog.find(GROUP, "v1", PLURAL);
        let cache = resource.and_then(|resource| cache.resource(resource));
        Aggregation { cache, ..Aggregation::default() }
    }

    fn current(&self) -> Held {
        let Some(cache) = &self.cache else { return Held::default() };
        // Read before the list is: what changes meanwhile is read again the next time.
        let at = cache.changed_at();
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner).clone();
        if held.at == at {
            return held;
        }
        let read = |object: Arc<Cached>| {
            let known = held.read.get(object.name());
            let remote = match known {
                Some((revision, remote)) if *revision == object.revision => remote.clone(),
                _ => {
                    let before = known.and_then(|(_, remote)| remote.as_deref());
                    object.value().and_then(|value| Remote::read(&value, before)).map(Arc::new)
                }
            };
            (object.name().to_owned(), (object.revision, remote))
        };
        let read: BTreeMap<_, _> = cache.list(&Selection::all("")).into_iter().map(read).collect();
        let remotes = read.values().filter_map(|(_, remote)| remote.clone());
        let remotes =
            remotes.map(|remote| ((remote.group.clone(), remote.version.clone()), remote)).collect();
        let held = Held { at, read: Arc::new(read), remotes: Arc::new(remotes) };
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = held.clone();
        held
    }

    /// Who answers for a version of a group, if this server does not.
    pub fn find(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        let remotes = self.current().remotes;
        if remotes.is_empty() {
            return None;
        }
        remotes.get(&(group.into(), version.into())).cloned()
    }

    /// Who answers a request, if this server does not.
    pub fn responsible(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        if info.is_resource {
            return self.find(&info.api_group, &info.api_version);
        }
        let path: Vec<&str> = info.path.trim_matches('/').split('/').collect();
        match path.as_slice() {
            ["api", version] => self.find("", version),
            ["apis", group, version] => self.find(group, version),
            _ => None,
        }
    }

    /// All versions of groups for which others answer.
    pub fn all(&self) -> Vec<Arc<Remote>> {
        self.current().remotes.values().cloned().collect()
    }

    /// What discovery tells of everything.
    pub fn whole(&self, catalog: &Arc<Catalog>) -> Arc<Whole> {
        let learned = self.learned.load(Ordering::Acquire);
        let held = self.current();
        if held.remotes.is_empty() {
            return catalog.whole().clone();
        }
        let merged = self.merged.read().unwrap_or_else(PoisonError::into_inner);
        let fits = |known: &&Merged| {
            Arc::ptr_eq(&known.catalog, catalog) && known.at == held.at && known.learned == learned
        };
        if let Some(known) = merged.as_ref().filter(fits) {
            return known.whole.clone();
        }
        drop(merged);
        let whole = Arc::new(Whole::with(catalog, held.remotes.values()));
        let (catalog, at) = (catalog.clone(), held.at);
        let made = Merged { catalog, at, learned, whole: whole.clone() };
        *self.merged.write().unwrap_or_else(PoisonError::into_inner) = Some(made);
        whole
    }

    /// Notes that another server tells something new of itself.
    fn has_learned(&self) {
        self.learned.fetch_add(1, Ordering::AcqRel);
    }
}
