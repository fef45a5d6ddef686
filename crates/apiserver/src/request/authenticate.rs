//! First stage: who asks.
//!
//! An in-process client says so in a typed extension that no socket can set; everybody else is the gate's to find out.

use api_machinery::status::ApiError;
use http::request::Parts;

use crate::server::ApiServer;
use crate::types::{InProcessUser, UserInfo};

/// The user behind a request.
pub async fn user(server: &ApiServer, parts: &Parts) -> Result<UserInfo, ApiError> {
    match parts.extensions.get::<InProcessUser>() {
        Some(known) => Ok(known.user().clone()),
        None => server.gate().authenticate(parts).await,
    }
}
