//! What each verb does to an object, the same for every resource.
//!
//! A kind's own rules come from its catalogue entry. Only subresources that are protocols of their own (binding,
//! eviction, finalize, scale, token, log) have a file; nothing here is a handler for a kind.

mod apply;
mod binding;
mod create;
mod delete;
mod eviction;
mod lens;
mod list;
mod owner;
mod patch;
mod quota;
mod review;
mod update;

use std::sync::Arc;

use api_machinery::status::ApiError;

pub use self::delete::{DeleteOptions, delete_object};
pub use self::lens::Lens;
pub use self::list::Page;
pub use self::quota::Turns;
use crate::custom::convert;
use crate::proxy;
use crate::request::commit::store_error;
use crate::request::decode::Body;
use crate::request::respond::Answer;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::watch::{Cached, Freshness};

/// Answers a get, list, watch or a stream.
pub async fn read(server: &Arc<ApiServer>, call: &ResourceCall) -> Result<Answer, ApiError> {
    match (call.info.subresource.as_str(), call.info.verb.as_str()) {
        ("log", _) => proxy::log(server, call).await,
        ("", "list") => list::list(server, call).await,
        ("", "watch") => list::watch(server, call).await,
        (subresource, _) => {
            let lens = Lens::of(&call.stored, subresource)?;
            get(server, call, &lens).await
        }
    }
}

async fn get(server: &ApiServer, call: &ResourceCall, lens: &Lens) -> Result<Answer, ApiError> {
    let asked =
        crate::request::query::resource_version(call.query.get("resourceVersion").unwrap_or_default())?;
    let mut freshness = Freshness::Newest;
    let object = match (asked, server.cache().resource(&call.stored)) {
        // Any state will do, or any that is not older than the one asked for: the cache has it.
        (Some(revision), Some(cache)) => {
            server.cache().reach(revision).await?;
            cache.get(&call.key())
        }
        (_, cache) => match (server.store().get(&call.store_key()).await, cache) {
            (Ok(found), _) => {
                found.map(|item| Arc::new(Cached::new(&call.key(), item.value, item.mod_revision)))
            }
            (Err(error), Some(cache)) => {
                freshness = server.cache().despite(error)?;
                cache.get(&call.key())
            }
            (Err(error), None) => return Err(store_error(error)),
        },
    };
    let object = object.ok_or_else(|| not_found(call))?;
    if lens.is_whole() {
        return Ok(Answer::object(object).with_warnings(freshness.warnings()));
    }
    let value = convert::value(server, call, &object).await?;
    Ok(Answer::value(lens.view(&value)).with_warnings(freshness.warnings()))
}

/// The newest state in the store.
pub(crate) async fn current(server: &ApiServer, call: &ResourceCall) -> Result<Option<Cached>, ApiError> {
    let key = call.key();
    let found = server.store().get(&call.store_key()).await.map_err(store_error)?;
    Ok(found.map(|item| Cached::new(&key, item.value, item.mod_revision)))
}

/// Who owns what the server itself writes, by upstream's name for it.
const SERVER: &str = "kube-apiserver";

/// A write of the status of another object in a call's namespace, as the server's own step: judged anew on whatever is
/// stored, as patches are.
fn status_of(
    server: &ApiServer,
    call: &ResourceCall,
    (group, version, plural): (&str, &str, &str),
    name: &str,
) -> Result<ResourceCall, ApiError> {
    let mut target = call.about(&call.namespace, name);
    target.stored = server.catalog().find(group, version, plural).ok_or_else(ApiError::no_such_path)?.clone();
    target.resource = target.stored.clone();
    target.info_mut().verb = "patch".to_owned();
    target.info_mut().subresource = "status".to_owned();
    Ok(target)
}

/// The 404 of a call.
pub(crate) fn not_found(call: &ResourceCall) -> ApiError {
    let (group, plural) = call.names();
    ApiError::not_found(group, plural, &call.info.name)
}

/// Does what a create, update, patch or delete asks for.
pub async fn write(server: &Arc<ApiServer>, call: &ResourceCall, body: &Body) -> Result<Answer, ApiError> {
    use api_machinery::resource::Storage;
    if call.resource.storage == Storage::Review {
        return review::review(server, call, body).await;
    }
    match (call.info.subresource.as_str(), call.info.verb.as_str()) {
        ("binding", "create") => binding::bind(server, call, body).await,
        ("eviction", "create") => eviction::evict(server, call, body).await,
        ("token", "create") => review::token(server, call, body).await,
        ("", "create") => create::create(server, call, body).await,
        ("", "delete") => delete::delete(server, call, body).await,
        ("", "deletecollection") => delete::delete_collection(server, call, body).await,
        (_, "update") => update::replace(server, call, body).await,
        (_, "patch") => patch::patch(server, call, body).await,
        (subresource, _) => match Lens::of(&call.stored, subresource) {
            Ok(_) => Err(ApiError::method_not_allowed()),
            Err(error) => Err(error),
        },
    }
}
