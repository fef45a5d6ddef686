//! `admissionregistration.k8s.io/v1`: whom the API server asks about a write before it is stored.
//!
//! Only what these objects look like; matching and asking is the API server's.

mod policy;
mod rule;
mod types;
pub(crate) mod webhook;

use std::sync::Arc;

use api_machinery::field::Errors;
use api_machinery::resource::{Cell, Resource, Rules};
use api_machinery::schema::Arena;
use jiff::Timestamp;
use serde_json::Value;

use crate::entry::{Family, columns, computed, texts, with_status};

const GROUP: &str = "admissionregistration.k8s.io";

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let package = "io.k8s.api.admissionregistration.v1";
    let family = Family { arena, group: GROUP, version: "v1", package };
    let webhooks = columns(&[
        ("Webhooks", "integer", 0, computed(|object, _: Timestamp| count(&object["webhooks"]))),
        ("Age", "string", 0, Cell::Age),
    ]);
    let mutating = Rules {
        default: webhook::default_mutating,
        validate: webhook::validate_mutating,
        ..Rules::default()
    };
    let validating = Rules {
        default: webhook::default_validating,
        validate: webhook::validate_validating,
        ..Rules::default()
    };
    let mut all = policies(&family);
    all.extend([
        Resource {
            columns: webhooks.clone(),
            ..configuration(
                &family,
                "MutatingWebhookConfiguration",
                "mutatingwebhookconfigurations",
                mutating,
            )
        },
        Resource {
            columns: webhooks,
            ..configuration(
                &family,
                "ValidatingWebhookConfiguration",
                "validatingwebhookconfigurations",
                validating,
            )
        },
    ]);
    all
}

fn configuration(family: &Family, kind: &'static str, plural: &'static str, rules: Rules) -> Resource {
    Resource {
        categories: texts(&["api-extensions"]),
        has_generation: true,
        rules: Rules { allow_unconditional_update: false, ..rules },
        ..family.cluster_kind(kind, plural)
    }
}

/// Policies and bindings. Those that refuse say in their status whether they fit what they are about.
fn policies(family: &Family) -> Vec<Resource> {
    let shown = |what, cell| {
        columns(&[
            (what, "integer", 0, cell),
            ("ParamKind", "string", 0, computed(|policy, _| policy::shown_kind(policy))),
            ("Age", "string", 0, Cell::Age),
        ])
    };
    let policy = |kind, plural, validate: fn(&Value, &mut Errors)| {
        let rules = Rules { default: policy::default_policy, validate, ..Rules::default() };
        configuration(family, kind, plural, rules)
    };
    let binding = |kind, plural, validate: fn(&Value, &mut Errors)| {
        let rules = Rules { default: policy::default_binding, validate, ..Rules::default() };
        let columns = columns(&[
            ("PolicyName", "string", 0, Cell::Path(".spec.policyName".into())),
            ("ParamRef", "string", 0, computed(|binding, _| policy::shown_ref(binding))),
            ("Age", "string", 0, Cell::Age),
        ]);
        Resource { columns, ..configuration(family, kind, plural, rules) }
    };
    let mutating =
        policy("MutatingAdmissionPolicy", "mutatingadmissionpolicies", policy::validate_mutating_policy);
    let validating =
        policy("ValidatingAdmissionPolicy", "validatingadmissionpolicies", policy::validate_policy);
    vec![
        Resource {
            columns: shown("Mutations", computed(|policy, _| count(&policy["spec"]["mutations"]))),
            ..mutating
        },
        binding(
            "MutatingAdmissionPolicyBinding",
            "mutatingadmissionpolicybindings",
            policy::validate_mutating_binding,
        ),
        Resource {
            subresources: with_status(),
            columns: shown("Validations", computed(|policy, _| count(&policy["spec"]["validations"]))),
            rules: Rules {
                prepare_create: types::prepare_create,
                prepare_update: types::prepare_update,
                ..validating.rules
            },
            ..validating
        },
        binding(
            "ValidatingAdmissionPolicyBinding",
            "validatingadmissionpolicybindings",
            policy::validate_binding,
        ),
    ]
}

fn count(list: &Value) -> Value {
    list.as_array().map_or(0, Vec::len).into()
}
