//! Generates the schemas of the built-in kinds from k8s-openapi's `schemars` output, adds our own facts
//! (`src/facts/*.txt`), and leaves two compressed assets in `OUT_DIR`: structure for the request path and
//! descriptions for OpenAPI. Nothing generated is ever committed; the texts are upstream's.
//!
//! A fact that names a type or a field that does not exist fails the build.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
use k8s_openapi::schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

/// Marks fields whose objects are there even when nothing is in them.
const ALWAYS: &str = "x-always";

type Definitions = BTreeMap<String, Value>;

macro_rules! roots {
    ($generator:ident; $($kind:ty),+ $(,)?) => { $( $generator.subschema_for::<$kind>(); )+ };
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/facts");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut definitions = generate();
    add_lists(&mut definitions);
    for file in fact_files() {
        let text = std::fs::read_to_string(&file).expect("fact file is readable");
        apply_facts(&mut definitions, &file, &text);
    }
    let mut structure = String::new();
    let mut descriptions = String::new();
    for (name, schema) in &mut definitions {
        // In Go, metadata is always there; clients may leave it out.
        if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|field| field != "metadata");
        }
        describe_metadata(schema);
        mark_always(schema);
        let texts = take_descriptions(schema);
        structure.push_str(&format!("{}\n", json!([name, schema])));
        descriptions.push_str(&format!("{}\n", json!([name, texts])));
    }
    write_compressed(&out.join("structure.jsonl.z"), &structure);
    write_compressed(&out.join("descriptions.jsonl.z"), &descriptions);
}

/// Upstream says nothing about the metadata of a few kinds.
fn describe_metadata(schema: &mut Value) {
    if let Some(metadata) = schema.pointer_mut("/properties/metadata").and_then(Value::as_object_mut) {
        metadata.entry("description").or_insert_with(|| "Name, labels and the like of the object.".into());
    }
}

/// In Go, a kind holds its three parts by value: they are there even when nothing is in them.
fn mark_always(schema: &mut Value) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    if !["apiVersion", "kind", "metadata"].iter().all(|field| properties.contains_key(*field)) {
        return;
    }
    for part in ["metadata", "spec", "status"] {
        if let Some(property) = properties.get_mut(part).filter(|property| !property["$ref"].is_null()) {
            property[ALWAYS] = true.into();
        }
    }
}

fn generate() -> Definitions {
    let settings = SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/definitions".into());
    let mut generator = SchemaGenerator::new(settings);
    core_roots(&mut generator);
    group_roots(&mut generator);
    generator.take_definitions(false).into_iter().collect()
}

fn core_roots(generator: &mut SchemaGenerator) {
    use api::core::v1::*;
    roots!(generator; Binding, ComponentStatus, ConfigMap, Endpoints, Event, LimitRange, Namespace, Node,
        PersistentVolume, PersistentVolumeClaim, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret,
        Service, ServiceAccount);
    roots!(generator; meta::APIGroup, meta::APIGroupList, meta::APIResourceList, meta::APIVersions,
        meta::DeleteOptions, meta::LabelSelector, meta::ListMeta, meta::Patch, meta::Status,
        meta::WatchEvent<Value>);
}

