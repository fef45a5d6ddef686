//! Validating admission policies: what is refused by expressions, without asking anybody.
//!
//! A policy does nothing without a binding, and a binding says what its findings lead to. Expressions are evaluated over
//! objects as they are; whether they fit the kinds that they are about, the policy's status says.

use api_machinery::status::{ApiError, Cause, Reason};
use cel::policy::Complaint;
use serde_json::{Value, json};

use super::bound::{self, Action, Binding, Bound};
use super::conditions::{self, Input, Known};
use super::subject::Subject;
use super::warn;
use crate::server::ApiServer;

/// Why a request is refused: the first reason counts.
struct Refusal {
    message: String,
    reason: String,
}

/// One policy on its way through one request.
struct Judgement<'a, 'b> {
    server: &'a ApiServer,
    bound: &'a Bound,
    subject: &'a Subject<'b>,
    refusal: &'a mut Option<Refusal>,
    warnings: &'a mut Vec<String>,
}

/// Judges a request by all policies that concern it.
pub async fn judge(
    server: &ApiServer,
    policies: &[Bound],
    subject: &Subject<'_>,
    object: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let mut refusal = None;
    for bound in policies {
        let mut judgement =
            Judgement { server, bound, subject, refusal: &mut refusal, warnings: &mut *warnings };
        judgement.by_policy(object).await?;
    }
    let Some(Refusal { message, reason }) = refusal else { return Ok(()) };
    let forbidden = subject.forbidden(object, &message);
    let reason = Reason::of(&reason).unwrap_or(Reason::Invalid);
    let error = ApiError::new(reason, forbidden.message());
    let error = error.with_details(forbidden.details().cloned().unwrap_or_default());
    Err(error.with_cause(Cause { message, ..Cause::default() }))
}

impl Judgement<'_, '_> {
    /// By one policy with all its bindings.
    async fn by_policy(&mut self, object: Option<&Value>) -> Result<(), ApiError> {
        let (server, bound, subject) = (self.server, self.bound, self.subject);
        let form = match bound.concerns(server, subject, object).await {
            Ok(Some(form)) => form,
            Ok(None) => return Ok(()),
            Err(why) => {
                self.misconfigured(None, &why);
                return Ok(());
            }
        };
        let mut input = match Input::new(server, subject, &form, object).await {
            Ok(input) => input,
            Err(error) => {
                self.misconfigured(None, error.message());
                return Ok(());
            }
        };
        input.namespace = bound::namespace(server, subject).await?;
        for binding in &bound.bindings {
            match binding.applies(server, subject, object).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(why) => {
                    self.misconfigured(Some(binding), &why);
                    continue;
                }
            }
            match bound.params(server, subject, binding).await {
                Ok(params) => {
                    for params in params {
                        input.params = params;
                        self.by_binding(binding, &input).await?;
                    }
                }
                Err(why) => self.misconfigured(Some(binding), &why),
            }
        }
        Ok(())
    }

    /// By one policy, as a binding has it, with one parameter.
    async fn by_binding(&mut self, binding: &Binding, input: &Input<'_>) -> Result<(), ApiError> {
        let bound = self.bound;
        let judge = |known: &Known| bound.policy.judge(&input.variables(known));
        let Some(findings) = conditions::evaluate(self.server, input, judge).await? else { return Ok(()) };
        for complaint in &findings.complaints {
            if !(complaint.failed && bound.ignores_failure) {
                self.act(binding, complaint);
            }
        }
        for why in findings.unreadable {
            if !bound.ignores_failure {
                self.refuse(Some(binding), why, "Invalid");
            }
        }
        for (key, value) in &findings.annotations {
            tracing::debug!(policy = bound.name, key, value, "an annotation for the audit log");
        }
        Ok(())
    }

    fn act(&mut self, binding: &Binding, complaint: &Complaint) {
        let policy = &self.bound.name;
        for action in &binding.actions {
            match action {
                Action::Deny => self.refuse(Some(binding), complaint.message.clone(), &complaint.reason),
                Action::Warn => {
                    let (name, message) = (&binding.name, &complaint.message);
                    let text = format!(
                        "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{name}': {message}"
                    );
                    warn(self.warnings, &text);
                }
                Action::Audit => {
                    let actions: Vec<String> =
                        binding.actions.iter().map(|action| format!("{action:?}")).collect();
                    let value = json!([{
                        "message": complaint.message, "policy": policy, "binding": binding.name,
                        "expressionIndex": complaint.index, "validationActions": actions,
                    }]);
                    let key = "validation.policy.admission.k8s.io/validation_failure";
                    tracing::debug!(key, %value, "an annotation for the audit log");
                }
            }
        }
    }

    /// The policy or its binding cannot be used.
    fn misconfigured(&mut self, binding: Option<&Binding>, why: &str) {
        if self.bound.ignores_failure {
            return;
        }
        let what = if binding.is_some() { "binding" } else { "policy" };
        self.refuse(binding, format!("failed to configure {what}: {why}"), "Invalid");
    }

    fn refuse(&mut self, binding: Option<&Binding>, why: String, reason: &str) {
        let policy = &self.bound.name;
        let with = binding.map(|binding| format!(" with binding '{}'", binding.name)).unwrap_or_default();
        self.refusal.get_or_insert_with(|| Refusal {
            message: format!("ValidatingAdmissionPolicy '{policy}'{with} denied request: {why}"),
            reason: reason.to_owned(),
        });
    }
}
