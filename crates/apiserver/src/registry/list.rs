//! LIST and WATCH: what revision they are about, and pages.
//!
//! Lists come from the watch cache, which is exact and has nothing to decode; only older revisions and further pages are
//! read from the store.

use std::sync::Arc;
use std::time::Duration;

use api_machinery::status::ApiError;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::request::commit::store_error;
use crate::request::query::{ListOptions, Match};
use crate::request::respond::Answer;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::watch::{Cached, Freshness, ResourceCache, Selection, Start, WatchPlan};

/// Items that are read from the store at a time.
const CHUNK: usize = 500;
/// A watch that does not say how long it wants to last ends after this, and up to twice as long.
const WATCH_SECONDS: u64 = 1800;
/// The longest that a watch may ask for.
const WATCH_SECONDS_MAX: u64 = 24 * 3600;

/// A list, or a part of one.
#[derive(Debug)]
pub struct Page {
    /// The objects.
    pub objects: Vec<Arc<Cached>>,
    /// Of which revision.
    pub revision: u64,
    /// How to go on.
    pub continue_token: Option<String>,
    /// How many are left, when that is known.
    pub remaining: Option<u64>,
}

impl Page {
    /// A list with nothing left.
    pub fn whole(objects: Vec<Arc<Cached>>, revision: u64) -> Page {
        Page { objects, revision, continue_token: None, remaining: None }
    }

    /// `metadata` of the list.
    pub fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.to_string()});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

/// Where a list goes on. Opaque to clients, and never trusted: it names a place in the list that is asked for, nothing
/// else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinueToken {
    v: String,
    rv: u64,
    start: String,
    of: String,
}

impl ContinueToken {
    fn new(of: &str, revision: u64, after: &str) -> ContinueToken {
        ContinueToken {
            v: "meta.k8s.io/v1".to_owned(),
            rv: revision,
            start: after.to_owned(),
            of: of.to_owned(),
        }
    }

    fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("strings and numbers have a JSON form");
        URL_SAFE_NO_PAD.encode(json)
    }

    fn decode(text: &str, of: &str) -> Result<ContinueToken, ApiError> {
        let bad = |why: &str| ApiError::bad_request(format!("continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad("not base64"))?;
        let token: ContinueToken =
            serde_json::from_slice(&bytes).map_err(|_| bad("not a token of this server"))?;
        if token.v != "meta.k8s.io/v1" || token.rv == 0 || token.start.is_empty() {
            return Err(bad("not a token of this server"));
        }
        if token.of != of {
            return Err(bad("the token is of another list"));
        }
        if token.start.split('/').any(|part| matches!(part, "" | "." | "..")) || token.start.contains('\0') {
            return Err(bad("invalid start key"));
        }
        Ok(token)
    }
}

/// What is listed: for all lists and watches of a call.
pub(super) fn selection(call: &ResourceCall) -> Result<Selection, ApiError> {
    let mut fields = call.info.field_selector.clone();
    if !call.info.name.is_empty() && fields.is_empty() {
        // A watch on one object by its path.
        fields = format!("metadata.name={}", call.info.name);
    }
    let parse = |resource| Selection::parse(resource, &call.namespace, &call.info.label_selector, &fields);
    // What one version selects by, others need not.
    if !Arc::ptr_eq(call.cached(), &call.stored) {
        parse(&call.stored)?;
    }
    parse(call.cached())
}

fn cache(server: &ApiServer, call: &ResourceCall) -> Result<Arc<ResourceCache>, ApiError> {
    server.cache().resource(&call.stored).ok_or_else(ApiError::no_such_path)
}

/// LIST.
pub async fn list(server: &ApiServer, call: &ResourceCall) -> Result<Answer, ApiError> {
    let options = ListOptions::parse(&call.query, false)?;
    let selection = selection(call)?;
    let list = List { server, call, selection, limit: options.limit };
    let mut freshness = Freshness::Newest;
    let page = if let Some(token) = &options.continue_token {
        let token = ContinueToken::decode(token, &list.prefix())?;
        let future = |_| ApiError::bad_request("continue key is not valid: a revision that is not there yet");
        server.cache().reach(token.rv).await.map_err(future)?;
        list.read_store(token.rv, Some(&token.start)).await?
    } else {
        match (options.resource_version, options.version_match) {
            (Some(revision), Match::Exact) => list.read_store(revision, None).await?,
            (Some(revision), Match::Default) if revision > 0 && options.limit.is_some() => {
                list.read_store(revision, None).await?
            }
            (Some(revision), _) => {
                server.cache().reach(revision).await?;
                list.read_cache().await?
            }
            (None, _) => {
                freshness = server.cache().catch_up().await?;
                list.read_cache().await?
            }
        }
    };
    Ok(Answer::list(page).with_warnings(freshness.warnings()))
}

struct List<'a> {
    server: &'a ApiServer,
    call: &'a ResourceCall,
    selection: Selection,
    limit: Option<usize>,
}

