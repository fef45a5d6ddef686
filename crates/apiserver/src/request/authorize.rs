//! Third stage: whether the user may. Nobody learns whether something exists before this has passed.

use api_machinery::status::ApiError;

use crate::server::ApiServer;
use crate::types::{Decision, RequestInfo, UserInfo};

/// Passes or refuses with upstream's 403.
pub async fn check(server: &ApiServer, user: &UserInfo, info: &RequestInfo) -> Result<(), ApiError> {
    match server.gate().authorize(user, info).await? {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => Err(forbidden(user, info, &reason)),
    }
}

/// `pods "x" is forbidden: User "y" cannot get resource "pods" in API group "" in the namespace "z"`.
pub fn forbidden(user: &UserInfo, info: &RequestInfo, reason: &str) -> ApiError {
    let mut why = format!("User {:?} cannot {}", user.name, info.verb);
    if info.is_resource {
        let mut resource = info.resource.clone();
        if !info.subresource.is_empty() {
            resource = format!("{resource}/{}", info.subresource);
        }
        why.push_str(&format!(" resource {resource:?} in API group {:?}", info.api_group));
        if info.namespace.is_empty() {
            why.push_str(" at the cluster scope");
        } else {
            why.push_str(&format!(" in the namespace {:?}", info.namespace));
        }
    } else {
        why.push_str(&format!(" path {:?}", info.path));
    }
    if !reason.is_empty() {
        why.push_str(": ");
        why.push_str(reason);
    }
    ApiError::forbidden(&info.api_group, &info.resource, &info.name, why)
}
