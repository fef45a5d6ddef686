//! What is missing in a namespace. Pure.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The ServiceAccount that pods use which name none.
pub const NAME: &str = "default";

/// The ServiceAccount to create, if the namespace takes one and has none.
pub fn missing(namespace: Option<&Namespace>, known: Option<&ServiceAccount>) -> Option<ServiceAccount> {
    let namespace = namespace.filter(|namespace| is_active(namespace))?;
    if known.is_some() {
        return None;
    }
    Some(ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: namespace.metadata.name.clone(),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    })
}

/// Whether the namespace is not being deleted.
pub fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}
