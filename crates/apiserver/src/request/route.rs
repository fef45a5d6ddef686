//! Finds what a path is about in the catalogue: 404 for what is not there, 405 for what cannot be done to it.

use std::sync::Arc;

use api_machinery::resource::{Resource, Verb, Verbs};
use api_machinery::status::ApiError;
use http::request::Parts;
use http::{HeaderMap, Method, Uri};

use serde_json::Value;
use tokio::time::Instant;

use super::negotiate::Accept;
use super::path::Parsed;
use super::query::Query;
use crate::catalog::{self, Catalog};
use crate::custom::Custom;
use crate::proxy::streams;
use crate::server::ApiServer;
use crate::types::{RequestInfo, UserInfo};

/// What most names may not be longer than.
const LONGEST_NAME: usize = 253;

/// Everything about a request but its body.
#[derive(Clone, Debug)]
pub struct Call {
    /// What is asked for.
    pub info: RequestInfo,
    /// The HTTP method.
    pub method: Method,
    /// The path and the query, as they were sent.
    pub target: Uri,
    /// Path segments after the subresource.
    pub rest: Vec<String>,
    /// The query.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
    /// Who asks.
    pub user: UserInfo,
    /// When nobody waits for the answer any longer, unless it streams.
    pub deadline: Instant,
}

/// A call about a resource.
#[derive(Clone, Debug)]
pub struct ResourceCall {
    /// The call.
    pub call: Call,
    /// The catalogue entry of the path.
    pub resource: Arc<Resource>,
    /// The entry whose objects they are: the same one, unless that is a view of another.
    pub stored: Arc<Resource>,
    /// What defines it, if that is in the cluster: its objects are stored in one version and spoken of in several.
    pub custom: Option<Arc<Custom>>,
    /// What users of the path's version are warned of.
    pub deprecation: Option<String>,
    /// How to answer.
    pub accept: Accept,
    /// The namespace of the object; empty for cluster scope and for all namespaces.
    pub namespace: String,
}

impl std::ops::Deref for ResourceCall {
    type Target = Call;

    fn deref(&self) -> &Call {
        &self.call
    }
}

impl ResourceCall {
    /// The group and plural name for error messages.
    pub fn names(&self) -> (&str, &str) {
        (&self.resource.group, &self.resource.plural)
    }

    /// What is asked for, to turn one request into another about the same object.
    pub fn info_mut(&mut self) -> &mut RequestInfo {
        &mut self.call.info
    }

    /// The key of the object below its resource's prefix.
    pub fn key(&self) -> String {
        catalog::key(&self.namespace, &self.info.name)
    }

    /// Where the resource's objects are stored.
    pub fn prefix(&self) -> String {
        catalog::prefix(&self.stored)
    }

    /// Where the object is stored.
    pub fn store_key(&self) -> String {
        format!("{}{}", self.prefix(), self.key())
    }

    /// The same call about another object of the resource.
    pub fn about(&self, namespace: &str, name: &str) -> ResourceCall {
        let mut other = self.clone();
        other.namespace = namespace.to_owned();
        other.call.info.name = name.to_owned();
        other.call.info.namespace = namespace.to_owned();
        other
    }

    /// Whether objects are shown otherwise than they are stored.
    pub fn is_view(&self) -> bool {
        self.resource.view_of.is_some()
    }

    /// A decoded object in the form in which it is stored.
    pub fn to_stored(&self, mut object: Value) -> Value {
        if let Some(view) = &self.resource.view_of {
            (view.to_stored)(&mut object);
        }
        object
    }

    /// A stored object as the path's version shows it.
    pub fn to_view(&self, mut object: Value) -> Value {
        if let Some(view) = &self.resource.view_of {
            (view.from_stored)(&mut object);
        }
        object
    }

    /// The entry of which caches are: what they select by is in it.
    pub fn cached(&self) -> &Arc<Resource> {
        self.custom.as_ref().map_or(&self.stored, |custom| &custom.cached)
    }
}

/// Where a request goes.
#[derive(Debug)]
pub enum Route {
    /// Discovery, OpenAPI, version, health.
    Document(Call),
    /// What is passed on to what runs in the cluster, with what is behind the subresource in the path.
    Proxy(ResourceCall, String),
    /// Get, list, watch and logs.
    Read(ResourceCall),
    /// Everything that may change something, and reviews.
    Write(ResourceCall),
}

