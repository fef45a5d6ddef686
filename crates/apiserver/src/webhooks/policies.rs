//! Validating admission policies: what is refused by expressions, without asking anybody.
//!
//! A policy does nothing without a binding, and a binding says what its findings lead to. Expressions are evaluated over
//! objects as they are; whether they fit the kinds that they are about, the policy's status says.

use std::sync::{Arc, PoisonError, RwLock};

use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use api_machinery::selector::LabelSelector;
use api_machinery::status::{ApiError, Cause, Reason};
use cel::policy::{Complaint, Policy};
use serde_json::{Value, json};

use super::conditions::{self, Input, Known};
use super::matching::Matching;
use super::subject::Subject;
use super::{GROUP, warn};
use crate::catalog::Catalog;
use crate::references::{items, text};
use crate::server::ApiServer;
use crate::watch::{Cache, ResourceCache, Selection};

/// The policies that are bound.
pub struct Policies {
    caches: Option<[Arc<ResourceCache>; 2]>,
    held: RwLock<Held>,
}

#[derive(Clone, Default)]
struct Held {
    /// The newest changes that are in it.
    at: [u64; 2],
    policies: Arc<[Bound]>,
}

/// A policy with its bindings.
pub struct Bound {
    name: String,
    ignores_failure: bool,
    /// What it is about, or why it cannot be used.
    matching: Result<Matching, String>,
    policy: Policy,
    /// `apiVersion` and `kind` of its parameters.
    params: Option<(String, String)>,
    bindings: Vec<Binding>,
}

struct Binding {
    name: String,
    /// What it confines the policy to.
    matching: Result<Option<Matching>, String>,
    /// Where its parameters are.
    params: Value,
    actions: Vec<Action>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Deny,
    Warn,
    Audit,
}

impl Policies {
    /// Those that the cache has.
    pub fn new(catalog: &Catalog, cache: &Cache) -> Policies {
        let of = |plural: &str| catalog.find(GROUP, "v1", plural).and_then(|found| cache.resource(found));
        let caches = of("validatingadmissionpolicies").zip(of("validatingadmissionpolicybindings"));
        Policies { caches: caches.map(|(policies, bindings)| [policies, bindings]), held: RwLock::default() }
    }

    /// Those that may have something to say; `None` if there are none.
    pub fn current(&self) -> Option<Arc<[Bound]>> {
        let caches = self.caches.as_ref()?;
        // Read before the lists are: what changes meanwhile is read again the next time.
        let at = caches.each_ref().map(|cache| cache.changed_at());
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if held.at == at {
            return (!held.policies.is_empty()).then(|| held.policies.clone());
        }
        drop(held);
        let [policies, bindings] = caches.each_ref().map(|cache| {
            let objects = cache.list(&Selection::all(""));
            objects.iter().filter_map(|object| object.value()).collect::<Vec<_>>()
        });
        let policies: Arc<[Bound]> = bound(&policies, &bindings).into();
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Held { at, policies: policies.clone() };
        (!policies.is_empty()).then_some(policies)
    }
}

/// Policies with their bindings, both in the order of their names.
fn bound(policies: &[Arc<Value>], bindings: &[Arc<Value>]) -> Vec<Bound> {
    let of = |policy: &Value| {
        let name = meta::name(policy);
        let own = bindings.iter().filter(|binding| text(binding, "/spec/policyName") == name);
        let bindings: Vec<Binding> = own.map(|binding| Binding::of(binding)).collect();
        (!bindings.is_empty()).then(|| Bound::of(policy, bindings))
    };
    policies.iter().filter_map(|policy| of(policy)).collect()
}

impl Bound {
    fn of(policy: &Value, bindings: Vec<Binding>) -> Bound {
        let spec = &policy["spec"];
        let mut errors = Errors::new();
        let compiled = Policy::compile(spec, &Path::new("spec"), &mut errors);
        let matching = match errors.iter().next() {
            Some(error) => Err(error.to_string()),
            None => Matching::of_resources(&spec["matchConstraints"]).map_err(|error| error.to_string()),
        };
        let kind = spec.get("paramKind").filter(|kind| kind.is_object());
        Bound {
            name: meta::name(policy).to_owned(),
            ignores_failure: spec["failurePolicy"] == "Ignore",
            matching,
            policy: compiled,
            params: kind.map(|kind| (text(kind, "/apiVersion").to_owned(), text(kind, "/kind").to_owned())),
            bindings,
        }
    }
}

