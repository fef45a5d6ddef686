//! CustomResourceDefinitions as objects: what one must look like. What one defines is [`crate::custom`]'s.
//!
//! Conditions and accepted names are written by the server that serves what is defined; nothing here looks at other
//! definitions.

mod conversion;
mod definition;
mod schema;
mod structural;
mod version;

use std::sync::Arc;

use api_machinery::resource::{Cell, Resource, Rules, drop_status, keep_status};
use api_machinery::schema::Arena;
use serde_json::{Value, json};

use crate::entry::{Family, columns, texts, with_status};
use crate::fill::{Fill, fill, object_at, remove, set_if_absent, text};

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let package = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
    let family = Family { arena, group: "apiextensions.k8s.io", version: "v1", package };
    vec![Resource {
        short_names: texts(&["crd", "crds"]),
        categories: texts(&["api-extensions"]),
        subresources: with_status(),
        has_generation: true,
        columns: columns(&[("Created At", "date", 0, Cell::Path(".metadata.creationTimestamp".into()))]),
        rules: Rules {
            default,
            validate_create: definition::validate_create,
            validate_update: definition::validate_update,
            validate_status_update: definition::validate_status_update,
            prepare_create: |definition| {
                drop_status(definition);
                note_stored(definition);
            },
            prepare_update: |new, old| {
                keep_status(new, old);
                default(new);
                note_stored(new);
            },
            cleanup: Some("customresourcecleanup.apiextensions.k8s.io"),
            allow_unconditional_update: false,
            ..Rules::default()
        },
        ..family.cluster_kind("CustomResourceDefinition", "customresourcedefinitions")
    }]
}

fn default(definition: &mut Value) {
    let Some(spec) = definition.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    let kind = text(&spec["names"], "kind").to_owned();
    if let Some(names) = spec.get_mut("names").filter(|names| names.is_object() && !kind.is_empty()) {
        for (field, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
            if text(names, field).is_empty() {
                names[field] = value.into();
            }
        }
    }
    if spec["preserveUnknownFields"] == false {
        remove(spec, "preserveUnknownFields");
    }
    let Some(conversion) = object_at(spec, &["conversion"]) else { return };
    set_if_absent(conversion, "strategy", "None");
    if let Some(service) = conversion.pointer_mut("/webhook/clientConfig/service") {
        fill(service, &[("port", Fill::Int(443))]);
    }
}

/// The version that is stored from here on is one of those that were.
fn note_stored(definition: &mut Value) {
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let stored = versions.clone().find(|version| version["storage"] == true);
    let Some(stored) = stored.and_then(|version| version["name"].as_str()).map(str::to_owned) else { return };
    if !definition["status"].is_object() {
        definition["status"] = json!({});
    }
    let status = &mut definition["status"];
    if !status["storedVersions"].is_array() {
        status["storedVersions"] = json!([]);
    }
    if let Some(known) = status["storedVersions"].as_array_mut()
        && !known.iter().any(|known| known == stored.as_str())
    {
        known.push(stored.into());
    }
}
