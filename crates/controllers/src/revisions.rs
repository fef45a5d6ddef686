//! What a controller's pod template was, kept as ControllerRevisions: `kubectl rollout history` and `undo` read them, and a
//! pod names the one that it was made from in a label.
//!
//! Choosing and naming are pure; [`Archive`] writes them.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_machinery::selector::LabelSelector;
use component::api::{Decode, Object};
use component::informer::Informer;
use component::{Api, Context, ObjectKey};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};

use crate::Informers;
use crate::answers;
use crate::claim::{self, CannotAdopt};
use crate::deployment;
use crate::expectations::Expectations;
use crate::indices::ByOwner;

/// The label of pods that names their revision, or its hash.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";

/// A template as a revision holds it: a patch of its owner.
fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).expect("a typed object is always JSON");
    template["$patch"] = "replace".into();
    json!({"spec": {"template": template}})
}

/// The template that a revision holds.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    PodTemplateSpec::decode(&template.to_string()).ok()
}

/// What is to be done so that the newest revision holds the owner's template.
#[derive(Debug, PartialEq)]
pub(crate) enum Newest {
    /// Nothing: this one does.
    Is(Arc<ControllerRevision>),
    /// An older one does, and gets this number: the template was rolled back.
    Renumber(Arc<ControllerRevision>, i64),
    /// None does: this one is to be created.
    Create(Box<ControllerRevision>),
}

/// Sorts revisions by their number, oldest first.
pub(crate) fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| {
        let key = |one: &ControllerRevision| (one.revision, one.metadata.name.clone());
        key(a).cmp(&key(b))
    });
}

/// Finds the revision of a template among those of its owner, sorted.
pub(crate) fn newest(
    owner: &ObjectMeta,
    reference: OwnerReference,
    template: &PodTemplateSpec,
    revisions: &[Arc<ControllerRevision>],
    collisions: i32,
    hash_label: &str,
) -> Newest {
    let equal = |revision: &Arc<ControllerRevision>| {
        self::template(revision).is_some_and(|known| deployment::same_template(&known, template))
    };
    let next = revisions.last().map_or(1, |last| last.revision.unwrap_or(0).saturating_add(1));
    match revisions.iter().rposition(equal) {
        Some(at) if at + 1 == revisions.len() => Newest::Is(revisions[at].clone()),
        Some(at) => Newest::Renumber(revisions[at].clone(), next),
        None => {
            let hash = deployment::template_hash(template, (collisions > 0).then_some(collisions));
            let mut labels =
                template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
            labels.insert(hash_label.to_owned(), hash.clone());
            Newest::Create(Box::new(ControllerRevision {
                metadata: ObjectMeta {
                    name: Some(format!("{}-{hash}", owner.name.as_deref().unwrap_or_default())),
                    namespace: owner.namespace.clone(),
                    labels: Some(labels),
                    owner_references: Some(vec![reference]),
                    ..ObjectMeta::default()
                },
                revision: Some(next),
                data: RawExtension(data(template)),
            }))
        }
    }
}

/// The revisions of an owner.
#[derive(Debug)]
pub(crate) struct History {
    /// All of them, oldest first.
    pub all: Vec<Arc<ControllerRevision>>,
    /// The one that holds the owner's template.
    pub newest: Arc<ControllerRevision>,
}

/// What came of making the newest revision hold the template.
#[derive(Debug)]
pub(crate) enum Kept {
    History(History),
    /// The name of the new one is taken by something else: the owner is to count that, and it is tried with another name.
    Collision,
    /// The namespace is being deleted.
    Ending,
}

/// The revisions of all owners of one kind.
pub(crate) struct Archive {
    client: kube::Client,
    revisions: Informer<ControllerRevision>,
    by_owner: ByOwner<ControllerRevision>,
    /// Writes of revisions, by owner.
    writes: Expectations,
    /// The label of a revision that has the hash in its name.
    hash_label: &'static str,
}

impl Archive {
    pub(crate) fn new(context: &Context, informers: &Informers, hash_label: &'static str) -> Self {
        Self {
            client: context.client.clone(),
            revisions: informers.controller_revisions.clone(),
            by_owner: informers.controller_revisions_by_owner.clone(),
            writes: Expectations::default(),
            hash_label,
        }
    }

    /// Whether the cache shows what was written for an owner.
    pub(crate) fn met(&self, key: &ObjectKey) -> bool {
        self.writes.met(key, self.revisions.revision(), |_| false)
    }

