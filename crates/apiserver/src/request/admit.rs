//! The admission stages: what other parts of the cluster have to say about a write.
//!
//! Mutating admission sees the object before it is validated, validating admission what would be stored.

use api_machinery::status::ApiError;
use serde_json::Value;

use super::route::ResourceCall;
use crate::server::ApiServer;
use crate::types::{AdmissionRequest, Operation};

/// One write as admission sees it.
pub struct Admission<'a> {
    /// What was asked for.
    pub call: &'a ResourceCall,
    /// What is about to happen.
    pub operation: Operation,
    /// The state before.
    pub old: Option<&'a Value>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// The options of the request.
    pub options: &'a Value,
}

impl Admission<'_> {
    fn request<'b>(&'b self, object: Option<&'b mut Value>) -> AdmissionRequest<'b> {
        AdmissionRequest {
            operation: self.operation,
            info: &self.call.info,
            user: &self.call.user,
            resource: &self.call.stored,
            object,
            old: self.old,
            dry_run: self.dry_run,
            options: self.options,
        }
    }

    /// Mutating admission.
    pub async fn mutate(
        &self,
        server: &ApiServer,
        object: Option<&mut Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        warnings.extend(server.gate().admit(&mut self.request(object)).await?);
        Ok(())
    }

    /// Validating admission.
    pub async fn check(
        &self,
        server: &ApiServer,
        object: Option<&mut Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        warnings.extend(server.gate().check(&self.request(object)).await?);
        Ok(())
    }
}
