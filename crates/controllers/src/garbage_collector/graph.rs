//! Who depends on whom: for each owner's uid the objects that name it, whether that owner was ever seen or not. All else
//! that is known of an object stays in the informers. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kube::core::ObjectMeta;

use super::plan::{is_waiting, owners, propagation};
use crate::resources::Item;

/// The reverse of all owner references.
#[derive(Debug, Default)]
pub struct Graph {
    dependents: BTreeMap<String, BTreeSet<Item>>,
}

/// Who has to be looked at after a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// The changed object.
    pub itself: bool,
    /// Those whose owner it is, or was.
    pub dependents: Vec<Item>,
    /// Its owners: one of them may wait for it to go, or to let go.
    pub owners: bool,
}

impl Graph {
    /// The objects that name this owner.
    pub fn dependents(&self, uid: &str) -> Vec<Item> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// Takes in that an object came, changed or went.
    pub fn change(&mut self, item: &Item, old: Option<&ObjectMeta>, new: Option<&ObjectMeta>) -> Woken {
        for owner in old.into_iter().flat_map(owners) {
            self.unlink(&owner.uid, item);
        }
        for owner in new.into_iter().flat_map(owners) {
            self.dependents.entry(owner.uid.clone()).or_default().insert(item.clone());
        }
        let uid = |meta: &ObjectMeta| meta.uid.clone().unwrap_or_default();
        let mut woken = Woken::default();
        // Another object under the old name: the old one is gone.
        let old = match (old, new) {
            (Some(before), Some(after)) if uid(before) == uid(after) => old,
            (Some(before), _) => {
                woken.owners = !owners(before).is_empty();
                woken.dependents = self.dependents(&uid(before));
                None
            }
            (None, _) => None,
        };
        let Some(new) = new else { return woken };
        let deleting = |meta: &ObjectMeta| meta.deletion_timestamp.is_some();
        match old {
            None => woken.itself = !owners(new).is_empty() || (deleting(new) && propagation(new).is_some()),
            Some(old) => {
                let changed = owners(old) != owners(new)
                    || deleting(old) != deleting(new)
                    || propagation(old) != propagation(new);
                woken.itself = changed;
                woken.owners = changed && !owners(old).is_empty();
            }
        }
        if is_waiting(new) && !old.is_some_and(is_waiting) {
            woken.dependents.extend(self.dependents(&uid(new)));
        }
        woken
    }

    fn unlink(&mut self, uid: &str, item: &Item) {
        if let Some(items) = self.dependents.get_mut(uid) {
            items.remove(item);
            if items.is_empty() {
                self.dependents.remove(uid);
            }
        }
    }
}