impl Binding {
    fn of(binding: &Value) -> Binding {
        let spec = &binding["spec"];
        let resources = spec.get("matchResources").filter(|resources| resources.is_object());
        let matching = resources.map(Matching::of_resources).transpose();
        let actions = items(spec, "validationActions").filter_map(|action| match action.as_str()? {
            "Deny" => Some(Action::Deny),
            "Warn" => Some(Action::Warn),
            "Audit" => Some(Action::Audit),
            _ => None,
        });
        Binding {
            name: meta::name(binding).to_owned(),
            matching: matching.map_err(|error| error.to_string()),
            params: spec["paramRef"].clone(),
            actions: actions.collect(),
        }
    }
}

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
        let bound = self.bound;
        let matching = match &bound.matching {
            Ok(matching) => matching,
            Err(why) => {
                self.misconfigured(None, why);
                return Ok(());
            }
        };
        let form = match matching.concerns(self.server, self.subject, object).await {
            Ok(Some(form)) => form,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.misconfigured(None, error.message());
                return Ok(());
            }
        };
        let mut input = match Input::new(self.server, self.subject, &form, object).await {
            Ok(input) => input,
            Err(error) => {
                self.misconfigured(None, error.message());
                return Ok(());
            }
        };
        input.namespace = self.namespace().await?;
        for binding in &bound.bindings {
            match self.applies(binding, object).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(why) => {
                    self.misconfigured(Some(binding), &why);
                    continue;
                }
            }
            match self.params(binding).await {
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

    /// The object's namespace; a namespace itself has none.
    async fn namespace(&self) -> Result<Option<Arc<Value>>, ApiError> {
        let name = self.subject.namespace();
        if name.is_empty() || self.subject.is_about_namespaces() {
            return Ok(None);
        }
        let found = self.server.lookup().get("", "namespaces", "", name).await?;
        found.map(Some).ok_or_else(|| ApiError::not_found("", "namespaces", name))
    }

    async fn applies(&self, binding: &Binding, object: Option<&Value>) -> Result<bool, String> {
        let Some(matching) = binding.matching.as_ref().map_err(Clone::clone)? else { return Ok(true) };
        let concerned = matching.concerns(self.server, self.subject, object).await;
        concerned.map(|form| form.is_some()).map_err(|error| error.message().to_owned())
    }

    /// The parameters that a binding names, one after the other; one that is nothing if there are to be none.
    async fn params(&self, binding: &Binding) -> Result<Vec<Option<Arc<Value>>>, String> {
        let Some((version, kind)) = &self.bound.params else { return Ok(vec![None]) };
        if !binding.params.is_object() {
            return Ok(vec![None]);
        }
        let catalog = self.server.catalog();
        let resource = catalog.of_kind(version, kind);
        let resource =
            resource.ok_or_else(|| format!("paramKind kind `{version}, Kind={kind}` not known"))?;
        let (reference, lookup) = (&binding.params, self.server.lookup());
        let (named, name) = (text(reference, "/namespace"), text(reference, "/name"));
        let namespace = match (resource.namespaced(), named, self.subject.namespace()) {
            (false, "", _) => "",
            (false, _, _) => {
                return Err(
                    "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()
                );
            }
            (true, "", "") => {
                let why =
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
                return Err(why.to_owned());
            }
            (true, "", own) => own,
            (true, named, _) => named,
        };
        let (group, plural) = (&*resource.group, &*resource.plural);
        let found = if name.is_empty() {
            let selector = LabelSelector::from_object(reference.get("selector"));
            let selector = selector.map_err(|error| error.to_string())?;
            let within = resource.namespaced().then_some(namespace);
            let all = lookup.list(group, plural, within).await;
            all.map(|all| {
                all.into_iter().filter(|one| selector.matches(meta::labels(one))).collect::<Vec<_>>()
            })
        } else {
            lookup.get(group, plural, namespace, name).await.map(|found| found.into_iter().collect())
        };
        let found = found.map_err(|error| error.message().to_owned())?;
        if found.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        Ok(found.into_iter().map(Some).collect())
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
