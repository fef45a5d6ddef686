//! Admission webhooks and policies: who else has a say in a write before it is stored, and may change it or refuse it.
//!
//! Mutating webhooks are asked one after the other, in the order of their configurations' names; then policies are judged, and
//! validating webhooks asked all at once. Where there are none, this costs a comparison each. There is no audit log yet:
//! annotations for it are traced.

mod bound;
pub mod call;
mod conditions;
pub mod endpoint;
mod hook;
mod matching;
mod mutations;
mod policies;
mod review;
mod subject;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use api_machinery::field::go_quote;
use api_machinery::resource::Resource;
use api_machinery::status::ApiError;
use api_machinery::structural::FieldValidation;
use cel::conditions::Verdict;
use futures::future::join_all;
use serde_json::{Map, Value};
use tokio::time::Instant;

use self::bound::Policies;
use self::conditions::{Input, Known};
use self::hook::Hook;
use self::mutations::Mutations;
use self::subject::Subject;
use crate::catalog::Catalog;
use crate::request::admit::Admission;
use crate::request::decode;
use crate::server::ApiServer;
use crate::watch::{Cache, ResourceCache, Selection};

const GROUP: &str = "admissionregistration.k8s.io";
/// From this many characters of warnings on, each is cut to `WARNING`.
const ALL_WARNINGS: usize = 4096;
const WARNING: usize = 256;

/// The webhooks of one kind of configuration.
pub struct Webhooks {
    cache: Option<Arc<ResourceCache>>,
    held: RwLock<Held>,
}

#[derive(Clone, Default)]
struct Held {
    /// The newest change that is in it.
    at: u64,
    hooks: Arc<[Hook]>,
}

impl Webhooks {
    /// Those of the resource `plural`, as the cache has them.
    pub fn new(catalog: &Catalog, cache: &Cache, plural: &str) -> Webhooks {
        let resource = catalog.find(GROUP, "v1", plural);
        let cache = resource.and_then(|resource| cache.resource(resource));
        Webhooks { cache, held: RwLock::default() }
    }

    /// Whom to ask; `None` if there is nobody.
    fn current(&self) -> Option<Arc<[Hook]>> {
        let cache = self.cache.as_ref()?;
        // Read before the list is: what changes meanwhile is read again the next time.
        let at = cache.changed_at();
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if held.at == at {
            return (!held.hooks.is_empty()).then(|| held.hooks.clone());
        }
        drop(held);
        let configurations = cache.list(&Selection::all(""));
        let values = configurations.iter().filter_map(|object| object.value()).collect();
        let hooks: Arc<[Hook]> = hook::compile(values).into();
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Held { at, hooks: hooks.clone() };
        (!hooks.is_empty()).then_some(hooks)
    }
}

/// All of them.
pub struct All {
    /// Those that may change an object.
    pub mutating: Webhooks,
    /// Those that may only refuse it.
    pub validating: Webhooks,
    /// What is changed without asking anybody.
    pub mutations: Policies,
    /// What is refused without asking anybody.
    pub policies: Policies,
}

impl All {
    /// As the cache has them.
    pub fn new(catalog: &Catalog, cache: &Cache) -> All {
        All {
            mutating: Webhooks::new(catalog, cache, "mutatingwebhookconfigurations"),
            validating: Webhooks::new(catalog, cache, "validatingwebhookconfigurations"),
            mutations: Policies::new(
                catalog,
                cache,
                ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"],
            ),
            policies: Policies::new(
                catalog,
                cache,
                ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
            ),
        }
    }
}

/// What came of asking a webhook.
enum Asked {
    /// It agrees; the patch may be empty.
    Fine(Vec<u8>),
    /// It says no, or the request ends for another reason that the failure policy does not excuse.
    Refused(ApiError),
    /// It did not answer.
    Silent(String),
}

/// Mutating policies and webhooks on their way through one request.
pub struct Mutation<'a> {
    server: &'a ApiServer,
    admission: &'a Admission<'a>,
    policies: Option<Mutations>,
    hooks: Arc<[Hook]>,
    /// Those that were asked, want to be asked again after changes, and to whom nothing has changed yet.
    asked: BTreeSet<usize>,
    /// Those that are to be asked again.
    again: BTreeSet<usize>,
    /// The object as the last of them left it.
    output: Option<Value>,
}

