//! OpenAPI v2 and v3.
use std::sync::Arc;

use api_machinery::status::ApiError;
use http::Response;

use crate::request::route::Call;
use crate::server::ApiServer;
use crate::types::Body;

/// Answers below `/openapi`.
pub fn serve(_server: &Arc<ApiServer>, _call: &Call, _rest: &[&str]) -> Result<Response<Body>, ApiError> {
    Err(ApiError::no_such_path())
}