/// Finds the way.
pub async fn find(
    server: &ApiServer,
    parts: &Parts,
    parsed: Parsed,
    query: Query,
    user: UserInfo,
) -> Result<Route, ApiError> {
    let Parsed { info, rest, tail } = parsed;
    let deadline = Instant::now() + server.config().request_timeout;
    let (method, target, headers) = (parts.method.clone(), parts.uri.clone(), parts.headers.clone());
    let call = Call { info, rest, query, user, method, target, headers, deadline };
    if !call.info.is_resource {
        return Ok(Route::Document(call));
    }
    let info = &call.info;
    let (catalog, resource) = served(server, info).await?;
    let namespace = namespace(&resource, info)?;
    let permitted = permits(&resource, info).ok_or_else(ApiError::no_such_path)?;
    if !permitted || !placed(&resource, &namespace, info) {
        return Err(ApiError::method_not_allowed());
    }
    if !call.rest.is_empty() {
        return Err(ApiError::no_such_path());
    }
    nameable(&resource, info)?;
    let reads = matches!(call.info.verb.as_str(), "get" | "list" | "watch");
    let (stored, custom) = stored(&catalog, &resource)?;
    let deprecation = deprecation(&catalog, &resource);
    if call.info.subresource == "proxy" || streams::is_stream(&call.info.subresource) {
        // Who answers also says in which form.
        let call =
            ResourceCall { call, resource, stored, custom, deprecation, accept: Accept::PLAIN, namespace };
        return Ok(Route::Proxy(call, tail));
    }
    // Before anything is done: a client that cannot read the answer changes nothing.
    let accept = Accept::of(&call.headers, true)?;
    let call = ResourceCall { call, resource, stored, custom, deprecation, accept, namespace };
    Ok(if reads { Route::Read(call) } else { Route::Write(call) })
}

/// The resource in whose form objects are, and what defines it.
fn stored(
    catalog: &Catalog,
    resource: &Arc<Resource>,
) -> Result<(Arc<Resource>, Option<Arc<Custom>>), ApiError> {
    if let Some(view) = &resource.view_of {
        let found = catalog.find(view.group, view.version, view.plural);
        let found = found.ok_or_else(|| ApiError::internal("a view of a resource that does not exist"))?;
        return Ok((found.clone(), None));
    }
    let custom = resource.defined.as_ref().and_then(|_| catalog.custom(&resource.group, &resource.plural));
    Ok((resource.clone(), custom.cloned()))
}

fn deprecation(catalog: &Catalog, resource: &Resource) -> Option<String> {
    resource.defined.as_ref()?;
    let custom = catalog.custom(&resource.group, &resource.plural)?;
    let version =
        custom.definition.versions.iter().find(|version| version.resource.version == resource.version);
    version?.deprecation.clone()
}

/// The resource that is asked for. One that is not known may have been defined a moment ago, here or by another server.
async fn served(server: &ApiServer, info: &RequestInfo) -> Result<(Arc<Catalog>, Arc<Resource>), ApiError> {
    let find = |catalog: &Catalog| catalog.find(&info.api_group, &info.api_version, &info.resource).cloned();
    let mut catalog = server.catalog();
    let mut found = find(&catalog);
    if found.is_none() && !info.api_group.is_empty() {
        server.cache().catch_up().await?;
        catalog = server.catalog();
        found = find(&catalog);
    }
    found.map(|resource| (catalog, resource)).ok_or_else(ApiError::no_such_path)
}

/// The namespace of the object. A cluster-scoped resource has none and cannot be reached through one.
fn namespace(resource: &Resource, info: &RequestInfo) -> Result<String, ApiError> {
    if resource.namespaced() {
        // Below a name, a namespaced object needs its namespace.
        let object =
            !info.name.is_empty() && !matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
        return if object && info.namespace.is_empty() {
            Err(ApiError::no_such_path())
        } else {
            Ok(info.namespace.clone())
        };
    }
    let itself = info.resource == "namespaces" && info.api_group.is_empty() && info.namespace == info.name;
    if info.namespace.is_empty() || itself { Ok(String::new()) } else { Err(ApiError::no_such_path()) }
}

/// Refuses what is longer than a name of the resource can be.
fn nameable(resource: &Resource, info: &RequestInfo) -> Result<(), ApiError> {
    let whole = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
    // In front of `proxy` stand scheme and port as well.
    if whole || info.subresource == "proxy" || info.name.len() <= LONGEST_NAME {
        return Ok(());
    }
    let wrong = (resource.rules.name)(&info.name, false);
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(ApiError::bad_request(format!("invalid name: {}", wrong.join("; "))))
    }
}

/// Only lists and watches go over all namespaces.
fn placed(resource: &Resource, namespace: &str, info: &RequestInfo) -> bool {
    !resource.namespaced() || !namespace.is_empty() || matches!(info.verb.as_str(), "list" | "watch")
}

/// Whether the verb fits the path, or `None` if there is nothing at the path.
fn permits(resource: &Resource, info: &RequestInfo) -> Option<bool> {
    let other = |name: &str| resource.subresources.others.iter().find(|entry| entry.name == name);
    if info.verb.is_empty() {
        return other(&info.subresource).map(|_| true);
    }
    let Some(verb) = Verb::ALL.into_iter().find(|verb| verb.as_str() == info.verb) else {
        return Some(false);
    };
    let verbs = match info.subresource.as_str() {
        "" => {
            let named = !info.name.is_empty();
            let fits = match verb {
                Verb::Create => !named,
                Verb::Get | Verb::Update | Verb::Patch | Verb::Delete => named,
                Verb::List | Verb::Watch | Verb::DeleteCollection => true,
            };
            return Some(fits && resource.verbs.contains(verb));
        }
        "status" if resource.subresources.status => Verbs::GET_PATCH_UPDATE,
        "scale" if resource.subresources.scale.is_some() => Verbs::GET_PATCH_UPDATE,
        name => other(name)?.verbs,
    };
    Some(verbs.contains(verb))
}
