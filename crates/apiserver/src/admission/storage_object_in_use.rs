//! StorageObjectInUseProtection: volumes, claims and classes of attributes are made with a finalizer, so that they stay while
//! they are in use.
//! Who takes it away is a controller.

use serde_json::{Value, json};

use super::{created, list_mut};
use crate::types::AdmissionRequest;

/// What is held, and by which finalizer.
const HELD: [(&str, &str); 3] = [
    ("persistentvolumes", "kubernetes.io/pv-protection"),
    ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("volumeattributesclasses", "kubernetes.io/vac-protection"),
];

/// Adds the finalizer.
pub fn admit(request: &mut AdmissionRequest<'_>) {
    for (plural, finalizer) in HELD {
        let Some(object) = created(request, plural) else { continue };
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        if let Some(finalizers) = list_mut(&mut object["metadata"], "finalizers")
            && !finalizers.iter().any(|one| one == finalizer)
        {
            finalizers.push(Value::from(finalizer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Write, resource};
    use super::*;
    use crate::types::Operation;
    use api_machinery::resource::Scope;

    #[test]
    fn volumes_and_claims_are_made_with_a_finalizer() {
        let (volume, claim) = (HELD[0].1, HELD[1].1);
        let table = [
            (Operation::Create, "persistentvolumes", json!({}), json!([volume])),
            (Operation::Create, "persistentvolumeclaims", json!({"metadata": {}}), json!([claim])),
            (
                Operation::Create,
                "persistentvolumeclaims",
                json!({"metadata": {"finalizers": ["a/b"]}}),
                json!(["a/b", claim]),
            ),
            (
                Operation::Create,
                "persistentvolumes",
                json!({"metadata": {"finalizers": [volume, "a/b"]}}),
                json!([volume, "a/b"]),
            ),
            (Operation::Create, "volumeattributesclasses", json!({}), json!([HELD[2].1])),
            (Operation::Update, "persistentvolumes", json!({"metadata": {}}), Value::Null),
            (Operation::Create, "configmaps", json!({"metadata": {}}), Value::Null),
        ];
        for (operation, plural, object, want) in table {
            let kind = resource("", "Kind", plural, Scope::Namespaced);
            let mut write = Write::new(operation, kind, "a", Some(object), None);
            admit(&mut write.request());
            let found = write.object.expect("still there")["metadata"]["finalizers"].take();
            assert_eq!(found, want, "{operation:?} {plural}");
        }
        let claims = resource("", "PersistentVolumeClaim", "persistentvolumeclaims", Scope::Namespaced);
        let mut write = Write::new(Operation::Create, claims, "a", Some(json!({})), None).to("status", "c");
        admit(&mut write.request());
        assert_eq!(write.object, Some(json!({})));
    }
}