impl<'a> Mutation<'a> {
    /// `None` if nobody is to be asked.
    pub fn of(server: &'a ApiServer, admission: &'a Admission<'a>) -> Option<Mutation<'a>> {
        let (policies, hooks) = (server.webhooks().mutations.current(), server.webhooks().mutating.current());
        let stored = &admission.call.stored;
        if (policies.is_none() && hooks.is_none()) || matching::is_exempt(stored) {
            return None;
        }
        let policies = policies.filter(|_| !matching::is_review(stored)).map(Mutations::of);
        let (hooks, asked, again) = (hooks.unwrap_or_default(), BTreeSet::new(), BTreeSet::new());
        Some(Mutation { server, admission, policies, hooks, asked, again, output: None })
    }

    /// Asks all of them; says whether one has changed the object.
    pub async fn first(
        &mut self,
        object: &mut Option<&mut Value>,
        warnings: &mut Vec<String>,
    ) -> Result<bool, ApiError> {
        let mut changed = match &mut self.policies {
            Some(policies) => policies.run(self.server, self.admission, object, false).await?,
            None => false,
        };
        for index in 0..self.hooks.len() {
            changed |= self.one(index, object, warnings).await?;
        }
        self.output = object.as_deref().filter(|_| changed).cloned();
        Ok(changed)
    }

    /// Asks those again that want to know what became of the object after they had seen it.
    pub async fn again(
        &mut self,
        object: &mut Option<&mut Value>,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if let Some(policies) =
            self.policies.as_mut().filter(|policies| policies.is_outdated(object.as_deref()))
        {
            policies.run(self.server, self.admission, object, true).await?;
        }
        if object.as_deref() != self.output.as_ref() {
            self.again.append(&mut self.asked);
        }
        for index in 0..self.hooks.len() {
            if self.again.contains(&index) {
                self.one(index, object, warnings).await?;
            }
        }
        Ok(())
    }

    /// Asks one of them if the request concerns it; says whether it has changed the object.
    async fn one(
        &mut self,
        index: usize,
        object: &mut Option<&mut Value>,
        warnings: &mut Vec<String>,
    ) -> Result<bool, ApiError> {
        let hooks = self.hooks.clone();
        let hook = &hooks[index];
        let subject = Subject::new(self.admission, object.as_deref());
        let Some(form) = concerns(self.server, hook, &subject, object.as_deref()).await? else {
            return Ok(false);
        };
        let asked = ask(self.server, hook, &subject, &form, object.as_deref(), true, warnings).await;
        let changed = match asked {
            Asked::Fine(patch) => change(self.server, hook, &subject, &form, &patch, object).await?,
            Asked::Refused(error) => return Err(error),
            Asked::Silent(why) => {
                excuse(hook, why)?;
                deadline(self.admission)?;
                false
            }
        };
        if changed {
            self.again.append(&mut self.asked);
        }
        if hook.reinvoke {
            self.asked.insert(index);
        }
        Ok(changed)
    }
}

/// Applies what a webhook wants; says whether that changed anything.
async fn change(
    server: &ApiServer,
    hook: &Hook,
    subject: &Subject<'_>,
    form: &Resource,
    patch: &[u8],
    object: &mut Option<&mut Value>,
) -> Result<bool, ApiError> {
    let shown = match object.as_deref() {
        Some(object) => Some(subject.show(server, form, object).await?),
        None => None,
    };
    let Some(new) = review::patched(&hook.name, patch, shown.as_deref())? else { return Ok(false) };
    let Some(object) = object.as_deref_mut() else { return Ok(false) };
    // What is unknown is dropped without a word, as upstream does.
    replace(server, subject, form, new, FieldValidation::Ignore, object).await
}

/// Puts what was made of an object, as `form` shows it, in its place; says whether that changed anything.
async fn replace(
    server: &ApiServer,
    subject: &Subject<'_>,
    form: &Resource,
    mut new: Value,
    validation: FieldValidation,
    object: &mut Value,
) -> Result<bool, ApiError> {
    if subject.shows_objects() {
        let checked = decode::structured(form, new, validation, &mut Vec::new());
        new = checked.map_err(|error| ApiError::internal(error.message()))?;
    }
    let mut new = subject.put(server, form, new, object).await?;
    if subject.shows_objects() {
        decode::default(subject.stored(), &mut new);
    }
    let changed = new != *object;
    *object = new;
    Ok(changed)
}

/// Judges policies and asks validating webhooks; the first that says no is the one whose answer counts.
pub async fn validate(
    server: &ApiServer,
    admission: &Admission<'_>,
    object: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let (policies, hooks) = (server.webhooks().policies.current(), server.webhooks().validating.current());
    if (policies.is_none() && hooks.is_none()) || matching::is_exempt(&admission.call.stored) {
        return Ok(());
    }
    let subject = Subject::new(admission, object);
    if let Some(policies) = policies.filter(|_| !matching::is_review(&admission.call.stored)) {
        policies::judge(server, &policies, &subject, object, warnings).await?;
    }
    validate_by_webhooks(server, &hooks.unwrap_or_default(), &subject, object, warnings).await
}

async fn validate_by_webhooks(
    server: &ApiServer,
    hooks: &[Hook],
    subject: &Subject<'_>,
    object: Option<&Value>,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let mut concerned = Vec::new();
    for hook in hooks.iter() {
        if let Some(form) = concerns(server, hook, subject, object).await? {
            concerned.push((hook, form));
        }
    }
    let asking = concerned.iter().map(|(hook, form)| async move {
        let mut said = Vec::new();
        let asked = ask(server, hook, subject, form, object, false, &mut said).await;
        (asked, said)
    });
    let answers = join_all(asking).await;
    for (_, said) in &answers {
        said.iter().for_each(|warning| warn(warnings, warning));
    }
    for ((hook, _), (asked, _)) in concerned.iter().zip(answers) {
        match asked {
            Asked::Fine(_) => {}
            Asked::Refused(error) => return Err(error),
            Asked::Silent(why) => excuse(hook, why)?,
        }
    }
    Ok(())
}

/// The resource under whose name a request concerns a webhook, if it does.
async fn concerns(
    server: &ApiServer,
    hook: &Hook,
    subject: &Subject<'_>,
    object: Option<&Value>,
) -> Result<Option<Arc<Resource>>, ApiError> {
    let Some(form) = hook.matching.concerns(server, subject, object).await? else { return Ok(None) };
    if hook.conditions.is_empty() {
        return Ok(Some(form));
    }
    let input = Input::new(server, subject, &form, object).await?;
    let judge = |known: &Known| hook.conditions.judge(&input.variables(known));
    match conditions::evaluate(server, &input, judge).await? {
        Verdict::Matches => Ok(Some(form)),
        Verdict::Excluded(_) => Ok(None),
        Verdict::Failed(_) if hook.ignores_failure => Ok(None),
        Verdict::Failed(why) => Err(subject.forbidden(object, api_machinery::field::aggregate(&why))),
    }
}

/// Asks a webhook.
async fn ask(
    server: &ApiServer,
    hook: &Hook,
    subject: &Subject<'_>,
    form: &Resource,
    object: Option<&Value>,
    mutating: bool,
    warnings: &mut Vec<String>,
) -> Asked {
    if subject.is_dry_run() && !hook.harmless {
        let name = go_quote(&hook.name);
        let text = format!("admission webhook {name} does not support dry run");
        return Asked::Refused(ApiError::bad_request(text));
    }
    let Some(version) = hook.version else {
        let why = "webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return Asked::Silent(format!("could not create admission objects: {why}"));
    };
    let uid = server.entropy().uuid();
    let about: Map<String, Value> = subject.request(form);
    let [new, old] = match subject.both(server, form, object).await {
        Ok(shown) => shown,
        Err(error) => return Asked::Silent(error.message().to_owned()),
    };
    let body = match review::body(version, &uid, &about, new.as_deref(), old.as_deref()) {
        Ok(body) => body,
        Err(error) => return Asked::Silent(format!("could not create admission objects: {error}")),
    };
    let patience = hook.timeout.min(subject.deadline().saturating_duration_since(Instant::now()));
    let answer = match call::post(server, &hook.endpoint, body, patience).await {
        Ok(answer) => answer,
        Err(error) => return Asked::Silent(format!("failed to call webhook: {error}")),
    };
    let answer = match review::read(&answer, version, &uid, &hook.name, mutating) {
        Ok(answer) => answer,
        Err(error) => return Asked::Silent(error.to_string()),
    };
    for (key, value) in &answer.audit_annotations {
        tracing::debug!(webhook = hook.name, key, value, "an annotation for the audit log");
    }
    answer.warnings.iter().for_each(|warning| warn(warnings, warning));
    match answer.verdict {
        Ok(patch) => Asked::Fine(patch),
        Err(error) => Asked::Refused(error),
    }
}

/// What a webhook's silence means.
fn excuse(hook: &Hook, why: String) -> Result<(), ApiError> {
    let text = format!("failed calling webhook {}: {why}", go_quote(&hook.name));
    if hook.ignores_failure {
        tracing::warn!(text, "the request goes on without an answer");
        return Ok(());
    }
    Err(ApiError::internal(text))
}

/// Whether there is time left to ask anybody else.
fn deadline(admission: &Admission<'_>) -> Result<(), ApiError> {
    if Instant::now() < admission.call.deadline {
        return Ok(());
    }
    Err(ApiError::timeout("request did not complete within requested timeout", 0))
}

/// Tells the client once, within bounds.
fn warn(warnings: &mut Vec<String>, text: &str) {
    if text.is_empty() || warnings.len() >= decode::MAX_WARNINGS {
        return;
    }
    let before: usize = warnings.iter().map(|warning| warning.chars().count()).sum();
    let room = if before + text.chars().count() > ALL_WARNINGS { WARNING } else { ALL_WARNINGS };
    let text: String = text.chars().take(room).collect();
    if !warnings.contains(&text) {
        warnings.push(text);
    }
}
