//! Authentication: whom a front proxy vouches for, client certificates, then bootstrap tokens and tokens of service accounts;
//! whoever shows neither is anonymous, and only where anonymous requests make sense.

mod bearer;
mod bootstrap_token;
mod certificate;
pub mod front_proxy;
mod impersonate;

use std::sync::Arc;

use api_machinery::clock::Clock;
use api_machinery::status::ApiError;
use http::header::AUTHORIZATION;
use http::request::Parts;

pub use self::bearer::{account_user, review, user_value};
pub use self::certificate::ends as certificate_ends;
use self::front_proxy::FrontProxy;
use crate::authz::Authorizer;
use crate::tokens::Tokens;
use crate::types::{ANONYMOUS, Lookup, PeerCertificates, UserInfo};

/// Everybody who is somebody.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody who is nobody.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Where one may be nobody; what is allowed there is still for the authorizers to say.
const ANONYMOUS_PATHS: [&str; 6] = ["/healthz", "/livez", "/readyz", "/version", "/version/", CLUSTER_INFO];
/// By which a node that wants to join learns which cluster it is.
const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// What authentication works with.
pub struct Authenticator {
    /// Reads accounts, pods, secrets and nodes.
    pub lookup: Arc<dyn Lookup>,
    /// Checks signatures.
    pub tokens: Arc<Tokens>,
    /// The time.
    pub clock: Clock,
    /// Whether one may be nobody where that makes sense.
    pub anonymous: bool,
}

impl Authenticator {
    /// Who asks.
    pub async fn authenticate(&self, request: &Parts, authorizer: &Authorizer) -> Result<UserInfo, ApiError> {
        let user = self.identify(request).await?;
        impersonate::apply(user, &request.headers, authorizer).await
    }

    async fn identify(&self, request: &Parts) -> Result<UserInfo, ApiError> {
        if let Some(proxy) = request.extensions.get::<FrontProxy>()
            && let Some(user) = front_proxy::user(proxy, &request.headers, self.clock.now())?
        {
            return Ok(user);
        }
        if let Some(peer) = request.extensions.get::<PeerCertificates>()
            && let Some(leaf) = peer.0.first()
            && let Some(user) = certificate::user(leaf, self.clock.now())?
        {
            return Ok(user);
        }
        match bearer::token(request.headers.get(AUTHORIZATION)) {
            Some(token) => match bootstrap_token::parse(token) {
                Some((id, secret)) => bootstrap_token::user(self, id, secret).await,
                None => bearer::user(self, token).await,
            },
            None if self.anonymous && ANONYMOUS_PATHS.contains(&request.uri.path()) => {
                Ok(UserInfo::new(ANONYMOUS, &[UNAUTHENTICATED]))
            }
            None => Err(ApiError::unauthorized()),
        }
    }
}

/// `extra` of every credential, by which a log can tell which one was used.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";