    /// The owner is gone for good.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.writes.forget(key);
    }

    /// Makes the newest of the owner's revisions hold its template.
    pub(crate) async fn keep<O>(
        &self,
        key: &ObjectKey,
        owner: &O,
        selector: &LabelSelector,
        template: &PodTemplateSpec,
        collisions: i32,
    ) -> Result<Kept, CannotAdopt>
    where
        O: Object + kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &key.namespace);
        let known = self.by_owner.claimable(owner.meta());
        let claims = claim::sort(owner.meta(), selector, &known);
        let wrote = |revision: &ControllerRevision| self.writes.wrote(key, revision);
        let owners = Api::namespaced(self.client.clone(), &key.namespace);
        let mut all = claim::settle(&owners, owner, &api, claims, wrote).await?;
        sort(&mut all);
        let reference = claim::owner_reference(owner);
        let newest = match newest(owner.meta(), reference, template, &all, collisions, self.hash_label) {
            Newest::Is(newest) => newest,
            Newest::Renumber(revision, number) => {
                let name = revision.metadata.name.as_deref().unwrap_or_default();
                let changed = ControllerRevision { revision: Some(number), ..(*revision).clone() };
                let written = api.replace(name, &PostParams::default(), &changed).await?;
                self.writes.wrote(key, &written);
                let written = Arc::new(written);
                all.retain(|one| one.metadata.name != written.metadata.name);
                all.push(written.clone());
                written
            }
            Newest::Create(made) => match self.create(key, owner.meta(), &api, &made).await? {
                Ok(created) => {
                    all.push(created.clone());
                    created
                }
                Err(without) => return Ok(without),
            },
        };
        Ok(Kept::History(History { all, newest }))
    }

    /// Creates a revision, or finds that an earlier pass did.
    async fn create(
        &self,
        key: &ObjectKey,
        owner: &ObjectMeta,
        api: &Api<ControllerRevision>,
        made: &ControllerRevision,
    ) -> kube::Result<Result<Arc<ControllerRevision>, Kept>> {
        let error = match api.create(&PostParams::default(), made).await {
            Ok(created) => {
                self.writes.wrote(key, &created);
                return Ok(Ok(Arc::new(created)));
            }
            Err(error) => error,
        };
        if answers::namespace_terminates(&error) {
            return Ok(Err(Kept::Ending));
        }
        if !answers::is_already_exists(&error) {
            return Err(error);
        }
        let name = made.metadata.name.as_deref().unwrap_or_default();
        let Some(live) = api.get_opt(name).await? else { return Err(error) };
        let uid = owner.uid.as_deref().unwrap_or_default();
        if claim::is_controlled_by(&live.metadata, uid) && self::template(&live) == self::template(made) {
            self.writes.wrote(key, &live);
            return Ok(Ok(Arc::new(live)));
        }
        Ok(Err(Kept::Collision))
    }

    /// Deletes revisions beyond the limit that are not used.
    pub(crate) async fn prune(
        &self,
        key: &ObjectKey,
        history: &History,
        used: &BTreeSet<String>,
        limit: i32,
    ) -> kube::Result<()> {
        let api: Api<ControllerRevision> = Api::namespaced(self.client.clone(), &key.namespace);
        for revision in forgettable(&history.all, used, limit) {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            match api.delete(name, &DeleteParams::default()).await {
                Err(error) if !answers::is_not_found(&error) => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// The revisions that nobody needs any more, oldest first: beyond `limit` of those that are not `used`.
pub(crate) fn forgettable(
    revisions: &[Arc<ControllerRevision>],
    used: &BTreeSet<String>,
    limit: i32,
) -> Vec<Arc<ControllerRevision>> {
    let name = |revision: &ControllerRevision| revision.metadata.name.clone().unwrap_or_default();
    let unused: Vec<_> = revisions.iter().filter(|revision| !used.contains(&name(revision))).collect();
    let surplus = unused.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    unused.into_iter().take(surplus).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template_of(image: &str) -> PodTemplateSpec {
        let containers = json!([{"name": "c", "image": image}]);
        serde_json::from_value(
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}}),
        )
        .expect("a template")
    }

    fn find(image: &str, known: &[Arc<ControllerRevision>]) -> Newest {
        let owner = ObjectMeta { name: Some("db".to_owned()), ..ObjectMeta::default() };
        newest(&owner, OwnerReference::default(), &template_of(image), known, 0, "hash")
    }

    fn created(image: &str, known: &[Arc<ControllerRevision>]) -> Arc<ControllerRevision> {
        let Newest::Create(made) = find(image, known) else { panic!("{image} is known") };
        Arc::new(*made)
    }

    #[test]
    fn a_template_is_found_again_and_renumbered() {
        let one = created("x:1", &[]);
        let two = created("x:2", std::slice::from_ref(&one));
        assert_eq!((one.revision, two.revision), (Some(1), Some(2)));
        assert_ne!(one.metadata.name, two.metadata.name);
        let known = [one.clone(), two.clone()];
        assert_eq!(find("x:2", &known), Newest::Is(two));
        assert_eq!(find("x:1", &known), Newest::Renumber(one.clone(), 3));
        assert_eq!(template(&one), Some(template_of("x:1")));
    }

    #[test]
    fn history_keeps_what_is_used_and_a_few_more() {
        let mut known = Vec::new();
        for number in 1..=5 {
            let made = created(&format!("x:{number}"), &known);
            known.push(made);
        }
        let name = |index: usize| known[index].metadata.name.clone().expect("named");
        let used = BTreeSet::from([name(0), name(4)]);
        let gone: Vec<_> = forgettable(&known, &used, 1).iter().map(|one| one.revision).collect();
        assert_eq!(gone, [Some(2), Some(3)]);
        assert!(forgettable(&known, &used, 3).is_empty());
    }
}
