//! Mutating admission policies: what expressions make of an object, without asking anybody.
//!
//! Which policies, bindings and parameters have a say is decided before the first of them changes anything; each then sees
//! what those before it have made. Nobody owns what they set.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_machinery::apply;
use api_machinery::meta;
use api_machinery::patch::json::{Patch, PatchError};
use api_machinery::resource::Resource;
use api_machinery::status::{ApiError, Cause, Reason};
use api_machinery::structural::FieldValidation;
use cel::conditions::Verdict;
use cel::policy::Change;
use serde_json::Value;

use super::bound::{self, Bound};
use super::conditions::{self, Input, Known};
use super::subject::Subject;
use super::{deadline, replace};
use crate::request::admit::Admission;
use crate::server::ApiServer;
use crate::types::Operation;

/// Policy, binding, and the namespace and name of a parameter.
type Key = (String, String, Option<(String, String)>);

/// Mutating policies on their way through one request.
pub struct Mutations {
    policies: Arc<[Bound]>,
    /// Those that want to be asked again when the object has changed since.
    asked: BTreeSet<Key>,
    /// The object as the last of them left it.
    output: Option<Value>,
    /// Whether one of them has changed it.
    changed: bool,
}

/// One policy with one of its bindings and one parameter.
struct Invocation<'p> {
    bound: &'p Bound,
    binding: &'p str,
    form: Arc<Resource>,
    params: Option<Arc<Value>>,
}

/// Why a policy could not be carried out: a message and, if that says more than the refusal itself, a reason.
struct Failure<'p> {
    bound: &'p Bound,
    message: String,
    reason: Option<Reason>,
}

impl Invocation<'_> {
    fn key(&self) -> Key {
        let named = |params: &Arc<Value>| (meta::namespace(params).to_owned(), meta::name(params).to_owned());
        (self.bound.name.clone(), self.binding.to_owned(), self.params.as_ref().map(named))
    }

    fn failure(&self, why: &str) -> Failure<'_> {
        Failure::of(self.bound, Some(self.binding), why, Some(Reason::Invalid))
    }
}

impl<'p> Failure<'p> {
    fn of(bound: &'p Bound, binding: Option<&str>, why: &str, reason: Option<Reason>) -> Failure<'p> {
        let with = binding.map(|binding| format!(" with binding '{binding}'")).unwrap_or_default();
        let message = format!("policy '{}'{with} denied request: {why}", bound.name);
        Failure { bound, message, reason }
    }
}

impl Mutations {
    /// Those that the policies come to.
    pub fn of(policies: Arc<[Bound]>) -> Mutations {
        Mutations { policies, asked: BTreeSet::new(), output: None, changed: false }
    }

    /// Carries out all of them, or (`again`) those that want to know what became of the object after they had seen it; says
    /// whether one has changed it.
    pub async fn run(
        &mut self,
        server: &ApiServer,
        admission: &Admission<'_>,
        object: &mut Option<&mut Value>,
        again: bool,
    ) -> Result<bool, ApiError> {
        let Some(object) = object.as_deref_mut().filter(|_| admission.operation != Operation::Delete) else {
            return Ok(false);
        };
        let policies = self.policies.clone();
        let subject = Subject::new(admission, Some(object));
        let (invocations, mut failures) = invocations(server, &policies, &subject, object).await;
        let (before, mut asked) = (object.clone(), std::mem::take(&mut self.asked));
        for invocation in &invocations {
            let key = invocation.key();
            if again && !asked.contains(&key) {
                continue;
            }
            deadline(admission)?;
            match invoke(server, &subject, invocation, object).await? {
                Ok(()) => {}
                Err(whys) => failures.extend(whys.iter().map(|why| invocation.failure(why))),
            }
            if invocation.bound.reinvoke {
                asked.insert(key);
            }
        }
        self.asked = asked;
        refuse(&subject, object, &failures)?;
        self.changed = *object != before;
        self.output = Some(object.clone());
        Ok(self.changed)
    }

    /// Whether the object has changed since some of them that want to know have seen it, by others of them or by somebody
    /// else.
    pub fn is_outdated(&self, object: Option<&Value>) -> bool {
        !self.asked.is_empty() && (self.changed || object != self.output.as_ref())
    }
}

/// The policies that a request concerns, with their bindings and parameters, in order.
async fn invocations<'p>(
    server: &ApiServer,
    policies: &'p [Bound],
    subject: &Subject<'_>,
    object: &Value,
) -> (Vec<Invocation<'p>>, Vec<Failure<'p>>) {
    let (mut all, mut failures) = (Vec::new(), Vec::new());
    let failed = |bound, binding: Option<&str>, why: &str| {
        let what = if binding.is_some() { "binding" } else { "policy" };
        Failure::of(bound, binding, &format!("failed to configure {what}: {why}"), None)
    };
    for bound in policies {
        let form = match bound.concerns(server, subject, Some(object)).await {
            Ok(Some(form)) => form,
            Ok(None) => continue,
            Err(why) => {
                failures.push(failed(bound, None, &why));
                continue;
            }
        };
        for binding in &bound.bindings {
            let params = match binding.applies(server, subject, Some(object)).await {
                Ok(true) => bound.params(server, subject, binding).await,
                Ok(false) => continue,
                Err(why) => Err(why),
            };
            let own = |params| Invocation { bound, binding: &binding.name, form: form.clone(), params };
            match params {
                Ok(params) => all.extend(params.into_iter().map(own)),
                Err(why) => failures.push(failed(bound, Some(&binding.name), &why)),
            }
        }
    }
    (all, failures)
}

