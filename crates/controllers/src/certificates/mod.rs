//! Certificates by CertificateSigningRequest: `approver` lets nodes have theirs, `signer` issues what was approved,
//! `cleaner` deletes requests that nobody needs any more. They meet at the request, as all controllers do.
//!
//! Deliberately absent: `kubernetes.io/legacy-unknown`, and approval for anybody but nodes.

pub mod approver;
pub mod cleaner;
mod der;
mod request;
pub mod signer;
#[cfg(test)]
mod tests;

use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};

pub use signer::{Authority, AuthorityError};

/// Who signs clients of the API server.
pub const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Who signs kubelets as clients of the API server.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Who signs kubelets as servers.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// The group of nodes' service proxies and pod networks; their names are this, a colon and the node's name.
pub const NODE_NETWORK: &str = "skiff:node-network";

/// The condition of a type.
fn condition<'a>(
    request: &'a CertificateSigningRequest,
    kind: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the request holds a certificate.
fn is_issued(request: &CertificateSigningRequest) -> bool {
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    certificate.is_some_and(|certificate| !certificate.0.is_empty())
}

/// The request with one condition more.
fn with_condition(
    request: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: String,
) -> CertificateSigningRequest {
    let mut changed = request.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: None,
        last_transition_time: None,
    });
    changed
}
