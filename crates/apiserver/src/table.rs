//! Tables and bare metadata: what a client sees that asked for something else than the objects.

use std::sync::Arc;

use api_machinery::negotiate::Transform;
use api_machinery::table::{self, IncludeObject};
use bytes::BytesMut;
use serde_json::{Value, json};

use crate::custom::convert;
use crate::registry::Page;
use crate::request::respond;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::watch::{Cached, Converting, Render};

const INITIAL_END: &str = "k8s.io/initial-events-end";
const VERSION: &str = "v1";
/// Where a table has what a list has as `items`.
const ROWS: &str = "rows";

fn include(call: &ResourceCall) -> IncludeObject {
    IncludeObject::parse(call.query.get("includeObject").unwrap_or_default()).unwrap_or_default()
}

/// The table of these objects; `page` is the list that they are from.
pub fn table(server: &ApiServer, call: &ResourceCall, objects: &[Value], page: Option<&Page>) -> Value {
    let metadata = match (page, objects) {
        (Some(page), _) => page.metadata(),
        (None, [object, ..]) => {
            json!({"resourceVersion": api_machinery::meta::resource_version(object)})
        }
        (None, []) => json!({}),
    };
    let now = server.clock().now();
    table::table(&call.resource.columns, objects, metadata, VERSION, include(call), now)
}

/// `PartialObjectMetadata` of an object.
pub fn metadata_of(object: &Value) -> Value {
    table::partial_metadata(object, VERSION)
}

/// All of a list but its items, in the shape that was asked for.
pub fn without_items(server: &ApiServer, call: &ResourceCall, page: &Page) -> Value {
    let (version, kind) = match call.accept.transform {
        Transform::Table => {
            let mut list = table(server, call, &[], Some(page));
            list.as_object_mut().map(|list| list.remove(ROWS));
            return list;
        }
        Transform::None => (call.resource.api_version(), &*call.resource.list_kind),
        Transform::PartialObjectMetadata | Transform::PartialObjectMetadataList => {
            (format!("meta.k8s.io/{VERSION}"), "PartialObjectMetadataList")
        }
    };
    json!({"kind": kind, "apiVersion": version, "metadata": page.metadata()})
}

/// Shows an object as something else.
type Show = Box<dyn Fn(&Cached) -> Value + Send>;

/// What stands in a list for an object.
pub struct Items {
    /// The field of the list that holds them.
    pub field: &'static str,
    /// How an object is shown; `None` as it is stored.
    shown: Option<Show>,
}

impl Items {
    /// Objects as they are stored.
    pub fn stored() -> Items {
        Items { field: "items", shown: None }
    }

    /// The item for an object.
    pub fn value(&self, object: &Cached) -> Value {
        match &self.shown {
            Some(shown) => shown(object),
            None => object.value().map(Arc::unwrap_or_clone).unwrap_or_default(),
        }
    }

    /// Appends the item for an object.
    pub fn write_json(&self, object: &Cached, out: &mut BytesMut) {
        match &self.shown {
            Some(shown) => write(out, &shown(object)),
            None => object.write_json(out),
        }
    }
}

/// How the items of a list of this call are written.
pub fn items(server: &ApiServer, call: &ResourceCall) -> Items {
    if is_plain(call) {
        return Items::stored();
    }
    let (call, now) = (call.clone(), server.clock().now());
    let field = if call.accept.transform == Transform::Table { ROWS } else { "items" };
    let shown = move |object: &Cached| {
        let value = respond::shown(&call, object).unwrap_or_else(|error| error.to_value());
        match call.accept.transform {
            Transform::None => value,
            Transform::Table => table::row(&call.resource.columns, &value, include(&call), now),
            Transform::PartialObjectMetadata | Transform::PartialObjectMetadataList => metadata_of(&value),
        }
    };
    Items { field, shown: Some(Box::new(shown)) }
}

/// Whether objects are shown as they are stored.
fn is_plain(call: &ResourceCall) -> bool {
    call.accept.transform == Transform::None && !call.is_view()
}

/// How a watch of this call is written.
pub fn render(server: &Arc<ApiServer>, call: &ResourceCall) -> Arc<dyn Render> {
    // Custom resources are stored in one version and shown in several.
    if is_plain(call) && call.custom.is_none() {
        return Arc::new(Plain {
            kind: call.resource.kind.to_string(),
            api_version: call.resource.api_version(),
        });
    }
    Arc::new(Shaped { server: server.clone(), call: call.clone() })
}

/// Objects as they are stored.
struct Plain {
    kind: String,
    api_version: String,
}

impl Render for Plain {
    fn object(&self, object: &Cached, out: &mut BytesMut) {
        object.write_json(out);
    }

    fn bookmark(&self, revision: u64, initial_end: bool, out: &mut BytesMut) {
        write(out, &bookmark(&self.api_version, &self.kind, revision, initial_end));
    }
}

/// Objects as something else.
struct Shaped {
    server: Arc<ApiServer>,
    call: ResourceCall,
}

impl Render for Shaped {
    fn converted(&self, objects: &[Arc<Cached>]) -> Option<Converting<'_>> {
        self.call.custom.as_ref()?;
        Some(Box::pin(convert::shown(&self.server, &self.call, objects.to_vec())))
    }

    fn object(&self, object: &Cached, out: &mut BytesMut) {
        if is_plain(&self.call) {
            return object.write_json(out);
        }
        let value = match respond::shown(&self.call, object) {
            Ok(value) => value,
            Err(error) => error.to_value(),
        };
        let shaped = match self.call.accept.transform {
            Transform::None => value,
            Transform::Table => table(&self.server, &self.call, std::slice::from_ref(&value), None),
            Transform::PartialObjectMetadata | Transform::PartialObjectMetadataList => metadata_of(&value),
        };
        write(out, &shaped);
    }

    fn bookmark(&self, revision: u64, initial_end: bool, out: &mut BytesMut) {
        let (resource, kind) = (&self.call.resource, "PartialObjectMetadata");
        let value = match self.call.accept.transform {
            Transform::None => bookmark(&resource.api_version(), &resource.kind, revision, initial_end),
            Transform::PartialObjectMetadata | Transform::PartialObjectMetadataList => {
                bookmark("meta.k8s.io/v1", kind, revision, initial_end)
            }
            Transform::Table => {
                let plain = bookmark(&resource.api_version(), &resource.kind, revision, initial_end);
                let mut value = table(&self.server, &self.call, &[], None);
                value["metadata"] = json!({"resourceVersion": revision.to_string()});
                // Informers look for the annotation on the row's object.
                value["rows"] = json!([{"cells": [], "object": metadata_of(&plain)}]);
                value
            }
        };
        write(out, &value);
    }
}

fn bookmark(api_version: &str, kind: &str, revision: u64, initial_end: bool) -> Value {
    let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
    if initial_end {
        metadata["annotations"] = json!({INITIAL_END: "true"});
    }
    json!({"kind": kind, "apiVersion": api_version, "metadata": metadata})
}

fn write(out: &mut BytesMut, value: &Value) {
    out.extend_from_slice(value.to_string().as_bytes());
}
