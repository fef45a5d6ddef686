//! The words that the stages of a request share: who asks, what for, and what admission may see.
//!
//! Only data and two seams live here. `Lookup` is how authorizers and admission read stored objects,
//! `Gate` is everything that stands before the registry. Neither says how it is done; the watch cache
//! implements the first, `authn`, `authz` and `admission` together the second, and tests bring their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_machinery::resource::Resource;
use api_machinery::status::ApiError;
use async_trait::async_trait;
use bytes::Bytes;
use rustls_pki_types::CertificateDer;
use serde_json::Value;

/// Any error that a body can end with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every response, streamed or whole.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// The body of every request, whichever transport carried it.
pub type RequestBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Who asks, as authentication found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The user name, such as `system:node:a`.
    pub name: String,
    /// The unique id, or empty.
    pub uid: String,
    /// The groups, `system:authenticated` among them once authentication has succeeded.
    pub groups: Vec<String>,
    /// Further attributes, such as the pod that a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user by name and groups.
    pub fn new(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo {
            name: name.to_owned(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..UserInfo::default()
        }
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|mine| mine == group)
    }
}

/// What is asked for, as the path, the method and the query say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The API verb (`get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`), or for
    /// paths that name no resource the HTTP method in lower case.
    pub verb: String,
    /// Empty for the core group.
    pub api_group: String,
    /// Such as `v1`.
    pub api_version: String,
    /// The plural name, or empty.
    pub resource: String,
    /// Such as `status`, or empty.
    pub subresource: String,
    /// Empty for cluster-scoped requests and for requests over all namespaces.
    pub namespace: String,
    /// Empty for collections; also set from `fieldSelector=metadata.name=x` of list, watch and deletecollection.
    pub name: String,
    /// The path as it was asked for, without the query.
    pub path: String,
    /// Whether the path names a resource.
    pub is_resource: bool,
    /// The label selector of a list, watch or deletecollection, as asked for.
    pub label_selector: String,
    /// The field selector of a list, watch or deletecollection, as asked for.
    pub field_selector: String,
}

/// What is about to happen to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A new object, or a subresource that is posted (`binding`, `token`, `eviction`).
    Create,
    /// PUT and PATCH.
    Update,
    /// An object is about to go, gracefully or not.
    Delete,
    /// A connection to a pod, node or service.
    Connect,
}

impl Operation {
    /// The word that admission uses on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// What admission sees of one write.
pub struct AdmissionRequest<'a> {
    /// What is about to happen.
    pub operation: Operation,
    /// What was asked for. `info.name` may be empty on create; the object then has its final name already.
    pub info: &'a RequestInfo,
    /// Who asks.
    pub user: &'a UserInfo,
    /// The catalogue entry of `info.resource`, for subresources that of the parent.
    pub resource: &'a Resource,
    /// The object as it would be stored (for a posted subresource: the posted body); `None` for deletions.
    pub object: Option<&'a mut Value>,
    /// The stored object before an update or deletion.
    pub old: Option<&'a Value>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// The `CreateOptions`, `UpdateOptions`, `PatchOptions` or `DeleteOptions` of the request.
    pub options: &'a Value,
}

