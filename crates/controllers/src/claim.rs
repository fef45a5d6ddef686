//! Whose dependents are whose: a controller adopts what its selector matches and nobody controls, and releases what it
//! controls and its selector no longer matches.
//!
//! Deciding is [`sort`]; the patches carry the dependent's uid, so that they never hit a namesake.

use std::sync::Arc;

use api_machinery::selector::LabelSelector;
use component::Api;
use component::api::Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use pod_rules::labels;
use serde_json::json;

/// The reference that marks a dependent as controlled, and removed after its owner in foreground deletion.
pub(crate) fn owner_reference<K: kube::Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The owner that controls an object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether an object is controlled by the owner with this uid.
pub(crate) fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// How an object stands to an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stance {
    /// Controlled and selected.
    Owned,
    /// Nobody's, and selected: to be adopted.
    Orphan,
    /// Controlled but no longer selected: to be let go.
    Released,
    /// None of the owner's business.
    Foreign,
}

/// How an object stands to the owner `owner`, which selects by `selector`. One that is being deleted neither adopts nor
/// releases, and what is being deleted is not adopted.
pub(crate) fn stance(owner: &ObjectMeta, selector: &LabelSelector, object: &ObjectMeta) -> Stance {
    let selected = labels::matches(selector, object.labels.as_ref());
    let owner_ends = owner.deletion_timestamp.is_some();
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Stance::Foreign,
        Some(_) if selected => Stance::Owned,
        Some(_) if owner_ends => Stance::Foreign,
        Some(_) => Stance::Released,
        None if selected && !owner_ends && object.deletion_timestamp.is_none() => Stance::Orphan,
        None => Stance::Foreign,
    }
}

/// Dependents, by what is to be done about whose they are.
#[derive(Debug, PartialEq)]
pub(crate) struct Claims<K> {
    pub owned: Vec<Arc<K>>,
    pub adopt: Vec<Arc<K>>,
    pub release: Vec<Arc<K>>,
}

/// Sorts objects by how they stand to an owner.
pub(crate) fn sort<'a, K: kube::Resource + 'a>(
    owner: &ObjectMeta,
    selector: &LabelSelector,
    objects: impl IntoIterator<Item = &'a Arc<K>>,
) -> Claims<K> {
    let mut claims = Claims { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for object in objects {
        match stance(owner, selector, object.meta()) {
            Stance::Owned => claims.owned.push(object.clone()),
            Stance::Orphan => claims.adopt.push(object.clone()),
            Stance::Released => claims.release.push(object.clone()),
            Stance::Foreign => {}
        }
    }
    claims
}

/// Why nothing may be adopted now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotAdopt {
    /// The cache is behind: another object has the owner's name by now, or it is being deleted.
    #[error("the owner has been deleted or replaced meanwhile")]
    OwnerChanged,
    /// The API says no, or nothing.
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Adopts and releases; returns the objects that are the owner's now. `wrote` is told of every write. Before anything is
/// adopted in its name, the API itself, not the cache, is asked whether the owner is still there.
pub(crate) async fn settle<O, K>(
    owners: &Api<O>,
    owner: &O,
    objects: &Api<K>,
    claims: Claims<K>,
    wrote: impl Fn(&K),
) -> Result<Vec<Arc<K>>, CannotAdopt>
where
    O: Object + kube::Resource<DynamicType = ()>,
    K: Object,
{
    settle_with(owners, owner, objects, claims, None, wrote).await
}

/// As [`settle`], where what is the owner's holds a finalizer of its controller's.
pub(crate) async fn settle_with<O, K>(
    owners: &Api<O>,
    owner: &O,
    objects: &Api<K>,
    claims: Claims<K>,
    finalizer: Option<&str>,
    wrote: impl Fn(&K),
) -> Result<Vec<Arc<K>>, CannotAdopt>
where
    O: Object + kube::Resource<DynamicType = ()>,
    K: Object,
{
    let mut owned = claims.owned;
    if !claims.adopt.is_empty() {
        recheck(owners, owner.meta()).await?;
    }
    let reference = owner_reference(owner);
    for object in claims.adopt {
        let uid = &object.meta().uid;
        let mut body = json!({"metadata": {"uid": uid, "ownerReferences": [&reference]}});
        if let Some(finalizer) = finalizer {
            body["metadata"]["finalizers"] = json!([finalizer]);
        }
        if let Some(adopted) = patch(objects, object.meta(), body).await? {
            wrote(&adopted);
            owned.push(Arc::new(adopted));
        }
    }
    for object in claims.release {
        let uid = &object.meta().uid;
        let references = json!([{"$patch": "delete", "uid": reference.uid}]);
        let mut body = json!({"metadata": {"uid": uid, "ownerReferences": references}});
        if let Some(finalizer) = finalizer {
            body["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
        }
        if let Some(released) = patch(objects, object.meta(), body).await? {
            wrote(&released);
        }
    }
    Ok(owned)
}

async fn recheck<K>(owners: &Api<K>, owner: &ObjectMeta) -> Result<(), CannotAdopt>
where
    K: Object,
{
    let live = owners.get_opt(owner.name.as_deref().unwrap_or_default()).await?;
    match live {
        Some(live) if live.meta().uid == owner.uid && live.meta().deletion_timestamp.is_none() => Ok(()),
        _ => Err(CannotAdopt::OwnerChanged),
    }
}

/// Patches an object; `None` if it has gone or changed hands meanwhile.
async fn patch<K>(api: &Api<K>, object: &ObjectMeta, body: serde_json::Value) -> kube::Result<Option<K>>
where
    K: Object,
{
    let name = object.name.as_deref().unwrap_or_default();
    match api.patch(name, &PatchParams::default(), &Patch::Strategic(body)).await {
        Ok(patched) => Ok(Some(patched)),
        // Gone; or another object of that name (409), or other owners than we knew (422): the watch will tell.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn meta(app: &str, controller: Option<&str>, deleting: bool) -> ObjectMeta {
        let owner = |uid: &str| OwnerReference {
            uid: uid.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        ObjectMeta {
            uid: Some("me".to_owned()),
            labels: Some([("app".to_owned(), app.to_owned())].into()),
            owner_references: controller.map(|uid| vec![owner(uid)]),
            deletion_timestamp: deleting.then_some(Time(jiff::Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn who_is_whose() {
        let selector = LabelSelector::parse("app=web").expect("a literal");
        let table = [
            // label, controlled by, object ends, owner ends, stance
            ("web", Some("me"), false, false, Stance::Owned),
            ("web", Some("me"), true, true, Stance::Owned),
            ("web", None, false, false, Stance::Orphan),
            ("web", None, true, false, Stance::Foreign),
            ("web", None, false, true, Stance::Foreign),
            ("web", Some("other"), false, false, Stance::Foreign),
            ("db", Some("me"), false, false, Stance::Released),
            ("db", Some("me"), false, true, Stance::Foreign),
            ("db", None, false, false, Stance::Foreign),
        ];
        for (app, controller, object_ends, owner_ends, expected) in table {
            let owner = meta("", None, owner_ends);
            let found = stance(&owner, &selector, &meta(app, controller, object_ends));
            assert_eq!(found, expected, "{app} {controller:?} {object_ends} {owner_ends}");
        }
    }
}
