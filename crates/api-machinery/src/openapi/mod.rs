//! OpenAPI documents of a set of resources: one v3 document for each group and version, one v2 document for all, the
//! latter also as protobuf, since older clients ask for nothing else.
//!
//! Written piece by piece into one buffer: never more than one path or one schema is a tree in memory. When to build
//! a document and how long to keep it is the caller's to decide.

mod operations;
mod protobuf;
mod schemas;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::resource::{Resource, group_version};
use crate::schema::Descriptions;
use schemas::{Catalogue, Style};

/// What documents are made of.
pub struct Documents<'a> {
    resources: Vec<&'a Resource>,
    schemas: Catalogue<'a>,
    version: &'a str,
    foreign: &'a Value,
}

impl<'a> Documents<'a> {
    /// Documents about these resources. `version` is the server's, such as `v1.37.0`; descriptions are those of the
    /// first resource's arena.
    pub fn new(
        resources: impl IntoIterator<Item = &'a Resource>,
        descriptions: &'a Descriptions,
        version: &'a str,
    ) -> Documents<'a> {
        let resources: Vec<&Resource> = resources.into_iter().collect();
        let schemas = Catalogue::new(&resources, descriptions);
        Documents { resources, schemas, version, foreign: &Value::Null }
    }

    /// The same, with what others have to say in documents of everything: `paths` and `definitions` of a v2 document, under
    /// names that are not used here.
    pub fn with(self, foreign: &'a Value) -> Documents<'a> {
        Documents { foreign, ..self }
    }

    fn others(&self, part: &str) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.foreign[part].as_object().into_iter().flatten()
    }

    /// The v3 document of one group and version as JSON. A group without resources has an empty one.
    pub fn v3(&self, group: &str, version: &str) -> Vec<u8> {
        let mut out = Json::new();
        let mut wanted = BTreeSet::new();
        out.member("openapi", &json!("3.0.0"));
        out.member("info", &self.info());
        out.open("paths");
        let here = self.resources.iter().filter(|r| r.group == group && r.version == version);
        for path in here.flat_map(|resource| operations::paths(resource, &self.schemas)) {
            out.member(&path.path, &path.to_v3(&mut wanted));
        }
        out.close();
        out.open("components");
        out.open("schemas");
        self.schemas.each(wanted, Style::V3, |name, schema| out.member(name, &schema));
        out.close();
        let token = json!({"BearerToken": {
            "type": "apiKey", "in": "header", "name": "authorization",
            "description": "Bearer Token authentication",
        }});
        out.member("securitySchemes", &token);
        out.close();
        out.finish()
    }

    /// The path of a v3 document below `/openapi/v3/`: `api/v1` or `apis/apps/v1`.
    pub fn v3_path(group: &str, version: &str) -> String {
        let prefix = if group.is_empty() { "api" } else { "apis" };
        format!("{prefix}/{}", group_version(group, version))
    }

    /// The v2 document of everything as JSON.
    pub fn v2(&self) -> Vec<u8> {
        let mut out = Json::new();
        let mut wanted = BTreeSet::new();
        out.member("swagger", &json!("2.0"));
        out.member("info", &self.info());
        out.open("paths");
        for path in self.paths() {
            out.member(&path.path, &path.to_v2(&mut wanted));
        }
        self.others("paths").for_each(|(path, item)| out.member(path, item));
        out.close();
        out.open("definitions");
        self.schemas.each(wanted, Style::V2, |name, schema| out.member(name, &schema));
        self.others("definitions").for_each(|(name, schema)| out.member(name, schema));
        out.close();
        out.member("securityDefinitions", &security());
        out.member("security", &json!([{"BearerToken": []}]));
        out.finish()
    }

    /// The v2 document of everything as a gnostic `openapi.v2.Document`.
    pub fn v2_protobuf(&self) -> Vec<u8> {
        let mut out = protobuf::Document::new(self.version);
        let mut wanted = BTreeSet::new();
        for path in self.paths() {
            out.path(&path.path, &path.to_v2(&mut wanted));
        }
        self.others("paths").for_each(|(path, item)| out.path(path, item));
        self.schemas.each(wanted, Style::V2, |name, schema| out.definition(name, &schema));
        self.others("definitions").for_each(|(name, schema)| out.definition(name, schema));
        out.finish()
    }

    fn paths(&self) -> impl Iterator<Item = operations::PathItem> + '_ {
        self.resources.iter().flat_map(|resource| operations::paths(resource, &self.schemas))
    }

    fn info(&self) -> Value {
        json!({"title": TITLE, "version": self.version})
    }
}

/// Clients look for it.
const TITLE: &str = "Kubernetes";

fn security() -> Value {
    json!({"BearerToken": {
        "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token authentication",
    }})
}

/// A JSON object that is written member by member.
struct Json {
    out: Vec<u8>,
    /// Whether the innermost object has no member yet.
    empty: bool,
    depth: usize,
}

impl Json {
    fn new() -> Json {
        Json { out: vec![b'{'], empty: true, depth: 1 }
    }

    fn key(&mut self, key: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        serde_json::to_writer(&mut self.out, key).expect("writing a string to memory cannot fail");
        self.out.push(b':');
    }

    fn member(&mut self, key: &str, value: &Value) {
        self.key(key);
        serde_json::to_writer(&mut self.out, value).expect("a Value has string keys and finite numbers");
    }

    fn open(&mut self, key: &str) {
        self.key(key);
        self.out.push(b'{');
        self.empty = true;
        self.depth += 1;
    }

    fn close(&mut self) {
        self.out.push(b'}');
        self.empty = false;
        self.depth -= 1;
    }

    fn finish(mut self) -> Vec<u8> {
        self.close();
        debug_assert_eq!(self.depth, 0, "every object that was opened is closed");
        self.out
    }
}

#[cfg(test)]
mod tests;