/// Reads stored objects from the watch cache.
///
/// Groups are empty for core, namespaces empty for cluster-scoped objects. Values carry their
/// `metadata.resourceVersion`, `apiVersion` and `kind`, and no `metadata.managedFields`.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// One object. "Absent" is never a stale answer: a miss waits until the cache has caught up with the store
    /// and looks again. A hit may be older than the newest write by another request still in flight.
    async fn get(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, ApiError>;

    /// All objects of a resource, or those of one namespace, in key order.
    async fn list(
        &self,
        group: &str,
        plural: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Arc<Value>>, ApiError>;

    /// The revision of the newest change to this resource that the cache holds. Cheap and never waits: who keeps
    /// something compiled from `list` compares it to know whether that is still good.
    fn changed_at(&self, group: &str, plural: &str) -> u64;

    /// Waits until the cache holds everything that was committed before the call.
    async fn fresh(&self) -> Result<(), ApiError>;
}

/// The certificates that a TLS client proved possession of and that chain to the client CA. Set by the
/// listener only, as an extension of the request.
#[derive(Clone, Debug)]
pub struct PeerCertificates(pub Arc<[CertificateDer<'static>]>);

/// The address that a connection comes from. Set by the listener only, as an extension of the request.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub std::net::SocketAddr);

/// The client proved possession of a certificate that does not chain to the client CA. Set by the listener only. Without
/// other credentials such a request is refused and not anonymous.
#[derive(Clone, Copy, Debug)]
pub struct UntrustedCertificate;

/// The name of whoever shows no credentials.
pub const ANONYMOUS: &str = "system:anonymous";

/// The identity of an in-process client. No socket can set it: the type has no constructor outside this crate, and
/// the listener starts every request with empty extensions.
#[derive(Clone, Debug)]
pub struct InProcessUser(pub(crate) UserInfo);

impl InProcessUser {
    /// Whom the client acts as.
    pub fn user(&self) -> &UserInfo {
        &self.0
    }
}

/// The answer of the authorizers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// No authorizer allows it; the text is upstream's explanation, or empty.
    Deny(String),
}

/// A place among the requests that are being served; dropping it gives the place back.
pub struct Permit(#[expect(dead_code, reason = "held for its Drop")] Option<Box<dyn Send + Sync>>);

impl Permit {
    /// A permit that gives back `held` when it is dropped.
    pub fn holding(held: impl Send + Sync + 'static) -> Permit {
        Permit(Some(Box::new(held)))
    }

    /// A permit that holds nothing.
    pub fn free() -> Permit {
        Permit(None)
    }
}

/// What stands before the registry: authentication, flow control, authorization, admission and the answers that are
/// computed rather than stored.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Who asks. An in-process identity is handled by the caller and never gets here. No credentials at all is
    /// `system:anonymous` in `system:unauthenticated`; bad ones are a 401.
    async fn authenticate(&self, request: &http::request::Parts) -> Result<UserInfo, ApiError>;

    /// Waits for a place, or refuses with 429 and Retry-After. Watches give theirs back once they stream.
    async fn enter(&self, user: &UserInfo, info: &RequestInfo) -> Result<Permit, ApiError>;

    /// Whether `user` may do this.
    async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Result<Decision, ApiError>;

    /// Mutating admission, in order. Warnings are sent to the client.
    async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<Vec<String>, ApiError>;

    /// Validating admission, after the object was validated against its schema and rules.
    async fn check(&self, request: &AdmissionRequest<'_>) -> Result<Vec<String>, ApiError>;

    /// Fills in the `status` of a review (`TokenReview`, `SubjectAccessReview`, ...), which is then returned.
    async fn review(
        &self,
        user: &UserInfo,
        resource: &Resource,
        namespace: &str,
        object: &mut Value,
    ) -> Result<(), ApiError>;

    /// Answers `serviceaccounts/NAME/token`: fills in the status of a `TokenRequest` for a stored service account.
    async fn token(&self, user: &UserInfo, account: &Value, request: &mut Value) -> Result<(), ApiError>;

    /// Objects that must exist before the first request is served: bootstrap roles and bindings, priority classes.
    /// Missing ones are created at each start; whether existing ones are brought up to date is `reconcile`'s to say.
    fn bootstrap_objects(&self) -> Vec<Value>;

    /// What an existing bootstrap object should become, or `None` to leave it as it is.
    fn reconcile(&self, wanted: &Value, existing: &Value) -> Option<Value>;

    /// The public keys of service account tokens as a JWKS document, for `/openid/v1/jwks`.
    fn jwks(&self) -> Value;

    /// The discovery document of the token issuer, for `/.well-known/openid-configuration`.
    fn openid_configuration(&self) -> Value;
}
