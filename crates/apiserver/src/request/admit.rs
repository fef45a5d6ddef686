//! The admission stages: what other parts of the cluster have to say about a write.
//!
//! Mutating admission sees the object before it is validated, validating admission what would be stored. The server's own
//! plugins come first, then webhooks.

use api_machinery::status::ApiError;
use serde_json::Value;

use super::route::ResourceCall;
use crate::server::ApiServer;
use crate::types::{AdmissionRequest, Operation};
use crate::webhooks::{self, Mutation};

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

impl<'a> Admission<'a> {
    /// The creation of something that was not there before, as reviews, bindings and evictions are.
    pub fn creating(call: &'a ResourceCall, dry_run: bool, options: &'a Value) -> Admission<'a> {
        Admission { call, operation: Operation::Create, old: None, dry_run, options }
    }

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

    /// Mutating admission. Says whether a webhook has changed the object: then what only the server may set has to be set
    /// again.
    pub async fn mutate(
        &self,
        server: &ApiServer,
        mut object: Option<&mut Value>,
        warnings: &mut Vec<String>,
    ) -> Result<bool, ApiError> {
        warnings.extend(server.gate().admit(&mut self.request(object.as_deref_mut())).await?);
        let Some(mut mutation) = Mutation::of(server, self) else { return Ok(false) };
        let changed = mutation.first(&mut object, warnings).await?;
        if changed {
            // The plugins have not seen this object.
            warnings.extend(server.gate().admit(&mut self.request(object.as_deref_mut())).await?);
            mutation.again(&mut object, warnings).await?;
        }
        Ok(changed)
    }

    /// Validating admission.
    pub async fn check(
        &self,
        server: &ApiServer,
        mut object: Option<&mut Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        warnings.extend(server.gate().check(&self.request(object.as_deref_mut())).await?);
        webhooks::validate(server, self, object.as_deref(), warnings).await
    }
}
