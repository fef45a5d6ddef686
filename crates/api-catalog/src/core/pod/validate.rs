//! v
use crate::at::At;
use api_machinery::field::Errors;
use serde_json::Value;
pub(crate) fn pod(_: &Value, _: &mut Errors) {}
pub(crate) fn template(_: &At, _: &mut Errors) {}
