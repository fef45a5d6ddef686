//! `resource.k8s.io/v1`: devices that drivers offer, and claims of them.
//!
//! Fields behind feature gates that are off in this version are dropped, as upstream drops them. Admission says
//! when a taint was added, and whether a namespace lets its claims ask for administrative access.

mod capacity;
mod claim;
mod selector;
mod shared;
mod slice;

use std::sync::Arc;

use api_machinery::meta;
use api_machinery::resource::{Cell, Resource, Rules, drop_status, keep_status};
use api_machinery::schema::Arena;
use jiff::Timestamp;
use serde_json::Value;

use crate::entry::{Family, columns, computed, selectable, with_status};
use crate::fill::{Fill, each_mut, fill, remove};

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let family = Family { arena, group: "resource.k8s.io", version: "v1", package: "io.k8s.api.resource.v1" };
    vec![class(&family), taint_rule(&family), claim(&family), template(&family), slice(&family)]
}

fn class(family: &Family) -> Resource {
    Resource {
        has_generation: true,
        rules: Rules {
            validate_create: claim::new_class,
            validate_update: claim::class_update,
            ..Rules::default()
        },
        ..family.cluster_kind("DeviceClass", "deviceclasses")
    }
}

fn taint_rule(family: &Family) -> Resource {
    Resource {
        has_generation: true,
        subresources: with_status(),
        rules: Rules {
            validate: slice::taint_rule,
            validate_status_update: slice::taint_rule_status,
            ..Rules::default()
        },
        ..family.cluster_kind("DeviceTaintRule", "devicetaintrules")
    }
}

fn claim(family: &Family) -> Resource {
    Resource {
        subresources: with_status(),
        columns: columns(&[("State", "string", 0, computed(state)), ("Age", "string", 0, Cell::Age)]),
        rules: Rules {
            default: |claim| claim_defaults(claim.get_mut("spec")),
            prepare_create: |claim| {
                drop_status(claim);
                drop_from_claim(claim.get_mut("spec"));
            },
            prepare_update: |new, old| {
                keep_status(new, old);
                drop_from_claim(new.get_mut("spec"));
            },
            validate_create: claim::new_claim,
            validate_update: claim::fixed_spec,
            validate_status_update: claim::claim_status,
            ..Rules::default()
        },
        ..family.kind("ResourceClaim", "resourceclaims")
    }
}

fn template(family: &Family) -> Resource {
    Resource {
        rules: Rules {
            default: |template| claim_defaults(template.pointer_mut("/spec/spec")),
            prepare_create: |template| drop_from_claim(template.pointer_mut("/spec/spec")),
            prepare_update: |new, _| drop_from_claim(new.pointer_mut("/spec/spec")),
            validate_create: claim::new_template,
            validate_update: claim::fixed_spec,
            ..Rules::default()
        },
        ..family.kind("ResourceClaimTemplate", "resourceclaimtemplates")
    }
}

fn slice(family: &Family) -> Resource {
    Resource {
        has_generation: true,
        selectable: selectable(&["spec.nodeName", "spec.driver"]),
        columns: columns(&[
            ("Node", "string", 0, Cell::Path(".spec.nodeName".into())),
            ("Driver", "string", 0, Cell::Path(".spec.driver".into())),
            ("Pool", "string", 0, Cell::Path(".spec.pool.name".into())),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            prepare_create: drop_from_slice,
            prepare_update: |new, _| drop_from_slice(new),
            validate_create: |slice, e| slice::slice(slice, None, e),
            validate_update: |new, old, e| slice::slice(new, Some(old), e),
            ..Rules::default()
        },
        ..family.cluster_kind("ResourceSlice", "resourceslices")
    }
}

fn state(claim: &Value, _: Timestamp) -> Value {
    let deleted = meta::deletion_timestamp(claim).is_some();
    let status = &claim["status"];
    let reserved = status["reservedFor"].as_array().is_some_and(|users| !users.is_empty());
    let words: &[&str] = match (deleted, status["allocation"].is_object(), reserved) {
        (true, false, _) => &["deleted"],
        (true, true, false) => &["deleted", "allocated"],
        (true, true, true) => &["deleted", "allocated", "reserved"],
        (false, false, _) => &["pending"],
        (false, true, false) => &["allocated"],
        (false, true, true) => &["allocated", "reserved"],
    };
    Value::from(words.join(","))
}

/// The requests of a claim that ask for devices: each, or the alternatives of one.
fn requests(spec: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    let devices = spec.and_then(|spec| spec.get_mut("devices"));
    let requests = devices.into_iter().flat_map(|devices| each_mut(devices, "requests"));
    requests.flat_map(|request| {
        let fields = request.as_object_mut().into_iter().flatten();
        fields.flat_map(|(name, value)| match (name.as_str(), value) {
            ("exactly", exactly) => std::slice::from_mut(exactly).iter_mut(),
            ("firstAvailable", Value::Array(alternatives)) => alternatives.iter_mut(),
            _ => [].iter_mut(),
        })
    })
}

fn claim_defaults(spec: Option<&mut Value>) {
    for request in requests(spec) {
        fill(request, &[("allocationMode", Fill::Text("ExactCount"))]);
        if request["allocationMode"] == "ExactCount" {
            fill(request, &[("count", Fill::NonZero(1))]);
        }
        for toleration in each_mut(request, "tolerations") {
            fill(toleration, &[("operator", Fill::Text("Equal"))]);
        }
    }
}

fn drop_from_claim(spec: Option<&mut Value>) {
    for request in requests(spec) {
        remove(request, "derivedAttributes");
    }
}

fn drop_from_slice(slice: &mut Value) {
    let Some(spec) = slice.get_mut("spec") else { return };
    remove(spec, "partitionTypeAttribute");
    remove(spec, "skipNodeOperations");
    for device in each_mut(spec, "devices") {
        remove(device, "nodeAllocatableResources");
        for consumption in each_mut(device, "consumesCounters") {
            remove(consumption, "compatibilityGroups");
        }
        let attributes = device.get_mut("attributes").and_then(Value::as_object_mut);
        for (_, attribute) in attributes.into_iter().flatten() {
            for list in ["bools", "ints", "strings", "versions"] {
                remove(attribute, list);
            }
        }
    }
}
