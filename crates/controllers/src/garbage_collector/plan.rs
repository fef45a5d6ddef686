//! What happens to an object whose owners, or dependents, have changed. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;

/// The finalizer of an owner that goes after its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an owner whose dependents shall stay.
pub const ORPHAN: &str = "orphan";

/// What the finalizers of an object say of its dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// They go first.
    Foreground,
}

/// What was found at an owner reference's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It is there.
    Present,
    /// It is there, but only until its dependents are gone.
    Waiting,
    /// It is verified to be gone, or never was.
    Absent,
    /// It cannot be found by this reference: the object has no namespace, and the owner's kind has.
    Unresolvable,
}

/// An object that names the one in question as its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependent {
    /// The owner has to wait for it.
    pub blocks: bool,
    /// It is being deleted, in whichever way.
    pub deleting: bool,
    /// It waits for dependents of its own.
    pub waiting: bool,
}

/// What to do with an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing until something changes.
    Nothing,
    /// Look at the dependents that keep the object and are not being deleted yet.
    WakeDependents,
    /// Take the object's reference out of all dependents, then take away its finalizer.
    OrphanDependents,
    /// Take away a finalizer: what it stood for is done.
    RemoveFinalizer(&'static str),
    /// Leave only these owner references.
    KeepOwners(Vec<OwnerReference>),
    /// Delete it.
    Delete {
        /// What happens to its dependents; `None` is background.
        propagation: Option<Propagation>,
        /// It is part of a circle: first no owner may wait for it any longer.
        unblock: bool,
    },
}

/// The owner references of an object.
pub fn owners(meta: &ObjectMeta) -> &[OwnerReference] {
    meta.owner_references.as_deref().unwrap_or_default()
}

/// What the finalizers say; orphaning wins, since it loses nothing.
pub fn propagation(meta: &ObjectMeta) -> Option<Propagation> {
    let has = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
    match () {
        () if has(ORPHAN) => Some(Propagation::Orphan),
        () if has(FOREGROUND) => Some(Propagation::Foreground),
        () => None,
    }
}

/// Whether an object is being deleted and waits for its dependents.
pub fn is_waiting(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && propagation(meta) == Some(Propagation::Foreground)
}

/// Decides about an object from what its owner references lead to (in their order) and who depends on it.
pub fn decide(object: &ObjectMeta, found: &[Owner], dependents: &[Dependent]) -> Action {
    if object.deletion_timestamp.is_some() {
        return decide_deleting(object, dependents);
    }
    let refs = owners(object);
    debug_assert_eq!(refs.len(), found.len());
    if refs.is_empty() || found.contains(&Owner::Unresolvable) {
        return Action::Nothing;
    }
    if found.contains(&Owner::Present) {
        let kept: Vec<OwnerReference> = refs
            .iter()
            .zip(found)
            .filter(|(_, found)| **found == Owner::Present)
            .map(|(reference, _)| reference.clone())
            .collect();
        return if kept.len() == refs.len() { Action::Nothing } else { Action::KeepOwners(kept) };
    }
    if found.contains(&Owner::Waiting) && !dependents.is_empty() {
        // A dependent that itself waits means that owners and dependents form a circle.
        let unblock = dependents.iter().any(|dependent| dependent.waiting);
        return Action::Delete { propagation: Some(Propagation::Foreground), unblock };
    }
    Action::Delete { propagation: propagation(object), unblock: false }
}

fn decide_deleting(object: &ObjectMeta, dependents: &[Dependent]) -> Action {
    match propagation(object) {
        None => Action::Nothing,
        Some(Propagation::Orphan) => Action::OrphanDependents,
        Some(Propagation::Foreground) => {
            let blocking = || dependents.iter().filter(|dependent| dependent.blocks);
            match () {
                () if blocking().next().is_none() => Action::RemoveFinalizer(FOREGROUND),
                () if blocking().any(|dependent| !dependent.deleting) => Action::WakeDependents,
                () => Action::Nothing,
            }
        }
    }
}

/// An object as one that depends on `owner`.
pub fn dependent(meta: &ObjectMeta, owner: &str) -> Dependent {
    let mut refs = owners(meta).iter().filter(|reference| reference.uid == owner);
    Dependent {
        blocks: refs.any(|reference| reference.block_owner_deletion == Some(true)),
        deleting: meta.deletion_timestamp.is_some(),
        waiting: is_waiting(meta),
    }
}

/// The owner references without those to `owner`; `None` if there are none.
pub fn without_owner(meta: &ObjectMeta, owner: &str) -> Option<Vec<OwnerReference>> {
    let kept: Vec<OwnerReference> =
        owners(meta).iter().filter(|reference| reference.uid != owner).cloned().collect();
    (kept.len() < owners(meta).len()).then_some(kept)
}

/// The owner references, none of which makes its owner wait.
pub fn unblocked(meta: &ObjectMeta) -> Vec<OwnerReference> {
    let unblocked = |reference: &OwnerReference| OwnerReference {
        block_owner_deletion: reference.block_owner_deletion.map(|_| false),
        ..reference.clone()
    };
    owners(meta).iter().map(unblocked).collect()
}
