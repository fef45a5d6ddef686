//! First stage: who asks.
//!
//! An in-process client says so in a typed extension that no socket can set; everybody else is the gate's to find out.

use api_machinery::status::ApiError;
use http::request::Parts;

use crate::server::ApiServer;
use crate::types::{ANONYMOUS, InProcessUser, UntrustedCertificate, UserInfo};

/// The user behind a request.
pub async fn user(server: &ApiServer, parts: &Parts) -> Result<UserInfo, ApiError> {
    if let Some(known) = parts.extensions.get::<InProcessUser>() {
        return Ok(known.user().clone());
    }
    let user = server.gate().authenticate(parts).await?;
    if user.name == ANONYMOUS && parts.extensions.get::<UntrustedCertificate>().is_some() {
        return Err(ApiError::unauthorized());
    }
    Ok(user)
}
