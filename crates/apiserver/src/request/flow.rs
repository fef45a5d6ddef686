//! Second stage: a place among the requests that are being served, or 429.

use api_machinery::status::ApiError;

use crate::server::ApiServer;
use crate::types::{Permit, RequestInfo, UserInfo};

/// Waits for a place. The answer holds on to it until it is written, a watch until it streams.
pub async fn enter(server: &ApiServer, user: &UserInfo, info: &RequestInfo) -> Result<Permit, ApiError> {
    server.gate().enter(user, info).await
}
