//! How lists and maps merge, against types that were generated from upstream's published document: our facts about them
//! are written by hand.
//!
//! Each list and map of each kind is merged with another of its like by those types, and what comes out says whether
//! it is atomic, a set, or keyed and by which fields. Where patches have a key of their own, the types merge by that.

use std::collections::BTreeSet;

use api_catalog::catalog;
use api_machinery::schema::{Format, Kind, ListType, View};
use k8s_openapi::DeepMerge;
use k8s_openapi::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

type Merge = fn(Value, Value) -> Value;

fn merge<T: DeepMerge + DeserializeOwned + Serialize>(first: Value, second: Value) -> Value {
    let read =
        |value: Value| serde_json::from_value::<T>(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"));
    let mut merged = read(first);
    merged.merge_from(read(second));
    serde_json::to_value(merged).expect("JSON")
}

macro_rules! kinds {
    ($($group:ident :: $version:ident { $($kind:ident),+ })+) => {
        &[
            (
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
                merge::<CustomResourceDefinition> as Merge,
            ),
            ("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService", merge::<APIService> as Merge),
            $($((
                concat!("io.k8s.api.", stringify!($group), ".", stringify!($version), ".", stringify!($kind)),
                merge::<api::$group::$version::$kind> as Merge,
            )),+),+
        ]
    };
}

const KINDS: &[(&str, Merge)] = kinds! {
    core::v1 { Binding, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolume,
        PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, Service, ServiceAccount }
    admissionregistration::v1 { MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy,
        ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration }
    apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
    authentication::v1 { SelfSubjectReview, TokenReview }
    authorization::v1 { LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview }
    autoscaling::v1 { HorizontalPodAutoscaler }
    autoscaling::v2 { HorizontalPodAutoscaler }
    batch::v1 { CronJob, Job }
    certificates::v1 { CertificateSigningRequest, ClusterTrustBundle }
    coordination::v1 { Lease }
    discovery::v1 { EndpointSlice }
    events::v1 { Event }
    flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration }
    networking::v1 { IPAddress, Ingress, IngressClass, NetworkPolicy, ServiceCIDR }
    node::v1 { RuntimeClass }
    policy::v1 { PodDisruptionBudget }
    rbac::v1 { ClusterRole, ClusterRoleBinding, Role, RoleBinding }
    resource::v1 { DeviceClass, DeviceTaintRule, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
    scheduling::v1 { PriorityClass }
    storage::v1 { CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment, VolumeAttributesClass }
    storagemigration::v1 { StorageVersionMigration }
};

/// How a list or map merges.
#[derive(Debug, PartialEq)]
enum How {
    Atomic,
    Set,
    Keyed(BTreeSet<String>),
    Granular,
}

/// One step down from an object.
#[derive(Clone)]
enum Step {
    Field(String),
    /// The only item of a list, with the fields that it is known by.
    Item(Vec<(String, Value)>),
    /// The only entry of a map.
    Entry,
}

/// An object that has nothing but `leaf` at the end of a way.
fn build(way: &[Step], leaf: &Value) -> Value {
    way.iter().rev().fold(leaf.clone(), |inner, step| match step {
        Step::Field(name) => json!({name.as_str(): inner}),
        Step::Entry => json!({"k": inner}),
        Step::Item(keys) => {
            let mut item = inner.as_object().cloned().unwrap_or_default();
            item.extend(keys.iter().cloned());
            json!([item])
        }
    })
}

fn find<'a>(object: &'a Value, way: &[Step]) -> &'a Value {
    way.iter().fold(object, |value, step| match step {
        Step::Field(name) => &value[name.as_str()],
        Step::Entry => &value["k"],
        Step::Item(_) => &value[0],
    })
}

/// One of two values of a scalar; nothing for what is none.
fn scalar(view: View, second: bool) -> Option<Value> {
    let pick = |first: Value, other: Value| Some(if second { other } else { first });
    match (view.kind(), view.format()) {
        (Kind::String, Format::DateTime | Format::MicroTime) => {
            pick(json!("2026-01-01T00:00:00.000000Z"), json!("2026-01-02T00:00:00.000000Z"))
        }
        (Kind::String, Format::Byte) => pick(json!("YQ=="), json!("Yg==")),
        (Kind::String | Kind::IntOrString, _) => pick(json!("a"), json!("b")),
        (Kind::Quantity, _) => pick(json!("1"), json!("2")),
        (Kind::Integer | Kind::Number, _) => pick(json!(1), json!(2)),
        (Kind::Boolean, _) => pick(json!(true), json!(false)),
        _ => None,
    }
}

struct Walk {
    merge: Merge,
    seen: BTreeSet<u32>,
    wrong: Vec<String>,
    compared: usize,
}

impl Walk {
    fn merged(&self, way: &[Step], first: &Value, second: &Value) -> Value {
        find(&(self.merge)(build(way, first), build(way, second)), way).clone()
    }

