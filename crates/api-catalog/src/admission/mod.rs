//! `admissionregistration.k8s.io/v1`: whom the API server asks about a write before it is stored.
//!
//! Only what these objects look like; matching and asking is the API server's.

mod rule;
mod webhook;

use std::sync::Arc;

use api_machinery::resource::{Cell, Resource, Rules};
use api_machinery::schema::Arena;
use jiff::Timestamp;
use serde_json::Value;

use crate::entry::{Family, columns, computed, texts};

const GROUP: &str = "admissionregistration.k8s.io";

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let package = "io.k8s.api.admissionregistration.v1";
    let family = Family { arena, group: GROUP, version: "v1", package };
    let webhooks = columns(&[
        (
            "Webhooks",
            "integer",
            0,
            computed(|object, _: Timestamp| Value::from(webhook::all(object).count())),
        ),
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
    vec![
        configuration("MutatingWebhookConfiguration", "mutatingwebhookconfigurations", mutating),
        configuration("ValidatingWebhookConfiguration", "validatingwebhookconfigurations", validating),
    ]
}