impl List<'_> {
    fn prefix(&self) -> String {
        format!("{}{}", self.call.prefix(), self.selection.key_prefix())
    }

    async fn read_cache(&self) -> Result<Page, ApiError> {
        let all = self.server.cache();
        let (mut objects, revision) = all.snapshot(&*cache(self.server, self.call)?, &self.selection).await?;
        let total = objects.len();
        let Some(limit) = self.limit.filter(|limit| *limit < total) else {
            return Ok(Page::whole(objects, revision));
        };
        objects.truncate(limit);
        Ok(self.page(objects, revision, (total - limit) as u64))
    }

    /// A page with more behind it.
    fn page(&self, objects: Vec<Arc<Cached>>, revision: u64, remaining: u64) -> Page {
        let token =
            objects.last().map(|last| ContinueToken::new(&self.prefix(), revision, &last.key).encode());
        // With a selector nobody has counted what is left.
        let remaining = (!self.selection.is_filtered()).then_some(remaining);
        Page { objects, revision, continue_token: token, remaining }
    }

    async fn read_store(&self, revision: u64, after: Option<&str>) -> Result<Page, ApiError> {
        self.server.cache().reach(revision).await?;
        let (prefix, below) = (self.prefix(), self.call.prefix());
        let mut after = after.map(|key| format!("{below}{key}"));
        let mut objects = Vec::new();
        loop {
            let wanted = self.limit.map_or(CHUNK, |limit| limit - objects.len());
            let chunk = wanted.clamp(1, CHUNK);
            let options = store::ListOptions { at: Some(revision), limit: chunk, after: after.as_deref() };
            let listing = self.server.store().list(&prefix, options).await.map_err(store_error)?;
            after = listing.items.last().map(|item| item.key.to_string());
            for item in listing.items {
                let key = item.key.strip_prefix(&below).unwrap_or(&item.key);
                let object = Cached::new(key, item.value, item.mod_revision);
                if self.selection.matches(self.call.cached(), &object) {
                    objects.push(Arc::new(object));
                }
            }
            if !listing.more {
                return Ok(Page::whole(objects, revision));
            }
            if self.limit.is_some_and(|limit| objects.len() >= limit) {
                return Ok(self.page(objects, revision, listing.remaining));
            }
        }
    }
}

/// WATCH.
pub async fn watch(server: &ApiServer, call: &ResourceCall) -> Result<Answer, ApiError> {
    let options = ListOptions::parse(&call.query, true)?;
    let selection = selection(call)?;
    let all = server.cache();
    let initial = options.send_initial_events;
    let mut freshness = Freshness::Newest;
    let start = match (options.resource_version, initial) {
        (Some(revision), None) if revision > 0 => Start::After(revision),
        (Some(revision), _) => {
            all.reach(revision).await?;
            if initial == Some(false) && revision > 0 { Start::After(revision) } else { start(initial) }
        }
        (None, _) => {
            freshness = all.catch_up().await?;
            start(initial)
        }
    };
    let seconds = match options.timeout_seconds {
        Some(seconds) if seconds > 0 => seconds.min(WATCH_SECONDS_MAX),
        // Spread out, so that watches that began together do not come back together.
        _ => WATCH_SECONDS + server.entropy().below(WATCH_SECONDS),
    };
    let plan = WatchPlan {
        cache: cache(server, call)?,
        selection,
        start,
        bookmarks: options.bookmarks,
        mark_initial_end: initial == Some(true),
        timeout: Duration::from_secs(seconds),
    };
    Ok(Answer::watch(plan).with_warnings(freshness.warnings()))
}

fn start(initial: Option<bool>) -> Start {
    if initial == Some(false) { Start::Now } else { Start::Initial }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let token = ContinueToken::new("/registry/pods/a/", 7, "a/x");
        let text = token.encode();
        assert_eq!(ContinueToken::decode(&text, "/registry/pods/a/"), Ok(token));
        let code =
            |text: &str, of: &str| ContinueToken::decode(text, of).map(|_| 200).map_err(|error| error.code());
        assert_eq!(code(&text, "/registry/secrets/a/"), Err(400));
        assert_eq!(code("", "/registry/pods/a/"), Err(400));
        assert_eq!(code("%%%", "/registry/pods/a/"), Err(400));
        for start in ["../secrets/x", "a//x", "a/\u{0}", ""] {
            let forged = ContinueToken::new("/registry/pods/a/", 7, start).encode();
            assert_eq!(code(&forged, "/registry/pods/a/"), Err(400), "{start}");
        }
    }
}
