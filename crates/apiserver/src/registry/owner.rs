//! Who owns the fields that a request writes: its manager, and the part of the object that its path may own.
//!
//! What a write does to owners is `api_machinery::apply`'s to say. Objects that are served in several forms are owned as they
//! are stored, so that owners who speak different versions are told of each other's fields.

use api_machinery::apply::{self, Applied, ApplyError, Part, Tracked, Write};
use api_machinery::field::is_printable;
use http::header::USER_AGENT;
use jiff::Timestamp;
use serde_json::Value;

use super::lens::Lens;
use crate::request::query::MANAGER_MAX_BYTES;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;

/// Who writes when nothing says so.
const NOBODY: &str = "unknown";

/// The writer of one request.
pub struct Owner<'a> {
    call: &'a ResourceCall,
    manager: String,
    subresource: &'a str,
    api_version: String,
    versions: Vec<String>,
    part: Part,
    now: Timestamp,
}

impl<'a> Owner<'a> {
    /// The writer of a request about an object. `manager` is what the request says of itself, or empty.
    pub fn of(server: &ApiServer, call: &'a ResourceCall, lens: &Lens, manager: &str) -> Owner<'a> {
        let manager = if manager.is_empty() { program(call) } else { manager.to_owned() };
        let stored = &call.stored;
        let part = match lens {
            Lens::Status => Part::Status,
            Lens::Main | Lens::Finalize if stored.subresources.status => Part::ButStatus,
            _ => Part::Whole,
        };
        Owner {
            call,
            manager,
            subresource: &call.info.subresource,
            api_version: stored.api_version(),
            versions: server.catalog().versions_of(&stored.group, &stored.plural),
            part,
            now: server.clock().now(),
        }
    }

    fn write(&self) -> Write<'_> {
        Write {
            schema: self.call.stored.schema.view(),
            manager: &self.manager,
            subresource: self.subresource,
            api_version: &self.api_version,
            versions: &self.versions,
            part: self.part,
            now: self.now,
        }
    }

    /// The owners after a write that is no apply.
    pub fn track(&self, live: Option<&Value>, new: &Value) -> Tracked {
        apply::track(live, new, &self.write())
    }

    /// The object and its owners after an apply.
    pub fn apply(&self, live: Option<&Value>, applied: &Value, force: bool) -> Result<Applied, ApplyError> {
        apply::apply(live, applied, &self.write(), force)
    }
}

/// The program that sends a request, as its user agent begins. Clients in this process and others that do not say go by
/// their user's name.
fn program(call: &ResourceCall) -> String {
    let agent = call.headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
    let name = agent.as_deref().map(|agent| agent.split('/').next().unwrap_or_default()).unwrap_or_default();
    let user = call.user.name.strip_prefix("system:").unwrap_or(&call.user.name);
    let names = [name, user, NOBODY].into_iter().map(shortened);
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
}

/// What of a name can be shown and is not too long.
fn shortened(name: &str) -> String {
    let mut short = String::new();
    for letter in name.chars().filter(|letter| is_printable(*letter)) {
        if short.len() + letter.len_utf8() > MANAGER_MAX_BYTES {
            break;
        }
        short.push(letter);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printable_and_short() {
        assert_eq!(shortened("kube\u{7}ctl\t"), "kubectl");
        assert_eq!(shortened(&"é".repeat(100)).len(), MANAGER_MAX_BYTES);
    }
}
