//! The gate in front of the registry, put together: authentication, flow control, authorization, admission, reviews and
//! tokens, each in a module of its own. Nothing is decided here.

use std::sync::Arc;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use api_machinery::resource::Resource;
use api_machinery::status::ApiError;
use async_trait::async_trait;
use serde_json::Value;

use crate::admission::{Admission, certificates};
use crate::authn::{AUTHENTICATED, Authenticator, account_user};
use crate::authz::{Authorizer, escalation};
use crate::limits::{FlowControl, Limits};
use crate::policy;
use crate::reviews;
use crate::tokens::Tokens;
use crate::types::{AdmissionRequest, Decision, Gate, Lookup, Permit, RequestInfo, UserInfo};

/// What a gate is made of.
pub struct GateConfig {
    /// The time.
    pub clock: Clock,
    /// Names of volumes.
    pub entropy: Entropy,
    /// Signs and checks tokens of service accounts.
    pub tokens: Arc<Tokens>,
    /// How many requests are served at a time.
    pub limits: Limits,
}

/// The gate of a real cluster.
pub struct ClusterGate {
    authenticator: Authenticator,
    authorizer: Authorizer,
    admission: Admission,
    flow: FlowControl,
}

impl ClusterGate {
    /// Reads objects through `lookup`. Unless `anonymous`, whoever shows no credentials is refused everywhere.
    pub fn new(config: GateConfig, lookup: Arc<dyn Lookup>, anonymous: bool) -> ClusterGate {
        let GateConfig { clock, entropy, tokens, limits } = config;
        ClusterGate {
            authenticator: Authenticator { lookup: lookup.clone(), tokens, clock: clock.clone(), anonymous },
            authorizer: Authorizer::new(lookup.clone()),
            admission: Admission { lookup, entropy, clock },
            flow: FlowControl::new(limits),
        }
    }
}

/// What `ApiServer::start` asks for.
pub fn cluster_gate(config: GateConfig) -> impl FnOnce(Arc<dyn Lookup>) -> Arc<dyn Gate> {
    gate(config, true)
}

/// The same, where whoever is nobody may see what is harmless (`anonymous`), or nothing at all.
pub fn gate(config: GateConfig, anonymous: bool) -> impl FnOnce(Arc<dyn Lookup>) -> Arc<dyn Gate> {
    move |lookup| Arc::new(ClusterGate::new(config, lookup, anonymous))
}

/// The scheduler, as a client in this process.
pub fn scheduler() -> UserInfo {
    UserInfo::new("system:kube-scheduler", &[AUTHENTICATED])
}

/// All controllers under one name, as clients in this process.
pub fn controller_manager() -> UserInfo {
    UserInfo::new(policy::CONTROLLER_MANAGER, &[AUTHENTICATED])
}

/// The controllers of a cloud under one name, as clients in this process.
pub fn cloud_controller_manager() -> UserInfo {
    UserInfo::new("system:cloud-controller-manager", &[AUTHENTICATED])
}

/// One controller by its service account, such as `deployment-controller`. It may do what upstream's may, which does not
/// include the lists and watches that upstream's controllers share.
pub fn controller(name: &str) -> UserInfo {
    account_user("kube-system", name, "")
}

#[async_trait]
impl Gate for ClusterGate {
    async fn authenticate(&self, request: &http::request::Parts) -> Result<UserInfo, ApiError> {
        self.authenticator.authenticate(request, &self.authorizer).await
    }

    async fn enter(&self, user: &UserInfo, info: &RequestInfo) -> Result<Permit, ApiError> {
        self.flow.enter(user, info)
    }

    async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Result<Decision, ApiError> {
        self.authorizer.decide(user, info).await
    }

    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<Vec<String>, ApiError> {
        self.admission.admit(request).await
    }

    async fn check(&self, request: &AdmissionRequest<'_>) -> Result<Vec<String>, ApiError> {
        escalation::check(&self.authorizer, request).await?;
        certificates::check(&self.authorizer, request).await?;
        self.admission.check(request).await
    }

    async fn review(
        &self,
        user: &UserInfo,
        resource: &Resource,
        namespace: &str,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        reviews::answer(&self.authenticator, &self.authorizer, user, resource, namespace, object).await
    }

    async fn token(&self, _: &UserInfo, account: &Value, request: &mut Value) -> Result<(), ApiError> {
        let Authenticator { lookup, tokens, clock, .. } = &self.authenticator;
        reviews::token_request(&**lookup, tokens, clock, account, request).await
    }

    fn bootstrap_objects(&self) -> Vec<Value> {
        policy::objects()
    }

    fn reconcile(&self, wanted: &Value, existing: &Value) -> Option<Value> {
        policy::reconcile(wanted, existing)
    }

    fn jwks(&self) -> Value {
        self.authenticator.tokens.jwks()
    }

    fn openid_configuration(&self) -> Value {
        self.authenticator.tokens.openid_configuration()
    }
}
