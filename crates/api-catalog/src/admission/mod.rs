//! `admissionregistration.k8s.io/v1`: whom the API server asks about a write before it is stored.
//!
//! Only what these objects look like; matching and asking is the API server's.

mod policy;
mod rule;
mod types;
pub(crate) mod webhook;

use std::sync::Arc;

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
    let configuration = |kind, plural, rules| Resource {
        categories: texts(&["api-extensions"]),
        has_generation: true,
        columns: webhooks.clone(),
        rules: Rules { allow_unconditional_update: false, ..rules },
        ..family.cluster_kind(kind, plural)
    };
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
    let policies = columns(&[
        ("Validations", "integer", 0, computed(|policy, _| count(&policy["spec"]["validations"]))),
        ("ParamKind", "string", 0, computed(|policy, _| policy::shown_kind(policy))),
        ("Age", "string", 0, Cell::Age),
    ]);
    let bindings = columns(&[
        ("PolicyName", "string", 0, Cell::Path(".spec.policyName".into())),
        ("ParamRef", "string", 0, computed(|binding, _| policy::shown_ref(binding))),
        ("Age", "string", 0, Cell::Age),
    ]);
    let policy_rules = Rules {
        default: policy::default_policy,
        validate: policy::validate_policy,
        prepare_create: types::prepare_create,
        prepare_update: types::prepare_update,
        ..Rules::default()
    };
    let binding_rules =
        Rules { default: policy::default_binding, validate: policy::validate_binding, ..Rules::default() };
    let mutations = columns(&[
        ("Mutations", "integer", 0, computed(|policy, _| count(&policy["spec"]["mutations"]))),
        ("ParamKind", "string", 0, computed(|policy, _| policy::shown_kind(policy))),
        ("Age", "string", 0, Cell::Age),
    ]);
    let mutating_policy_rules = Rules {
        default: policy::default_policy,
        validate: policy::validate_mutating_policy,
        ..Rules::default()
    };
    let mutating_binding_rules = Rules {
        default: policy::default_binding,
        validate: policy::validate_mutating_binding,
        ..Rules::default()
    };
    vec![
        Resource {
            columns: mutations,
            ..configuration("MutatingAdmissionPolicy", "mutatingadmissionpolicies", mutating_policy_rules)
        },
        Resource {
            columns: bindings.clone(),
            ..configuration(
                "MutatingAdmissionPolicyBinding",
                "mutatingadmissionpolicybindings",
                mutating_binding_rules,
            )
        },
        configuration("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", mutating),
        Resource {
            subresources: with_status(),
            columns: policies,
            ..configuration("ValidatingAdmissionPolicy", "validatingadmissionpolicies", policy_rules)
        },
        Resource {
            columns: bindings,
            ..configuration(
                "ValidatingAdmissionPolicyBinding",
                "validatingadmissionpolicybindings",
                binding_rules,
            )
        },
        configuration("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", validating),
    ]
}

fn count(list: &Value) -> Value {
    list.as_array().map_or(0, Vec::len).into()
}
