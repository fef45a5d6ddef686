//! Looks at one object live, decides, and carries the decision out. Every write says which state of the object it is
//! about, so that a view that has become old is refused.

use std::sync::PoisonError;
use std::time::Duration;

use component::ObjectKey;
use component::controller::Next;
use component::events::EventType;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::ObjectMeta;
use serde_json::json;

use super::Collector;
use super::plan::{self, Action, Dependent, ORPHAN, Owner, Propagation};
use crate::answers::is_not_found;
use crate::resources::{Followed, Item, Metadata};

/// How long an informer may take to show an owner that the API server has.
const OBSERVED: Duration = Duration::from_secs(5);
/// Verified absences that are remembered; one too many and all are forgotten.
const ABSENT: usize = 2048;

/// Why an object could not be dealt with now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The API server refuses, or is away.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// Nothing is known of an owner's kind, so nothing of the owner.
    #[error("no objects of kind {kind} in {api_version} are known, which an owner reference names")]
    UnknownKind {
        /// As the reference has it.
        api_version: String,
        /// As the reference has it.
        kind: String,
    },
    /// The cache of owners is far behind.
    #[error("the owner {0} exists, but was not observed yet")]
    NotObserved(Item),
}

impl Collector {
    /// Brings one object to where its owners and dependents want it.
    pub(super) async fn reconcile(&self, item: &Item) -> Result<Next, Error> {
        let Some(followed) = self.resources.get(&item.kind) else { return Ok(Next::Done) };
        let Some(cached) = followed.objects.get(&item.key) else { return Ok(Next::Done) };
        if !self.needs_a_look(item, &cached.metadata) {
            return Ok(Next::Done);
        }
        let api = followed.kind.access(&self.client, &item.key.namespace);
        let Some(live) = api.get_metadata_opt(&item.key.name).await? else { return Ok(Next::Done) };
        let object = live.metadata;
        // Another one under the same name is news that the informer has yet to bring.
        if object.uid != cached.metadata.uid {
            return Ok(Next::Done);
        }
        let mut found = Vec::new();
        if object.deletion_timestamp.is_none() {
            for reference in plan::owners(&object) {
                found.push(self.find(&followed, item, &object, reference).await?);
            }
        }
        let uid = object.uid.clone().unwrap_or_default();
        let dependents = self.dependents(&uid);
        let views: Vec<Dependent> = dependents.iter().map(|(_, view)| *view).collect();
        let action = plan::decide(&object, &found, &views);
        self.act(&followed, item, &object, action, &dependents).await?;
        Ok(Next::Done)
    }

    /// Whether the caches show any reason to ask the API server.
    fn needs_a_look(&self, item: &Item, object: &ObjectMeta) -> bool {
        if object.deletion_timestamp.is_some() {
            return plan::propagation(object).is_some();
        }
        plan::owners(object).iter().any(|reference| {
            let owner = self.owner_item(reference, &item.key.namespace);
            !owner.is_some_and(|owner| self.is_present(&owner, reference))
        })
    }

    /// Whether an owner is there and stays, as far as the cache knows. If that changes, the change wakes its dependents.
    fn is_present(&self, owner: &Item, reference: &OwnerReference) -> bool {
        let cached = self.resources.get(&owner.kind).and_then(|followed| followed.objects.get(&owner.key));
        cached.is_some_and(|cached| {
            cached.metadata.uid.as_deref() == Some(&reference.uid) && !plan::is_waiting(&cached.metadata)
        })
    }

    fn dependents(&self, uid: &str) -> Vec<(Item, Dependent)> {
        let items = self.graph().dependents(uid);
        let view = |item: Item| {
            let object = self.resources.get(&item.kind)?.objects.get(&item.key)?;
            Some((item, plan::dependent(&object.metadata, uid)))
        };
        items.into_iter().filter_map(view).collect()
    }

    /// Finds out about one owner.
    async fn find(
        &self,
        followed: &Followed,
        item: &Item,
        object: &ObjectMeta,
        reference: &OwnerReference,
    ) -> Result<Owner, Error> {
        let unknown = || Error::UnknownKind {
            api_version: reference.api_version.clone(),
            kind: reference.kind.clone(),
        };
        let kind = self.resources.of_kind(&reference.api_version, &reference.kind).ok_or_else(unknown)?;
        let owner = self.owner_item(reference, &item.key.namespace).ok_or_else(unknown)?;
        if kind.kind.namespaced && item.key.namespace.is_empty() {
            self.report_namespace(followed, object, reference);
            return Ok(Owner::Unresolvable);
        }
        if self.is_present(&owner, reference) {
            return Ok(Owner::Present);
        }
        let absent = (owner.clone(), reference.uid.clone());
        if self.absent.lock().unwrap_or_else(PoisonError::into_inner).contains(&absent) {
            return Ok(Owner::Absent);
        }
        let api = kind.kind.access(&self.client, &owner.key.namespace);
        let live = api.get_metadata_opt(&owner.key.name).await?;
        match live.filter(|live| live.metadata.uid.as_deref() == Some(&reference.uid)) {
            Some(live) if plan::is_waiting(&live.metadata) => Ok(Owner::Waiting),
            Some(live) => observed(&kind, &owner, &live).await,
            None => {
                if elsewhere(&kind, &owner, &reference.uid) {
                    self.report_namespace(followed, object, reference);
                }
                let mut known = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() >= ABSENT {
                    known.clear();
                }
                known.insert(absent);
                Ok(Owner::Absent)
            }
        }
    }