fn group_roots(generator: &mut SchemaGenerator) {
    use api::{
        admissionregistration, apps, authentication, authorization, autoscaling, batch, certificates,
        coordination, discovery, events,
    };
    use api::{flowcontrol, networking, node, policy, rbac, resource, scheduling, storage, storagemigration};
    roots!(generator; admissionregistration::v1::MutatingAdmissionPolicy,
        admissionregistration::v1::MutatingAdmissionPolicyBinding, admissionregistration::v1::MutatingWebhookConfiguration,
        admissionregistration::v1::ValidatingAdmissionPolicy, admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        admissionregistration::v1::ValidatingWebhookConfiguration);
    roots!(generator; apps::v1::ControllerRevision, apps::v1::DaemonSet, apps::v1::Deployment,
        apps::v1::ReplicaSet, apps::v1::StatefulSet, autoscaling::v1::HorizontalPodAutoscaler, autoscaling::v1::Scale,
        autoscaling::v2::HorizontalPodAutoscaler, batch::v1::CronJob, batch::v1::Job,
        authentication::v1::SelfSubjectReview, authentication::v1::TokenRequest, authentication::v1::TokenReview,
        authorization::v1::LocalSubjectAccessReview, authorization::v1::SelfSubjectAccessReview,
        authorization::v1::SelfSubjectRulesReview, authorization::v1::SubjectAccessReview,
        certificates::v1::CertificateSigningRequest, certificates::v1::ClusterTrustBundle, coordination::v1::Lease, discovery::v1::EndpointSlice, events::v1::Event);
    roots!(generator; apiextensions::v1::CustomResourceDefinition, apiregistration::v1::APIService);
    roots!(generator; flowcontrol::v1::FlowSchema, flowcontrol::v1::PriorityLevelConfiguration);
    roots!(generator; networking::v1::IPAddress, networking::v1::Ingress, networking::v1::IngressClass,
        networking::v1::NetworkPolicy, networking::v1::ServiceCIDR, node::v1::RuntimeClass,
        policy::v1::Eviction, policy::v1::PodDisruptionBudget,
        resource::v1::DeviceClass, resource::v1::DeviceTaintRule, resource::v1::ResourceClaim,
        resource::v1::ResourceClaimTemplate, resource::v1::ResourceSlice,
        rbac::v1::ClusterRole, rbac::v1::ClusterRoleBinding, rbac::v1::Role, rbac::v1::RoleBinding,
        scheduling::v1::PriorityClass, storage::v1::CSIDriver, storage::v1::CSINode,
        storage::v1::CSIStorageCapacity, storage::v1::StorageClass, storage::v1::VolumeAttachment,
        storage::v1::VolumeAttributesClass, storagemigration::v1::StorageVersionMigration);
}

/// Adds the list kind of every object that has `metadata`: k8s-openapi's `List<T>` is generic and has no schema.
fn add_lists(definitions: &mut Definitions) {
    const SINGLE: [&str; 4] = ["Binding", "Scale", "TokenRequest", "Eviction"];
    let kinds: Vec<String> = definitions
        .iter()
        .filter(|(name, schema)| {
            !name.starts_with("io.k8s.apimachinery.")
                && !name.ends_with("Review")
                && !SINGLE.contains(&name.rsplit('.').next().unwrap_or(name))
                && ["apiVersion", "kind", "metadata"].iter().all(|f| !schema["properties"][f].is_null())
        })
        .map(|(name, _)| name.clone())
        .collect();
    for name in kinds {
        let text = |field: &str| definitions[&name]["properties"][field]["description"].clone();
        let list = json!({
            "description": format!("A list of {} objects.", name.rsplit('.').next().unwrap_or(&name)),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string", "description": text("apiVersion")},
                "kind": {"type": "string", "description": text("kind")},
                "items": {"type": "array", "items": {"$ref": format!("#/definitions/{name}")},
                    "description": "The objects."},
                "metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta",
                    "description": "Standard list metadata."},
            },
        });
        definitions.insert(format!("{name}List"), list);
    }
}

fn fact_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir("src/facts")
        .expect("src/facts is part of this crate")
        .map(|entry| entry.expect("src/facts is readable").path())
        .collect();
    files.sort();
    files
}

/// Each line is `Type.field fact...`, `Type atomic: field...` (lists), `Type always: field...` (objects that Go holds by
/// value) or `atomic types: Type...` (owned as a whole); a `[prefix]` line sets what precedes `Type`.
fn apply_facts(definitions: &mut Definitions, file: &Path, text: &str) {
    let mut prefix = String::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{}:{}: {line}", file.display(), number + 1);
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            prefix = section.to_owned();
        } else if let Some(kinds) = line.strip_prefix("atomic types:") {
            for kind in kinds.split_whitespace() {
                let target = definitions.get_mut(&format!("{prefix}.{kind}"));
                target.unwrap_or_else(|| panic!("{place}: no type {kind}"))["x-kubernetes-map-type"] =
                    "atomic".into();
            }
        } else if let Some((kind, fields)) = line.split_once(" atomic:") {
            for field in fields.split_whitespace() {
                let target = property(definitions, &format!("{prefix}.{kind}"), field, &place);
                target.insert("x-kubernetes-list-type".into(), "atomic".into());
            }
        } else if let Some((kind, fields)) = line.split_once(" always:") {
            for field in fields.split_whitespace() {
                let target = property(definitions, &format!("{prefix}.{kind}"), field, &place);
                target.insert(ALWAYS.into(), true.into());
            }
        } else {
            let (target, facts) = line.split_once(' ').unwrap_or_else(|| panic!("{place}: no fact"));
            let (kind, field) = target.split_once('.').unwrap_or_else(|| panic!("{place}: no field"));
            for fact in facts.split_whitespace() {
                apply_fact(definitions, &format!("{prefix}.{kind}"), field, fact, &place);
            }
        }
    }
}

