//! ResourceQuota, last of admission: what a write costs is charged to the quotas of its namespace in the transaction that
//! stores the object. So a quota is never exceeded, however many servers write, and nothing is charged for what was not
//! stored. What is given back when objects go is counted by the quota controller.
//!
//! As upstream, a quota is enforced from the moment when its controller has first counted what there is.

mod judge;

use std::sync::Arc;

use api_machinery::meta;
use api_machinery::status::ApiError;
use bytes::Bytes;
use pod_rules::amounts::{self, Amounts};
use pod_rules::quota::{Kind, Quota};
use serde_json::{Value, json};
use store::{Compare, Outcome, Txn};
use tokio::sync::{Mutex, MutexGuard};

use self::judge::Cost;
use super::lens::Lens;
use super::owner::Owner;
use crate::request::admit::Admission;
use crate::request::commit::{self, Committed, store_error};
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::types::Operation;
use crate::watch::{Cached, Selection};

/// Rounds of a charge while other servers, or the controller, change the same quotas.
const ATTEMPTS: usize = 64;
const TURNS: usize = 64;

/// Writes of one namespace that are charged take turns: within a server nobody gets in another's way.
#[derive(Debug)]
pub struct Turns([Mutex<()>; TURNS]);

impl Default for Turns {
    fn default() -> Turns {
        Turns(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Turns {
    async fn take(&self, namespace: &str) -> MutexGuard<'_, ()> {
        let place =
            namespace.bytes().fold(0, |sum: usize, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        self.0[place % TURNS].lock().await
    }
}

/// What has to be written together with an object.
pub struct Charge<'a>(Option<Due<'a>>);

struct Due<'a> {
    server: &'a ApiServer,
    call: &'a ResourceCall,
    cost: Cost<'a>,
    /// The names of the namespace's quotas.
    quotas: Vec<Box<str>>,
    charged: Vec<Charged>,
    _turn: MutexGuard<'a, ()>,
}

/// A quota with its new usage.
#[derive(Clone)]
struct Charged {
    key: Arc<str>,
    revision: u64,
    bytes: Bytes,
}

/// Whether a write is of a kind that quotas look at.
fn kind(admission: &Admission<'_>) -> Option<Kind> {
    let (call, operation) = (admission.call, admission.operation);
    if call.namespace.is_empty() {
        return None;
    }
    let kind = Kind::of(&call.stored.group, &call.stored.plural)?;
    let looks = match (&kind, call.info.subresource.as_str()) {
        (Kind::Service | Kind::Claim, "") => matches!(operation, Operation::Create | Operation::Update),
        (Kind::Pod | Kind::Other(..), "") => operation == Operation::Create,
        (Kind::Pod, "resize") => operation == Operation::Update,
        _ => false,
    };
    looks.then_some(kind)
}

/// Charges a write that everything else has agreed to, or refuses it. Costs a look into the cache where there is no quota.
pub async fn charge<'a>(
    server: &'a ApiServer,
    admission: &'a Admission<'a>,
    object: &'a Value,
) -> Result<Charge<'a>, ApiError> {
    let nothing = Ok(Charge::nothing());
    let Some(kind) = kind(admission) else { return nothing };
    let call = admission.call;
    let catalog = server.catalog();
    let resource = catalog.find("", "v1", "resourcequotas");
    let Some(cache) = resource.and_then(|resource| server.cache().resource(resource)) else { return nothing };
    let found = cache.list(&Selection::all(&call.namespace));
    if found.is_empty() {
        return nothing;
    }
    let now = server.clock().now();
    let mut due = Due {
        server,
        call,
        cost: Cost::of(kind, object, admission.old, now),
        quotas: found.iter().map(|quota| quota.name().into()).collect(),
        charged: Vec::new(),
        _turn: server.quota_turns().take(&call.namespace).await,
    };
    due.judge().await?;
    Ok(Charge(Some(due)))
}

impl Charge<'_> {
    /// For what is nobody's wish.
    pub fn nothing() -> Self {
        Charge(None)
    }

    /// Commits a transaction together with what it costs.
    pub async fn commit(self, server: &ApiServer, txn: Txn) -> Result<Committed, ApiError> {
        let Some(mut due) = self.0 else { return commit::commit(server, txn).await };
        for _ in 0..ATTEMPTS {
            let whole = due.charged.iter().fold(txn.clone(), |txn, quota| {
                txn.when(quota.key.clone(), Compare::ModRevision(quota.revision))
                    .put(quota.key.clone(), quota.bytes.clone())
            });
            match commit::attempt(server, whole).await? {
                Outcome::Committed { revision } => return Ok(Committed::Done(revision)),
                Outcome::Conflict { key, .. } if due.charged.iter().any(|quota| quota.key == key) => {
                    due.judge().await?;
                }
                Outcome::Conflict { .. } => return Ok(Committed::Conflict),
            }
        }
        Ok(Committed::Conflict)
    }
}

impl Due<'_> {
    fn forbidden(&self, why: String) -> ApiError {
        let (group, plural) = self.call.names();
        ApiError::forbidden(group, plural, meta::name(self.cost.object), why)
    }

    /// Judges the write by the quotas as the store has them now.
    async fn judge(&mut self) -> Result<(), ApiError> {
        self.charged.clear();
        let mut charged = Vec::new();
        for name in &self.quotas {
            let target = super::status_of(self.server, self.call, ("", "v1", "resourcequotas"), name)?;
            let key: Arc<str> = target.store_key().into();
            let found = self.server.store().get(&key).await.map_err(store_error)?;
            // It has gone meanwhile.
            let Some(item) = found else { continue };
            let stored = Cached::new(&target.key(), item.value, item.mod_revision);
            let old =
                stored.value().ok_or_else(|| ApiError::internal("the stored object does not decode"))?;
            let Some(used) = self.cost.used(&Quota::of(&old)).map_err(|why| self.forbidden(why))? else {
                continue;
            };
            let bytes = self.charged_bytes(&target, &old, &used)?;
            charged.push(Charged { key, revision: item.mod_revision, bytes });
        }
        self.charged = charged;
        Ok(())
    }

    fn charged_bytes(&self, target: &ResourceCall, old: &Value, used: &Amounts) -> Result<Bytes, ApiError> {
        let mut new = old.clone();
        if !new["status"].is_object() {
            new["status"] = json!({});
        }
        new["status"]["used"] = amounts::write(used);
        let owner = Owner::of(self.server, target, &Lens::Status, super::SERVER);
        let owners = owner.track(Some(old), &new);
        meta::metadata_mut(&mut new).remove("managedFields");
        commit::encode_with(&new, &owners)
    }
}
