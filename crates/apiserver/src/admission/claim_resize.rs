//! PersistentVolumeClaimResize: a claim grows when it is bound and its class lets it.

use api_machinery::quantity::Quantity;
use api_machinery::status::ApiError;
use serde_json::Value;

use super::{forbidden, is};
use crate::references::text;
use crate::types::{AdmissionRequest, Lookup, Operation};

/// Refuses growth that nobody could carry out.
pub async fn check(lookup: &dyn Lookup, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.operation != Operation::Update || !is(request, "persistentvolumeclaims", "") {
        return Ok(());
    }
    let (Some(new), Some(old)) = (request.object.as_deref(), request.old) else { return Ok(()) };
    let size =
        |claim: &Value| claim.pointer("/spec/resources/requests/storage").and_then(Quantity::from_json);
    if size(new) <= size(old) {
        return Ok(());
    }
    if text(old, "/status/phase") != "Bound" {
        return Err(forbidden(request, "Only bound persistent volume claims can be expanded"));
    }
    let class = text(new, "/spec/storageClassName");
    let found = match class == text(old, "/spec/storageClassName") && !class.is_empty() {
        true => lookup.get("storage.k8s.io", "storageclasses", "", class).await?,
        false => None,
    };
    if found.is_some_and(|class| class.get("allowVolumeExpansion") == Some(&Value::Bool(true))) {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(forbidden(request, why))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, Write, resource};
    use super::*;
    use api_machinery::resource::Scope;
    use serde_json::json;

    #[tokio::test]
    async fn growth() {
        let class = |name: &str, grows: bool| {
            (
                "storage.k8s.io",
                "storageclasses",
                json!({"metadata": {"name": name}, "allowVolumeExpansion": grows}),
            )
        };
        let lookup = Objects::of(&[class("rubber", true), class("stone", false)]);
        let claim = |class: &str, size: &str, phase: &str| {
            json!({"metadata": {"name": "c", "namespace": "a"}, "status": {"phase": phase},
                "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}}})
        };
        let table = [
            ("rubber", "2Gi", "Bound", ""),
            ("rubber", "1Gi", "Pending", ""),
            ("rubber", "2Gi", "Pending", "Only bound"),
            ("stone", "2Gi", "Bound", "must support resize"),
            ("stone", "500Mi", "Bound", ""),
            ("", "2Gi", "Bound", "must support resize"),
            ("none", "2Gi", "Bound", "must support resize"),
        ];
        for (class, size, phase, want) in table {
            let (new, old) = (claim(class, size, phase), claim(class, "1Gi", phase));
            let kind = resource("", "PersistentVolumeClaim", "persistentvolumeclaims", Scope::Namespaced);
            let mut write = Write::new(Operation::Update, kind, "a", Some(new), Some(old));
            let found = check(&*lookup, &write.request()).await.err();
            let message = found.as_ref().map_or("", |error| error.message());
            assert_eq!(message.is_empty(), want.is_empty(), "{class} {size} {phase}: {message}");
            assert!(message.contains(want), "{class} {size} {phase}: {message}");
        }
    }
}