    /// Tells people that an owner reference leads nowhere, because owners live in the same namespace or in none.
    fn report_namespace(&self, followed: &Followed, object: &ObjectMeta, reference: &OwnerReference) {
        let namespace = object.namespace.as_deref().unwrap_or("");
        let OwnerReference { api_version, kind, name, uid, .. } = reference;
        let note = format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] \
             does not exist in namespace {namespace:?}"
        );
        let about = ObjectReference {
            api_version: Some(followed.kind.api.api_version.clone()),
            kind: Some(followed.kind.api.kind.clone()),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            uid: object.uid.clone(),
            ..ObjectReference::default()
        };
        self.recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", note);
    }

    async fn act(
        &self,
        followed: &Followed,
        item: &Item,
        object: &ObjectMeta,
        action: Action,
        dependents: &[(Item, Dependent)],
    ) -> Result<(), Error> {
        match action {
            Action::Nothing => Ok(()),
            Action::WakeDependents => {
                for (dependent, view) in dependents {
                    if view.blocks && !view.deleting {
                        self.queue.add(dependent.clone());
                    }
                }
                Ok(())
            }
            Action::OrphanDependents => {
                for (dependent, _) in dependents {
                    self.let_go(dependent, object.uid.as_deref().unwrap_or_default()).await?;
                }
                self.remove_finalizer(followed, item, object, ORPHAN).await
            }
            Action::RemoveFinalizer(name) => self.remove_finalizer(followed, item, object, name).await,
            Action::KeepOwners(kept) => self.set_owners(followed, item, object, &kept).await.map(drop),
            Action::Delete { propagation, unblock: false } => {
                self.delete(followed, item, object, propagation).await
            }
            Action::Delete { propagation, unblock: true } => {
                match self.set_owners(followed, item, object, &plan::unblocked(object)).await? {
                    Some(unblocked) => self.delete(followed, item, &unblocked.metadata, propagation).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Takes an owner out of a dependent's references.
    async fn let_go(&self, item: &Item, owner: &str) -> Result<(), Error> {
        let Some(followed) = self.resources.get(&item.kind) else { return Ok(()) };
        let api = followed.kind.access(&self.client, &item.key.namespace);
        let Some(live) = api.get_metadata_opt(&item.key.name).await? else { return Ok(()) };
        match plan::without_owner(&live.metadata, owner) {
            Some(kept) => self.set_owners(&followed, item, &live.metadata, &kept).await.map(drop),
            None => Ok(()),
        }
    }

    async fn set_owners(
        &self,
        followed: &Followed,
        item: &Item,
        object: &ObjectMeta,
        owners: &[OwnerReference],
    ) -> Result<Option<Metadata>, Error> {
        let owners = if owners.is_empty() { json!(null) } else { json!(owners) };
        self.patch(followed, item, object, "ownerReferences", owners).await
    }

    async fn remove_finalizer(
        &self,
        followed: &Followed,
        item: &Item,
        object: &ObjectMeta,
        name: &str,
    ) -> Result<(), Error> {
        let kept: Vec<&String> =
            object.finalizers.iter().flatten().filter(|finalizer| *finalizer != name).collect();
        self.patch(followed, item, object, "finalizers", json!(kept)).await.map(drop)
    }

    /// Sets a field of the metadata, if the object is still as it was read; `None` if it is gone.
    async fn patch(
        &self,
        followed: &Followed,
        item: &Item,
        object: &ObjectMeta,
        field: &str,
        value: serde_json::Value,
    ) -> Result<Option<Metadata>, Error> {
        let body = json!({"metadata": {
            "uid": object.uid, "resourceVersion": object.resource_version, field: value,
        }});
        let api = followed.kind.access(&self.client, &item.key.namespace);
        match api.patch_metadata(&item.key.name, &PatchParams::default(), &Patch::Merge(body)).await {
            Ok(patched) => Ok(Some(patched)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(
        &self,
        followed: &Followed,
        item: &Item,
        object: &ObjectMeta,
        propagation: Option<Propagation>,
    ) -> Result<(), Error> {
        let parameters = match propagation {
            None => DeleteParams::background(),
            Some(Propagation::Foreground) => DeleteParams::foreground(),
            Some(Propagation::Orphan) => DeleteParams::orphan(),
        };
        // With the version, so that an owner that was added meanwhile is not overlooked.
        let parameters = parameters.preconditions(Preconditions {
            uid: object.uid.clone(),
            resource_version: object.resource_version.clone(),
        });
        let api = followed.kind.access(&self.client, &item.key.namespace);
        match api.delete(&item.key.name, &parameters).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// An owner that exists but that the cache does not show (as it is now) is waited for: only then does its end wake its
/// dependents.
async fn observed(kind: &Followed, owner: &Item, live: &Metadata) -> Result<Owner, Error> {
    let version = live.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
    let seen = tokio::time::timeout(OBSERVED, kind.objects.reached(version.unwrap_or(0)));
    match seen.await {
        Ok(()) => Ok(Owner::Present),
        Err(_) => Err(Error::NotObserved(owner.clone())),
    }
}

/// Whether an object with this uid is somewhere else than where a reference says. Only looked for when an owner turned out
/// to be absent, and once for each.
fn elsewhere(kind: &Followed, owner: &Item, uid: &str) -> bool {
    let objects = if kind.kind.namespaced { kind.objects.list() } else { Vec::new() };
    let mut found = objects.iter().filter(|object| object.metadata.uid.as_deref() == Some(uid));
    found.any(|object| ObjectKey::of(&**object) != owner.key)
}
