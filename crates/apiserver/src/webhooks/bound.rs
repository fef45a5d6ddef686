//! Policies with the bindings that put them to use, and what both need to know of a request: whether it concerns them, and
//! their parameters.

use std::sync::{Arc, PoisonError, RwLock};

use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use api_machinery::resource::Resource;
use api_machinery::selector::LabelSelector;
use api_machinery::status::ApiError;
use cel::policy::Policy;
use serde_json::Value;

use super::GROUP;
use super::matching::Matching;
use super::subject::Subject;
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
    /// Its name.
    pub name: String,
    /// Whether a request goes on when it fails.
    pub ignores_failure: bool,
    /// Whether it is asked again when the object has changed, if it may change it.
    pub reinvoke: bool,
    /// What it is about, or why it cannot be used.
    matching: Result<Matching, String>,
    /// Its expressions.
    pub policy: Policy,
    /// `apiVersion` and `kind` of its parameters.
    params: Option<(String, String)>,
    /// Its bindings.
    pub bindings: Vec<Binding>,
}

/// What puts a policy to use.
pub struct Binding {
    /// Its name.
    pub name: String,
    /// What it confines the policy to.
    matching: Result<Option<Matching>, String>,
    /// Where its parameters are.
    params: Value,
    /// What findings lead to, if it is there to refuse something.
    pub actions: Vec<Action>,
}

/// What a finding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The request is refused.
    Deny,
    /// The client is warned.
    Warn,
    /// It is noted.
    Audit,
}

impl Policies {
    /// Those of the resource `policies` that the cache has, with the bindings that are the resource `bindings`.
    pub fn new(catalog: &Catalog, cache: &Cache, [policies, bindings]: [&str; 2]) -> Policies {
        let of = |plural: &str| catalog.find(GROUP, "v1", plural).and_then(|found| cache.resource(found));
        let caches = of(policies).zip(of(bindings));
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
    /// The form in which a request concerns the policy, if it does; or why that cannot be said.
    pub async fn concerns(
        &self,
        server: &ApiServer,
        subject: &Subject<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Arc<Resource>>, String> {
        let matching = self.matching.as_ref().map_err(Clone::clone)?;
        let form = matching.concerns(server, subject, object).await;
        form.map_err(|error| error.message().to_owned())
    }

    /// The parameters that a binding names, one after the other; one that is nothing if there are to be none.
    pub async fn params(
        &self,
        server: &ApiServer,
        subject: &Subject<'_>,
        binding: &Binding,
    ) -> Result<Vec<Option<Arc<Value>>>, String> {
        let Some((version, kind)) = &self.params else { return Ok(vec![None]) };
        if !binding.params.is_object() {
            return Ok(vec![None]);
        }
        let catalog = server.catalog();
        let resource = catalog.of_kind(version, kind);
        let resource =
            resource.ok_or_else(|| format!("paramKind kind `{version}, Kind={kind}` not known"))?;
        let (reference, lookup) = (&binding.params, server.lookup());
        let (named, name) = (text(reference, "/namespace"), text(reference, "/name"));
        let namespace = match (resource.namespaced(), named, subject.namespace()) {
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
            reinvoke: spec["reinvocationPolicy"] == "IfNeeded",
            matching,
            policy: compiled,
            params: kind.map(|kind| (text(kind, "/apiVersion").to_owned(), text(kind, "/kind").to_owned())),
            bindings,
        }
    }
}

impl Binding {
    /// Whether it confines the policy to something else than the request.
    pub async fn applies(
        &self,
        server: &ApiServer,
        subject: &Subject<'_>,
        object: Option<&Value>,
    ) -> Result<bool, String> {
        let Some(matching) = self.matching.as_ref().map_err(Clone::clone)? else { return Ok(true) };
        let concerned = matching.concerns(server, subject, object).await;
        concerned.map(|form| form.is_some()).map_err(|error| error.message().to_owned())
    }

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

/// The namespace of a request's object; a namespace itself has none.
pub async fn namespace(server: &ApiServer, subject: &Subject<'_>) -> Result<Option<Arc<Value>>, ApiError> {
    let name = subject.namespace();
    if name.is_empty() || subject.is_about_namespaces() {
        return Ok(None);
    }
    let found = server.lookup().get("", "namespaces", "", name).await?;
    found.map(Some).ok_or_else(|| ApiError::not_found("", "namespaces", name))
}
