//! Authorization: `system:masters`, then the Node authorizer, then RBAC. One that allows is enough; none forbids.

pub mod escalation;
pub mod node;
pub mod rbac;
pub mod rules;

use std::sync::Arc;

use api_machinery::status::ApiError;

use self::node::NodeAuthorizer;
use self::rbac::Rbac;
use crate::types::{Decision, Lookup, RequestInfo, UserInfo};

/// Members may do anything: what makes roles is needed before there are any.
pub const MASTERS: &str = "system:masters";

/// What one authorizer thinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes, and why.
    Allow(String),
    /// Not by this one, and why; mostly nothing.
    NoOpinion(String),
}

/// Messages as one: the only one as it is, more as `[a, b]`.
fn combine<T: std::fmt::Display>(errors: &[T]) -> String {
    api_machinery::field::aggregate(errors)
}

/// All authorizers together.
pub struct Authorizer {
    node: NodeAuthorizer,
    rbac: Rbac,
}

impl Authorizer {
    /// Reads roles, bindings and what nodes run through `lookup`.
    pub fn new(lookup: Arc<dyn Lookup>) -> Authorizer {
        Authorizer { node: NodeAuthorizer::new(lookup.clone()), rbac: Rbac::new(lookup) }
    }

    /// Roles and bindings.
    pub fn rbac(&self) -> &Rbac {
        &self.rbac
    }

    /// Whether the user may do this, with the reason either way.
    pub async fn explain(&self, user: &UserInfo, info: &RequestInfo) -> Result<Verdict, ApiError> {
        if user.in_group(MASTERS) {
            return Ok(Verdict::Allow(String::new()));
        }
        let mut reasons = Vec::new();
        match self.node.decide(user, info).await? {
            Verdict::NoOpinion(reason) => reasons.push(reason),
            allowed => return Ok(allowed),
        }
        match self.rbac.decide(user, info).await? {
            Verdict::NoOpinion(reason) => reasons.push(reason),
            allowed => return Ok(allowed),
        }
        reasons.retain(|reason| !reason.is_empty());
        Ok(Verdict::NoOpinion(reasons.join("\n")))
    }

    /// Whether the user may do this.
    pub async fn decide(&self, user: &UserInfo, info: &RequestInfo) -> Result<Decision, ApiError> {
        Ok(match self.explain(user, info).await? {
            Verdict::Allow(_) => Decision::Allow,
            Verdict::NoOpinion(reason) => Decision::Deny(reason),
        })
    }

    /// Whether the user may do this, as yes or no.
    pub async fn allows(&self, user: &UserInfo, info: &RequestInfo) -> Result<bool, ApiError> {
        Ok(self.decide(user, info).await? == Decision::Allow)
    }
}
