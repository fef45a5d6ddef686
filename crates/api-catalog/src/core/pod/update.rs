//! u
use api_machinery::field::Errors;
use serde_json::Value;
pub(crate) fn validate(_: &Value, _: &Value, _: &mut Errors) {}
pub(crate) fn validate_status(_: &Value, _: &Value, _: &mut Errors) {}