    /// How many items come of two.
    fn count(&self, way: &[Step], first: &Value, second: &Value) -> usize {
        self.merged(way, &json!([first]), &json!([second])).as_array().map_or(0, Vec::len)
    }

    fn list(&self, way: &[Step], items: View) -> Option<How> {
        if let (Some(first), Some(second)) = (scalar(items, false), scalar(items, true)) {
            let set = self.count(way, &first, &second) == 2 && self.count(way, &first, &first) == 1;
            return Some(if set { How::Set } else { How::Atomic });
        }
        let of = |second: bool| -> Map<String, Value> {
            // The types know what they are.
            let fields = items.fields().iter().filter(|f| !matches!(f.name.as_str(), "apiVersion" | "kind"));
            fields.filter_map(|f| Some((f.name.clone(), scalar(items.arena.view(f.node), second)?))).collect()
        };
        let (first, other) = (of(false), of(true));
        if first.is_empty() {
            return None;
        }
        if self.count(way, &json!(first), &json!(other)) == 1 {
            return Some(How::Atomic);
        }
        let keys = other.iter().filter(|(name, value)| {
            let mut changed = first.clone();
            changed.insert((*name).clone(), (*value).clone());
            self.count(way, &json!(first), &json!(changed)) == 2
        });
        Some(How::Keyed(keys.map(|(name, _)| name.clone()).collect()))
    }

    fn map(&self, way: &[Step], values: View) -> Option<How> {
        let (first, second) = match scalar(values, false) {
            Some(value) => (json!({"a": value}), json!({"b": value})),
            None if matches!(values.kind(), Kind::Object(_)) => (json!({"a": {}}), json!({"b": {}})),
            None if matches!(values.kind(), Kind::Array(_)) => (json!({"a": []}), json!({"b": []})),
            None => return None,
        };
        let both = self.merged(way, &first, &second).as_object().map_or(0, Map::len) == 2;
        Some(if both { How::Granular } else { How::Atomic })
    }

    fn compare(&mut self, way: &[Step], ours: How, published: Option<How>) {
        let Some(published) = published else { return };
        self.compared += 1;
        if ours != published {
            let words = way.iter().map(|step| match step {
                Step::Field(name) => name.clone(),
                Step::Item(_) | Step::Entry => "*".to_owned(),
            });
            let place = words.collect::<Vec<_>>().join(".");
            self.wrong.push(format!("{place}: ours is {ours:?}, the published {published:?}"));
        }
    }

    fn visit(&mut self, view: View, way: &[Step]) {
        let then = |step| [way, &[step]].concat();
        match view.kind() {
            Kind::Object(fields) => {
                // A definition is the same wherever it is.
                if !self.seen.insert(definition(view)) {
                    return;
                }
                for field in fields {
                    self.visit(view.arena.view(field.node), &then(Step::Field(field.name.clone())));
                }
            }
            Kind::Map(values) => {
                let values = view.arena.view(*values);
                let ours = if view.map_atomic() { How::Atomic } else { How::Granular };
                let published = self.map(way, values);
                let inside = ours == How::Granular;
                self.compare(way, ours, published);
                if inside {
                    self.visit(values, &then(Step::Entry));
                }
            }
            Kind::Array(items) => {
                let items = view.arena.view(*items);
                let published = self.list(way, items);
                let keys: BTreeSet<String> = view.map_keys().iter().cloned().collect();
                let merge_key = view.patch().map_or("", |patch| &patch.merge_key);
                let ours = match view.list_type() {
                    _ if !merge_key.is_empty() => How::Keyed([merge_key.to_owned()].into()),
                    ListType::Atomic => How::Atomic,
                    ListType::Set => How::Set,
                    ListType::Map => How::Keyed(keys.clone()),
                };
                self.compare(way, ours, published);
                if view.list_type() == ListType::Map {
                    let known = keys.into_iter().map(|key| {
                        let value = items.field(&key).and_then(|field| scalar(field, false));
                        (key, value.expect("keys are scalars"))
                    });
                    self.visit(items, &then(Step::Item(known.collect())));
                }
            }
            _ => {}
        }
    }
}

/// The node that a chain of references ends at.
fn definition(view: View) -> u32 {
    let mut id = view.id;
    while let Kind::Ref(next) = view.arena.node(id).kind {
        id = next;
    }
    id.0
}

#[test]
fn lists_and_maps_merge_as_published() {
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for resource in catalog().iter() {
        let known = KINDS.iter().find(|(definition, _)| *definition == resource.definition);
        let (_, merge) =
            known.unwrap_or_else(|| panic!("{} is not among the kinds of this test", resource.definition));
        let mut walk = Walk { merge: *merge, seen: BTreeSet::new(), wrong: Vec::new(), compared: 0 };
        walk.visit(resource.schema.view(), &[]);
        compared += walk.compared;
        wrong.extend(walk.wrong.into_iter().map(|line| format!("{}: {line}", resource.kind)));
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 500, "only {compared} lists and maps");
}
