//! DefaultStorageClass: a claim that names no class gets the default one, the newest if there are several.

use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::Value;

use super::{created, newest_default};
use crate::types::{AdmissionRequest, Lookup};

const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// Names the class.
pub async fn admit(lookup: &dyn Lookup, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    let Some(claim) = created(request, "persistentvolumeclaims") else { return Ok(()) };
    let named = claim.pointer("/spec/storageClassName").is_some_and(|class| !class.is_null());
    let old = meta::annotation(claim, "volume.beta.kubernetes.io/storage-class").is_some();
    if named || old || !claim["spec"].is_object() {
        return Ok(());
    }
    let classes = lookup.list("storage.k8s.io", "storageclasses", None).await?;
    if let Some(class) = newest_default(classes, &DEFAULT) {
        claim["spec"]["storageClassName"] = Value::from(meta::name(&class));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, Write, resource};
    use super::*;
    use crate::types::Operation;
    use api_machinery::resource::Scope;
    use serde_json::json;

    #[tokio::test]
    async fn the_newest_default() {
        let class = |name: &str, day: &str, default: &str| {
            let created = format!("2026-01-{day}T00:00:00Z");
            let metadata =
                json!({"name": name, "creationTimestamp": created, "annotations": {DEFAULT[0]: default}});
            ("storage.k8s.io", "storageclasses", json!({"metadata": metadata}))
        };
        let lookup = Objects::of(&[
            class("old", "01", "true"),
            class("new", "02", "true"),
            class("no", "03", "false"),
        ]);
        for (spec, want) in [(json!({}), "new"), (json!({"storageClassName": ""}), "")] {
            let claims = resource("", "PersistentVolumeClaim", "persistentvolumeclaims", Scope::Namespaced);
            let mut write = Write::new(Operation::Create, claims, "a", Some(json!({"spec": spec})), None);
            admit(&*lookup, &mut write.request()).await.expect("admitted");
            assert_eq!(write.object.expect("still there")["spec"]["storageClassName"], want);
        }
    }
}
