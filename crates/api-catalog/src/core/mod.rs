//! Core kinds, `v1` without a group. One entry per resource; rules of each are in the module of its name.

mod config;
mod endpoints;
pub(crate) mod event;
mod namespace;
mod node;
pub(crate) mod pod;
mod quota;
mod service;
mod volume;

use std::sync::Arc;

use api_machinery::resource::{
    Cell, Propagation, Resource, Rules, Scope, Subresources, Verb, Verbs, drop_status,
};
use api_machinery::schema::Arena;

use crate::entry::{
    Family, columns, computed, selectable, selectable_flag, subresource, texts, with_scale, with_status,
};

const GET: Verbs = Verbs::of(&[Verb::Get]);
const CONNECT: Verbs = Verbs::of(&[Verb::Create, Verb::Get]);
const PROXY: Verbs = Verbs::of(&[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update]);

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let v1 = Family { arena, group: "", version: "v1", package: "io.k8s.api.core.v1" };
    let mut all = vec![binding(&v1), endpoints(&v1), event(&v1), limit_range(&v1), namespace(&v1), node(&v1)];
    all.extend(config_entries(&v1));
    all.extend(volume_entries(&v1));
    all.extend([pod(&v1), pod_template(&v1), replication_controller(&v1), resource_quota(&v1), service(&v1)]);
    all.sort_by(|a, b| a.plural.cmp(&b.plural));
    all
}

fn binding(v1: &Family) -> Resource {
    Resource {
        verbs: Verbs::CREATE,
        storage: api_machinery::resource::Storage::Review,
        rules: Rules { validate: pod::binding::validate, prepare_create: |_| {}, ..Rules::default() },
        ..v1.kind("Binding", "bindings")
    }
}

