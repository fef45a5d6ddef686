//! When a namespace gets its ServiceAccount.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use serde_json::{Value, json};

use super::plan;

#[test]
fn an_active_namespace_without_a_default_account_gets_one() {
    let active = json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}});
    let fresh = json!({"metadata": {"name": "a"}});
    let deleted = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let terminating = json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}});
    let cases: [(Option<Value>, bool, bool); 6] = [
        (Some(active.clone()), false, true),
        (Some(fresh), false, true),
        (Some(active), true, false),
        (Some(deleted), false, false),
        (Some(terminating), false, false),
        (None, false, false),
    ];
    for (namespace, known, expected) in cases {
        let parsed: Option<Namespace> = namespace.clone().map(|value| serde_json::from_value(value).unwrap());
        let known = known.then(ServiceAccount::default);
        let missing = plan::missing(parsed.as_ref(), known.as_ref());
        assert_eq!(missing.is_some(), expected, "{namespace:?}, known: {known:?}");
        if let Some(account) = missing {
            assert_eq!(account.metadata.name.as_deref(), Some("default"));
            assert_eq!(account.metadata.namespace.as_deref(), Some("a"));
        }
    }
}
