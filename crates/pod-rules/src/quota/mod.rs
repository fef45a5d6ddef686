//! ResourceQuotas: which objects a quota is about and what each costs. The API server charges with it what is written, the
//! quota controller counts with it what is there, so that both always agree.
//!
//! Deliberately absent: deciding whether something is too much, which only the API server does, and device classes.

mod scope;
mod usage;

use api_machinery::meta;
use api_machinery::quantity::Quantity;
use jiff::Timestamp;
use serde_json::Value;

pub use self::scope::Scope;
pub use self::usage::{given_up_at, missing_requests};
use crate::amounts::{self, Amounts};

/// How objects of a resource are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By what they ask for.
    Pod,
    /// By what they occupy of the cluster's edge.
    Service,
    /// By their size.
    Claim,
    /// Each is one, by this name and, for some of the core group, by another.
    Other(String, Option<&'static str>),
}

/// What never counts: events come and go by the thousand.
const IGNORED: [(&str, &str); 3] = [("", "events"), ("events.k8s.io", "events"), ("", "bindings")];
/// What is counted by its plain name too.
const PLAIN: [&str; 4] = ["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

impl Kind {
    /// How a resource is counted; `None` if it is not.
    pub fn of(group: &str, plural: &str) -> Option<Kind> {
        if IGNORED.contains(&(group, plural)) {
            return None;
        }
        Some(match (group, plural) {
            ("", "pods") => Kind::Pod,
            ("", "services") => Kind::Service,
            ("", "persistentvolumeclaims") => Kind::Claim,
            ("", plural) => {
                Kind::Other(format!("count/{plural}"), PLAIN.iter().find(|name| **name == plural).copied())
            }
            (group, plural) => Kind::Other(format!("count/{plural}.{group}"), None),
        })
    }

    /// Whether objects of this kind have a part in what is counted under a name.
    pub fn counts(&self, name: &str) -> bool {
        match self {
            Kind::Pod => usage::is_of_pods(name),
            Kind::Service => usage::SERVICES.contains(&name),
            Kind::Claim => usage::is_of_claims(name),
            Kind::Other(count, plain) => name == count || *plain == Some(name),
        }
    }

    /// What an object costs.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        match self {
            Kind::Pod => usage::of_pod(object, now),
            Kind::Service => usage::of_service(object),
            Kind::Claim => usage::of_claim(object),
            Kind::Other(count, plain) => {
                let names = [Some(count.as_str()), *plain].into_iter().flatten();
                names.map(|name| (name.to_owned(), usage::number(1))).collect()
            }
        }
    }

    /// Whether an object is in a scope.
    fn is_in(&self, scope: &Scope, object: &Value) -> bool {
        match self {
            Kind::Pod => scope.has_pod(object),
            Kind::Claim => scope.has_claim(object),
            Kind::Service | Kind::Other(..) => false,
        }
    }
}

/// What a ResourceQuota says.
#[derive(Clone, Debug, Default)]
pub struct Quota {
    /// Its name.
    pub name: String,
    /// What is enforced, from the status.
    pub hard: Amounts,
    /// What is used of it, from the status.
    pub used: Amounts,
    /// What shall be enforced, from the spec.
    pub wanted: Amounts,
    scopes: Vec<Scope>,
}

impl Quota {
    /// Reads a ResourceQuota.
    pub fn of(quota: &Value) -> Quota {
        let list = |pointer: &str| amounts::read(quota.pointer(pointer));
        Quota {
            name: meta::name(quota).to_owned(),
            hard: list("/status/hard"),
            used: list("/status/used"),
            wanted: list("/spec/hard"),
            scopes: Scope::of(quota),
        }
    }

    /// Whether an object is in all scopes.
    pub fn has(&self, kind: &Kind, object: &Value) -> bool {
        self.scopes.iter().all(|scope| kind.is_in(scope, object))
    }

    /// What all objects of one kind use of what shall be enforced.
    pub fn count<'a>(
        &self,
        kind: &Kind,
        objects: impl Iterator<Item = &'a Value>,
        now: Timestamp,
    ) -> Amounts {
        let names = self.wanted.keys().filter(|name| kind.counts(name));
        let mut sum: Amounts = names.map(|name| (name.clone(), Quantity::ZERO)).collect();
        for object in objects.filter(|object| self.has(kind, object)) {
            let mut usage = kind.usage(object, now);
            usage.retain(|name, _| sum.contains_key(name));
            amounts::add(&mut sum, &usage);
        }
        sum
    }

    /// Whether objects of this kind are never in its scopes, whatever they are like.
    pub fn excludes(&self, kind: &Kind) -> bool {
        !self.scopes.is_empty() && matches!(kind, Kind::Service | Kind::Other(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_that_kinds_have_a_part_in() {
        let kinds = [
            ("", "pods"),
            ("", "services"),
            ("", "persistentvolumeclaims"),
            ("", "secrets"),
            ("apps", "deployments"),
        ];
        let table = [
            ("pods", "pods"),
            ("count/pods", "pods"),
            ("cpu", "pods"),
            ("limits.memory", "pods"),
            ("requests.ephemeral-storage", "pods"),
            ("hugepages-2Mi", "pods"),
            ("requests.hugepages-2Mi", "pods"),
            ("requests.example.com/gpu", "pods"),
            ("services", "services"),
            ("services.nodeports", "services"),
            ("count/services", "services"),
            ("persistentvolumeclaims", "persistentvolumeclaims"),
            ("requests.storage", "persistentvolumeclaims"),
            ("gold.storageclass.storage.k8s.io/requests.storage", "persistentvolumeclaims"),
            ("gold.storageclass.storage.k8s.io/persistentvolumeclaims", "persistentvolumeclaims"),
            ("secrets", "secrets"),
            ("count/secrets", "secrets"),
            ("count/deployments.apps", "deployments"),
            ("count/widgets.example.com", ""),
            ("example.com/gpu", ""),
        ];
        for (name, want) in table {
            let found = kinds
                .iter()
                .find(|(group, plural)| Kind::of(group, plural).is_some_and(|kind| kind.counts(name)));
            assert_eq!(found.map_or("", |(_, plural)| plural), want, "{name}");
        }
        assert_eq!(Kind::of("", "events"), None);
    }

    #[test]
    fn a_sum_begins_with_nothing_of_each() {
        let quota = Quota::of(&json!({"spec": {"hard": {"pods": "5", "cpu": "1", "secrets": "3"}}}));
        let now = Timestamp::UNIX_EPOCH;
        let pod =
            json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "300m"}}}]}});
        let ended = json!({"spec": pod["spec"], "status": {"phase": "Failed"}});
        let pods = [pod.clone(), pod, ended];
        let sum = quota.count(&Kind::Pod, pods.iter(), now);
        assert_eq!(amounts::write(&sum), json!({"pods": "2", "cpu": "600m"}));
        assert_eq!(
            amounts::write(&quota.count(&Kind::Pod, [].iter(), now)),
            json!({"pods": "0", "cpu": "0"})
        );
    }
}
