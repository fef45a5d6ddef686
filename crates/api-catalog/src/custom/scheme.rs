//! What one version says of its objects' values.

use api_machinery::field::Errors;
use serde_json::Value;

/// The schema of one version.
#[derive(Debug)]
pub struct Scheme {}

impl Scheme {
    pub(super) fn of(_version: &Value) -> Scheme {
        Scheme {}
    }

    pub(super) fn check(&self, _new: &Value, _old: Option<&Value>, _errors: &mut Errors) {}
}