fn endpoints(v1: &Family) -> Resource {
    Resource {
        short_names: texts(&["ep"]),
        singular: "endpoints".into(),
        columns: columns(&[
            ("Endpoints", "string", 0, computed(endpoints::summary)),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            default: endpoints::default,
            validate: endpoints::validate,
            allow_create_on_update: true,
            ..Rules::default()
        },
        ..v1.kind("Endpoints", "endpoints")
    }
}

fn event(v1: &Family) -> Resource {
    Resource {
        short_names: texts(&["ev"]),
        columns: event::table(),
        selectable: event::selectable(),
        rules: Rules {
            validate: event::validate,
            validate_update: event::validate_update,
            allow_create_on_update: true,
            ..Rules::default()
        },
        ..v1.kind("Event", "events")
    }
}

fn limit_range(v1: &Family) -> Resource {
    Resource {
        short_names: texts(&["limits"]),
        columns: columns(&[("Created At", "date", 0, Cell::Path(".metadata.creationTimestamp".into()))]),
        rules: Rules {
            default: quota::limit_range_defaults,
            validate: quota::validate_limit_range,
            allow_create_on_update: true,
            ..Rules::default()
        },
        ..v1.kind("LimitRange", "limitranges")
    }
}

fn namespace(v1: &Family) -> Resource {
    let verbs = [Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];
    Resource {
        short_names: texts(&["ns"]),
        scope: Scope::Cluster,
        verbs: Verbs::of(&verbs),
        subresources: Subresources {
            others: vec![subresource("finalize", ("", "v1", "Namespace"), Verbs::of(&[Verb::Update]))],
            ..with_status()
        },
        columns: columns(&[
            ("Status", "string", 0, Cell::Path(".status.phase".into())),
            ("Age", "string", 0, Cell::Age),
        ]),
        selectable: selectable(&["status.phase"]),
        rules: Rules {
            default: namespace::default,
            validate: namespace::validate,
            validate_status_update: namespace::validate_status_update,
            prepare_create: namespace::prepare_create,
            prepare_update: namespace::prepare_update,
            prepare_status: namespace::prepare_status,
            name: api_machinery::names::dns_label_name,
            ..Rules::default()
        },
        ..v1.kind("Namespace", "namespaces")
    }
}

fn node(v1: &Family) -> Resource {
    Resource {
        short_names: texts(&["no"]),
        scope: Scope::Cluster,
        subresources: Subresources {
            others: vec![subresource("proxy", ("", "v1", "NodeProxyOptions"), PROXY)],
            ..with_status()
        },
        columns: node::table(),
        selectable: vec![selectable_flag("spec.unschedulable")],
        rules: Rules {
            default: node::default,
            validate: node::validate,
            validate_update: node::validate_update,
            validate_status_update: node::validate_status_update,
            // A kubelet registers with its status.
            prepare_create: |_| {},
            ..Rules::default()
        },
        ..v1.kind("Node", "nodes")
    }
}

fn config_entries(v1: &Family) -> [Resource; 3] {
    let config_map = Resource {
        short_names: texts(&["cm"]),
        columns: columns(&[
            ("Data", "string", 0, computed(config::config_map_size)),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            validate: config::validate_config_map,
            validate_update: config::validate_config_map_update,
            prepare_create: |_| {},
            prepare_update: |_, _| {},
            ..Rules::default()
        },
        ..v1.kind("ConfigMap", "configmaps")
    };
    let secret = Resource {
        columns: columns(&[
            ("Type", "string", 0, Cell::Path(".type".into())),
            ("Data", "string", 0, computed(config::secret_size)),
            ("Age", "string", 0, Cell::Age),
        ]),
        selectable: selectable(&["type"]),
        rules: Rules {
            default: config::secret_defaults,
            validate: config::validate_secret,
            validate_update: config::validate_secret_update,
            prepare_create: |_| {},
            prepare_update: config::prepare_secret_update,
            ..Rules::default()
        },
        ..v1.kind("Secret", "secrets")
    };
    let token = ("authentication.k8s.io", "v1", "TokenRequest");
    let service_account = Resource {
        short_names: texts(&["sa"]),
        subresources: Subresources {
            others: vec![subresource("token", token, Verbs::CREATE)],
            ..Subresources::default()
        },
        columns: columns(&[
            ("Secrets", "string", 0, computed(config::service_account_secrets)),
            ("Age", "string", 0, Cell::Age),
        ]),
        ..v1.kind("ServiceAccount", "serviceaccounts")
    };
    [config_map, secret, service_account]
}

fn volume_entries(v1: &Family) -> [Resource; 2] {
    let claim = Resource {
        short_names: texts(&["pvc"]),
        subresources: with_status(),
        columns: volume::claim_table(),
        rules: Rules {
            default: volume::claim_defaults,
            validate: volume::validate_claim,
            validate_update: volume::validate_claim_update,
            prepare_create: volume::prepare_claim_create,
            ..Rules::default()
        },
        ..v1.kind("PersistentVolumeClaim", "persistentvolumeclaims")
    };
    let volume = Resource {
        short_names: texts(&["pv"]),
        scope: Scope::Cluster,
        subresources: with_status(),
        columns: volume::volume_table(),
        rules: Rules {
            default: volume::volume_defaults,
            validate: volume::validate_volume,
            validate_update: volume::validate_volume_update,
            prepare_create: volume::prepare_volume_create,
            ..Rules::default()
        },
        ..v1.kind("PersistentVolume", "persistentvolumes")
    };
    [claim, volume]
}

fn pod(v1: &Family) -> Resource {
    let others = vec![
        subresource("attach", ("", "v1", "PodAttachOptions"), CONNECT),
        subresource("binding", ("", "v1", "Binding"), Verbs::CREATE),
        subresource("ephemeralcontainers", ("", "v1", "Pod"), Verbs::GET_PATCH_UPDATE),
        subresource("eviction", ("policy", "v1", "Eviction"), Verbs::CREATE),
        subresource("exec", ("", "v1", "PodExecOptions"), CONNECT),
        subresource("log", ("", "v1", "Pod"), GET),
        subresource("portforward", ("", "v1", "PodPortForwardOptions"), CONNECT),
        subresource("proxy", ("", "v1", "PodProxyOptions"), PROXY),
        subresource("resize", ("", "v1", "Pod"), Verbs::GET_PATCH_UPDATE),
    ];
    Resource {
        short_names: texts(&["po"]),
        categories: texts(&["all"]),
        subresources: Subresources { others, ..with_status() },
        has_generation: true,
        columns: pod::columns::table(),
        selectable: pod::selectable(),
        rules: pod::rules(),
        ..v1.kind("Pod", "pods")
    }
}

fn pod_template(v1: &Family) -> Resource {
    Resource {
        has_generation: true,
        columns: columns(&[
            (
                "Containers",
                "string",
                0,
                computed(|o, _| crate::print::container_names(&o["template"]["spec"])),
            ),
            ("Images", "string", 0, computed(|o, _| crate::print::images(&o["template"]["spec"]))),
            (
                "Pod Labels",
                "string",
                0,
                computed(|o, _| crate::print::labels(&o["template"]["metadata"]["labels"])),
            ),
        ]),
        rules: Rules {
            default: |object| {
                if let Some(template) = object.get_mut("template") {
                    pod::defaults::template(template);
                }
            },
            validate: |object, e| {
                let root = crate::at::At::root(object);
                pod::validate::template(&root.get("template"), e);
            },
            allow_create_on_update: true,
            ..Rules::default()
        },
        ..v1.kind("PodTemplate", "podtemplates")
    }
}

fn replication_controller(v1: &Family) -> Resource {
    Resource {
        short_names: texts(&["rc"]),
        categories: texts(&["all"]),
        subresources: with_scale(),
        has_generation: true,
        columns: crate::apps::replica_set::table(),
        selectable: selectable(&["status.replicas"]),
        rules: Rules {
            default: crate::apps::replica_set::controller_defaults,
            validate: crate::apps::replica_set::validate_controller,
            validate_status_update: crate::apps::replica_set::validate_status,
            prepare_create: crate::apps::empty_replica_status,
            propagation: Propagation::Orphan,
            ..Rules::default()
        },
        ..v1.kind("ReplicationController", "replicationcontrollers")
    }
}

fn resource_quota(v1: &Family) -> Resource {
    Resource {
        short_names: texts(&["quota"]),
        subresources: with_status(),
        columns: quota::table(),
        rules: Rules {
            validate: quota::validate_quota,
            validate_update: quota::validate_quota_update,
            prepare_create: drop_status,
            allow_create_on_update: true,
            ..Rules::default()
        },
        ..v1.kind("ResourceQuota", "resourcequotas")
    }
}

fn service(v1: &Family) -> Resource {
    Resource {
        short_names: texts(&["svc"]),
        categories: texts(&["all"]),
        subresources: Subresources {
            others: vec![subresource("proxy", ("", "v1", "ServiceProxyOptions"), PROXY)],
            ..with_status()
        },
        columns: service::table(),
        selectable: selectable(&["spec.clusterIP", "spec.type"]),
        rules: Rules {
            default: service::default,
            validate: service::validate,
            validate_update: service::validate_update,
            prepare_create: service::prepare_create,
            prepare_update: service::prepare_update,
            name: api_machinery::names::dns_label_name,
            ..Rules::default()
        },
        ..v1.kind("Service", "services")
    }
}

pub(crate) use endpoints::endpoint_ip;
pub(crate) use volume::{claim_spec, driver_name, inline_volume};

/// Defaults of a volume claim template.
pub(crate) fn volume_claim_defaults(claim: &mut serde_json::Value) {
    volume::claim_defaults(claim);
}
