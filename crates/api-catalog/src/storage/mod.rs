//! `storage.k8s.io/v1`: classes, drivers and attachments of volumes.

mod validate;

use std::sync::Arc;

use api_machinery::resource::{Cell, Resource, Rules};
use api_machinery::schema::Arena;
use jiff::Timestamp;
use serde_json::Value;

use crate::entry::{Family, columns, computed, texts, with_status};
use crate::fill::{Fill, fill, get, object_at, text};

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let family = Family { arena, group: "storage.k8s.io", version: "v1", package: "io.k8s.api.storage.v1" };
    vec![
        driver(&family),
        node(&family),
        capacity(&family),
        class(&family),
        attachment(&family),
        attributes_class(&family),
    ]
}

fn driver(family: &Family) -> Resource {
    let flag = |field: &'static str| Cell::Path(format!(".spec.{field}").into());
    Resource {
        columns: columns(&[
            ("AttachRequired", "boolean", 0, flag("attachRequired")),
            ("PodInfoOnMount", "boolean", 0, flag("podInfoOnMount")),
            ("StorageCapacity", "boolean", 0, flag("storageCapacity")),
            ("TokenRequests", "string", 0, computed(token_requests)),
            ("RequiresRepublish", "boolean", 0, flag("requiresRepublish")),
            ("Modes", "string", 0, computed(|d, _| crate::print::joined(modes(d).into_iter()))),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            default: driver_defaults,
            validate: validate::driver,
            validate_update: validate::driver_update,
            ..Rules::default()
        },
        ..family.cluster_kind("CSIDriver", "csidrivers")
    }
}

fn modes(driver: &Value) -> Vec<&str> {
    driver["spec"]["volumeLifecycleModes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

fn token_requests(driver: &Value, _: Timestamp) -> Value {
    let requests = driver["spec"]["tokenRequests"].as_array().map(Vec::as_slice).unwrap_or(&[]);
    match requests {
        [] => Value::from("<unset>"),
        all => crate::print::joined(all.iter().map(|request| text(request, "audience"))),
    }
}

fn driver_defaults(driver: &mut Value) {
    let Some(spec) = object_at(driver, &["spec"]) else { return };
    fill(
        spec,
        &[
            ("attachRequired", Fill::Flag(true)),
            ("podInfoOnMount", Fill::Flag(false)),
            ("storageCapacity", Fill::Flag(false)),
            ("fsGroupPolicy", Fill::Text("ReadWriteOnceWithFSType")),
            ("requiresRepublish", Fill::Flag(false)),
            ("seLinuxMount", Fill::Flag(false)),
        ],
    );
    if spec["volumeLifecycleModes"].as_array().is_none_or(Vec::is_empty) {
        crate::fill::set(spec, "volumeLifecycleModes", serde_json::json!(["Persistent"]));
    }
}

fn node(family: &Family) -> Resource {
    Resource {
        columns: columns(&[
            (
                "Drivers",
                "integer",
                0,
                computed(|n, _| Value::from(n["spec"]["drivers"].as_array().map_or(0, Vec::len))),
            ),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules { validate: validate::node, validate_update: validate::node_update, ..Rules::default() },
        ..family.cluster_kind("CSINode", "csinodes")
    }
}

fn capacity(family: &Family) -> Resource {
    Resource {
        columns: columns(&[
            ("StorageClassName", "string", 0, Cell::Path(".storageClassName".into())),
            (
                "Capacity",
                "string",
                0,
                computed(|c, _| get(c, "capacity").cloned().unwrap_or(Value::from("<unset>"))),
            ),
        ]),
        rules: Rules {
            validate: validate::capacity,
            validate_update: validate::capacity_update,
            ..Rules::default()
        },
        ..family.kind("CSIStorageCapacity", "csistoragecapacities")
    }
}

const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

fn class(family: &Family) -> Resource {
    let mut all = columns(&[
        ("Provisioner", "string", 0, Cell::Path(".provisioner".into())),
        ("ReclaimPolicy", "string", 0, computed(|c, _| or(c, "reclaimPolicy", "Delete"))),
        ("VolumeBindingMode", "string", 0, computed(|c, _| or(c, "volumeBindingMode", "Immediate"))),
        (
            "AllowVolumeExpansion",
            "string",
            0,
            computed(|c, _| Value::from(c["allowVolumeExpansion"] == true)),
        ),
        ("Age", "string", 0, Cell::Age),
    ]);
    all[0].cell = computed(|class, _| {
        let name = api_machinery::meta::name(class);
        match api_machinery::meta::annotation(class, DEFAULT_CLASS) {
            Some("true") => Value::from(format!("{name} (default)")),
            _ => Value::from(name),
        }
    });
    Resource {
        short_names: texts(&["sc"]),
        columns: all,
        rules: Rules {
            default: |class| {
                fill(
                    class,
                    &[
                        ("reclaimPolicy", Fill::Text("Delete")),
                        ("volumeBindingMode", Fill::Text("Immediate")),
                    ],
                );
            },
            validate: validate::class,
            validate_update: validate::class_update,
            ..Rules::default()
        },
        ..family.cluster_kind("StorageClass", "storageclasses")
    }
}

fn or(object: &Value, field: &str, default: &'static str) -> Value {
    Value::from(if text(object, field).is_empty() { default } else { text(object, field) })
}

fn attachment(family: &Family) -> Resource {
    Resource {
        subresources: with_status(),
        columns: columns(&[
            ("Attacher", "string", 0, Cell::Path(".spec.attacher".into())),
            ("PV", "string", 0, Cell::Path(".spec.source.persistentVolumeName".into())),
            ("Node", "string", 0, Cell::Path(".spec.nodeName".into())),
            ("Attached", "boolean", 0, computed(|a, _| Value::from(a["status"]["attached"] == true))),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            validate: validate::attachment,
            validate_create: validate::new_attachment,
            validate_update: validate::attachment_update,
            ..Rules::default()
        },
        ..family.cluster_kind("VolumeAttachment", "volumeattachments")
    }
}

fn attributes_class(family: &Family) -> Resource {
    Resource {
        short_names: texts(&["vac"]),
        columns: columns(&[
            ("DriverName", "string", 0, Cell::Path(".driverName".into())),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            validate: validate::attributes_class,
            validate_update: |new, old, e| validate::fixed(new, old, &["driverName", "parameters"], e),
            ..Rules::default()
        },
        ..family.cluster_kind("VolumeAttributesClass", "volumeattributesclasses")
    }
}