/// Carries out one policy. What is wrong with it is told apart from what ends the request.
async fn invoke(
    server: &ApiServer,
    subject: &Subject<'_>,
    invocation: &Invocation<'_>,
    object: &mut Value,
) -> Result<Result<(), Vec<String>>, ApiError> {
    let policy = &invocation.bound.policy;
    let namespace = bound::namespace(server, subject).await?;
    let mut failures = Vec::new();
    for index in 0..policy.mutations() {
        let change = {
            let mut input = Input::new(server, subject, &invocation.form, Some(&*object)).await?;
            input.namespace = namespace.clone();
            input.params = invocation.params.clone();
            if index == 0 {
                let judge = |known: &Known| policy.applies(&input.variables(known));
                match conditions::evaluate(server, &input, judge).await? {
                    Verdict::Matches => {}
                    Verdict::Excluded(_) => return Ok(Ok(())),
                    Verdict::Failed(why) => {
                        return Ok(Err(vec![api_machinery::field::aggregate(&why)]));
                    }
                }
            }
            let mutate = |known: &Known| policy.mutate(index, &input.variables(known));
            conditions::evaluate(server, &input, mutate).await?
        };
        let carried = match change {
            Ok(change) => carry_out(server, subject, &invocation.form, change, object).await?,
            Err(why) => Err(why),
        };
        failures.extend(carried.err());
    }
    Ok(if failures.is_empty() { Ok(()) } else { Err(failures) })
}

/// Makes of an object what a mutation wants.
async fn carry_out(
    server: &ApiServer,
    subject: &Subject<'_>,
    form: &Resource,
    change: Change,
    object: &mut Value,
) -> Result<Result<(), String>, ApiError> {
    let shown = subject.show(server, form, object).await?;
    let (new, validation) = match change {
        Change::Merge(mut applied) => {
            for field in ["apiVersion", "kind"] {
                applied[field] = shown[field].clone();
            }
            let view = form.schema.view();
            match apply::merged(&shown, &applied, view, meta::api_version(&shown)) {
                Ok(merged) => (merged, FieldValidation::Ignore),
                Err(why) => return Ok(Err(format!("error applying patch: {why}"))),
            }
        }
        Change::Patch(steps) => {
            let patched = match Patch::parse(steps.to_string()) {
                Ok(patch) => patch.try_apply(&shown).map_err(|error| (error.to_string(), error)),
                Err(error) => return Ok(Err(format!("JSONPath: {}", error.message()))),
            };
            match patched {
                Ok(patched) => (patched, FieldValidation::Strict),
                // What is tested for is not there: then nothing is wanted.
                Err((_, PatchError::TestFailed(_))) => return Ok(Ok(())),
                Err((why, _)) => return Ok(Err(format!("JSONPath: {why}"))),
            }
        }
    };
    // Of custom resources, what is unknown is dropped without a word.
    let validation = if form.defined.is_some() { FieldValidation::Ignore } else { validation };
    let kept = ["apiVersion", "kind"].iter().all(|field| new.get(field) == shown.get(field));
    if !kept {
        return Ok(Err("the policy made something else of the object".to_owned()));
    }
    drop(shown);
    replace(server, subject, form, new, validation, object).await.map(|_| Ok(()))
}

/// The first failure that a policy does not excuse is what the client is told, with the others behind it.
fn refuse(subject: &Subject<'_>, object: &Value, failures: &[Failure<'_>]) -> Result<(), ApiError> {
    let mut told = failures.iter().filter(|failure| !failure.bound.ignores_failure).peekable();
    let Some(first) = told.peek() else { return Ok(()) };
    let forbidden = subject.forbidden(Some(object), "admission request denied by policy");
    let reason = first.reason.unwrap_or_else(|| forbidden.reason());
    let mut error = ApiError::new(reason, first.message.clone()).with_code(forbidden.code());
    error = error.with_details(forbidden.details().cloned().unwrap_or_default());
    for failure in told {
        error = error.with_cause(Cause { message: failure.message.clone(), ..Cause::default() });
    }
    Err(error)
}
