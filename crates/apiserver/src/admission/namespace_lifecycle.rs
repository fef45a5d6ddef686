//! NamespaceLifecycle: nothing is made in a namespace that does not exist or is going away, and the namespaces that the
//! cluster itself needs are not deleted.

use api_machinery::status::{ApiError, Cause};

use super::{forbidden, name};
use crate::references::text;
use crate::types::{AdmissionRequest, Lookup, Operation};

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Passes or refuses.
pub async fn admit(lookup: &dyn Lookup, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.resource.group.is_empty() && request.resource.plural == "namespaces" {
        let doomed = request.operation == Operation::Delete && IMMORTAL.contains(&name(request));
        let why = "this namespace may not be deleted";
        return if doomed { Err(forbidden(request, why)) } else { Ok(()) };
    }
    let namespace = request.info.namespace.as_str();
    let reviews = request.resource.group == "authorization.k8s.io";
    if namespace.is_empty() || request.operation == Operation::Delete || reviews {
        return Ok(());
    }
    let Some(found) = lookup.get("", "namespaces", "", namespace).await? else {
        return Err(ApiError::not_found("", "namespaces", namespace));
    };
    if request.operation != Operation::Create || text(&found, "/status/phase") != "Terminating" {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    Err(forbidden(request, why).with_cause(Cause {
        reason: "NamespaceTerminating".to_owned(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, Write, resource};
    use super::*;
    use api_machinery::resource::Scope;
    use serde_json::json;

    #[tokio::test]
    async fn namespaces_come_first_and_go_last() {
        let lookup = Objects::of(&[
            ("", "namespaces", json!({"metadata": {"name": "a"}, "status": {"phase": "Active"}})),
            ("", "namespaces", json!({"metadata": {"name": "z"}, "status": {"phase": "Terminating"}})),
        ]);
        let table = [
            (Operation::Create, "a", None),
            (Operation::Create, "b", Some("namespaces \"b\" not found")),
            (
                Operation::Create,
                "z",
                Some(
                    "pods \"p\" is forbidden: unable to create new content in namespace z because it is being terminated",
                ),
            ),
            (Operation::Update, "z", None),
            (Operation::Delete, "z", None),
            (Operation::Delete, "b", None),
        ];
        for (operation, namespace, want) in table {
            let pod = json!({"metadata": {"name": "p"}});
            let mut write = Write::new(
                operation,
                resource("", "Pod", "pods", Scope::Namespaced),
                namespace,
                Some(pod),
                None,
            );
            let error = admit(&*lookup, &write.request()).await.err();
            assert_eq!(error.as_ref().map(ApiError::message), want, "{operation:?} in {namespace}");
            if error.as_ref().is_some_and(|error| error.code() == 403) {
                let causes = error.and_then(|error| error.details().map(|details| details.causes.clone()));
                assert_eq!(causes.expect("a cause")[0].reason, "NamespaceTerminating");
            }
        }
        for (name, refused) in
            [("default", true), ("kube-system", true), ("a", false), ("kube-node-lease", false)]
        {
            let old = json!({"metadata": {"name": name}});
            let namespaces = resource("", "Namespace", "namespaces", Scope::Cluster);
            let mut write = Write::new(Operation::Delete, namespaces, "", None, Some(old));
            assert_eq!(admit(&*lookup, &write.request()).await.is_err(), refused, "{name}");
        }
    }
}