fn property<'a>(
    definitions: &'a mut Definitions,
    kind: &str,
    field: &str,
    place: &str,
) -> &'a mut Map<String, Value> {
    let schema = definitions.get_mut(kind).unwrap_or_else(|| panic!("{place}: no type {kind}"));
    schema["properties"]
        .get_mut(field)
        .and_then(Value::as_object_mut)
        .unwrap_or_else(|| panic!("{place}: no field {field}"))
}

fn apply_fact(definitions: &mut Definitions, kind: &str, field: &str, fact: &str, place: &str) {
    if let Some(keys) = argument(fact, "map") {
        check_item_fields(definitions, kind, field, keys, place);
    }
    if let Some(key) = argument(fact, "merge") {
        check_item_fields(definitions, kind, field, key, place);
    }
    let target = property(definitions, kind, field, place);
    let mut set = |key: &str, value: Value| drop(target.insert(format!("x-kubernetes-{key}"), value));
    if let Some(keys) = argument(fact, "map") {
        set("list-type", "map".into());
        set("list-map-keys", keys.split(',').collect());
    } else if let Some(key) = argument(fact, "merge") {
        set("patch-strategy", "merge".into());
        set("patch-merge-key", key.into());
    } else if let Some(key) = argument(fact, "merge+retainKeys") {
        set("patch-strategy", "merge,retainKeys".into());
        set("patch-merge-key", key.into());
    } else if let Some(value) = argument(fact, "default") {
        let value = serde_json::from_str(value).unwrap_or_else(|e| panic!("{place}: default: {e}"));
        target.insert("default".into(), value);
    } else {
        match fact {
            "set" => set("list-type", "set".into()),
            "atomic" => set("list-type", "atomic".into()),
            "map-atomic" => set("map-type", "atomic".into()),
            "map-granular" => set("map-type", "granular".into()),
            "merge" => set("patch-strategy", "merge".into()),
            "retainKeys" => set("patch-strategy", "retainKeys".into()),
            "replace" => set("patch-strategy", "replace".into()),
            _ => panic!("{place}: unknown fact {fact}"),
        }
    }
}

fn argument<'a>(fact: &'a str, name: &str) -> Option<&'a str> {
    fact.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')
}

/// Merge keys must be fields of the list's items.
fn check_item_fields(definitions: &Definitions, kind: &str, field: &str, keys: &str, place: &str) {
    let item = &definitions[kind]["properties"][field]["items"]["$ref"];
    let item = item
        .as_str()
        .and_then(|r| r.strip_prefix("#/definitions/"))
        .unwrap_or_else(|| panic!("{place}: {field} is not a list of objects"));
    for key in keys.split(',') {
        assert!(!definitions[item]["properties"][key].is_null(), "{place}: {item} has no field {key}");
    }
}

/// Removes every `description`, and returns them: `""` is the type's own, others are by field.
fn take_descriptions(schema: &mut Value) -> Map<String, Value> {
    let mut texts = Map::new();
    let Some(object) = schema.as_object_mut() else { return texts };
    if let Some(text) = object.remove("description") {
        texts.insert(String::new(), text);
    }
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        for (name, property) in properties {
            if let Some(text) = property.as_object_mut().and_then(|p| p.remove("description")) {
                texts.insert(name.clone(), text);
            }
        }
    }
    texts
}

fn write_compressed(path: &Path, text: &str) {
    let file = std::fs::File::create(path).expect("OUT_DIR is writable");
    let mut encoder = flate2::write::DeflateEncoder::new(file, flate2::Compression::best());
    encoder.write_all(text.as_bytes()).expect("OUT_DIR is writable");
    encoder.finish().expect("OUT_DIR is writable");
}
