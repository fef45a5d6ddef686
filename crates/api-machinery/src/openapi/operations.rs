//! Paths and operations of a resource: which there are, and how either version of OpenAPI writes them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::schemas::{Catalogue, Style, list_name, reference};
use crate::resource::{Resource, Subresource, Verb, Verbs, group_version};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Those of custom resources: clients read here whether strategies are known.
const CUSTOM_PATCH_TYPES: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
const MEDIA_TYPES: [&str; 2] = ["application/json", "application/yaml"];
const WATCH_TYPES: [&str; 2] = ["application/json;stream=watch", "application/yaml"];

/// One path and what can be done there.
pub(super) struct PathItem {
    pub(super) path: String,
    parameters: Vec<&'static Parameter>,
    operations: Vec<Operation>,
}

/// One method of a path.
struct Operation {
    method: &'static str,
    id: String,
    description: String,
    tag: String,
    /// `x-kubernetes-action`.
    action: &'static str,
    /// `x-kubernetes-group-version-kind`.
    kind: Value,
    /// What a patch may be.
    patches: &'static [&'static str],
    parameters: Vec<&'static Parameter>,
    /// The definition of the body, and whether it must be there.
    body: Option<(String, bool)>,
    /// The definition of the answer; `None` is plain text.
    answer: Option<String>,
    codes: &'static [(&'static str, &'static str)],
}

/// A parameter that is not the body.
struct Parameter {
    name: &'static str,
    place: &'static str,
    kind: &'static str,
    description: &'static str,
}

const fn query(name: &'static str, kind: &'static str, description: &'static str) -> Parameter {
    Parameter { name, place: "query", kind, description }
}

const fn segment(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, place: "path", kind: "string", description }
}

static NAME: Parameter = segment("name", "name of the object");
static NAMESPACE: Parameter =
    segment("namespace", "object name and auth scope, such as for teams and projects");
static PRETTY: Parameter = query("pretty", "string", "If 'true', then the output is pretty printed.");
static SELECTION: [Parameter; 8] = [
    query("continue", "string", "Continues a list where an earlier answer with this token stopped."),
    query("fieldSelector", "string", "Selects objects by their fields."),
    query("labelSelector", "string", "Selects objects by their labels."),
    query("limit", "integer", "The most objects that one answer holds."),
    query("resourceVersion", "string", "The resource version that the answer is at, or not older than."),
    query("resourceVersionMatch", "string", "How resourceVersion is applied to lists."),
    query("sendInitialEvents", "boolean", "Whether a watch begins with the objects that there are."),
    query("timeoutSeconds", "integer", "How long a list or watch may take."),
];
static WATCH: [Parameter; 2] = [
    query("allowWatchBookmarks", "boolean", "Whether a watch may send bookmarks."),
    query("watch", "boolean", "Watch for changes instead of listing."),
];
static WRITE: [Parameter; 3] = [
    query("dryRun", "string", "When 'All', nothing is stored."),
    query("fieldManager", "string", "The name of who makes the change."),
    query(
        "fieldValidation",
        "string",
        "What is done about unknown and duplicate fields: Ignore, Warn or Strict.",
    ),
];
static FORCE: Parameter = query("force", "boolean", "Whether apply takes fields over from other managers.");
static DELETE: [Parameter; 4] = [
    query("dryRun", "string", "When 'All', nothing is deleted."),
    query("gracePeriodSeconds", "integer", "How long the object may take to go."),
    query("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    query("propagationPolicy", "string", "What happens to dependents: Orphan, Background or Foreground."),
];

const OK: &[(&str, &str)] = &[("200", "OK")];
const OK_CREATED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created")];
const OK_CREATED_ACCEPTED: &[(&str, &str)] = &[("200", "OK"), ("201", "Created"), ("202", "Accepted")];
const OK_ACCEPTED: &[(&str, &str)] = &[("200", "OK"), ("202", "Accepted")];

/// All paths of a resource.
pub(super) fn paths(resource: &Resource, schemas: &Catalogue<'_>) -> Vec<PathItem> {
    let group_version = group_version(&resource.group, &resource.version);
    let prefix = if resource.group.is_empty() { "/api" } else { "/apis" };
    let base = format!("{prefix}/{group_version}");
    let maker = Maker { resource, schemas, namespaced: resource.namespaced() };
    let collection = if resource.namespaced() {
        format!("{base}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{base}/{}", resource.plural)
    };
    let mut items = Vec::new();
    if resource.namespaced() && resource.verbs.contains(Verb::List) {
        let operation = Maker { namespaced: false, ..maker }.list("ForAllNamespaces");
        items.push(PathItem {
            path: format!("{base}/{}", resource.plural),
            parameters: vec![&PRETTY],
            operations: vec![operation],
        });
    }
    items.push(maker.item(collection.clone(), false, maker.collection()));
    items.push(maker.item(format!("{collection}/{{name}}"), true, maker.object()));
    if resource.subresources.status {
        let operations = maker.part("Status", Verbs::GET_PATCH_UPDATE, &resource.definition, None);
        items.push(maker.item(format!("{collection}/{{name}}/status"), true, operations));
    }
    if resource.subresources.scale.is_some() {
        let kind = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
        let definition = "io.k8s.api.autoscaling.v1.Scale";
        let operations = maker.part("Scale", Verbs::GET_PATCH_UPDATE, definition, Some(kind));
        items.push(maker.item(format!("{collection}/{{name}}/scale"), true, operations));
    }
    for other in &resource.subresources.others {
        let path = format!("{collection}/{{name}}/{}", other.name);
        items.push(maker.item(path, true, maker.other(other)));
    }
    items.retain(|item| !item.operations.is_empty());
    items
}

#[derive(Clone, Copy)]
struct Maker<'a> {
    resource: &'a Resource,
    schemas: &'a Catalogue<'a>,
    namespaced: bool,
}

impl Maker<'_> {
    fn item(&self, path: String, named: bool, operations: Vec<Operation>) -> PathItem {
        let name = named.then_some(&NAME);
        let namespace = self.namespaced.then_some(&NAMESPACE);
        PathItem {
            path,
            parameters: name.into_iter().chain(namespace).chain([&PRETTY]).collect(),
            operations,
        }
    }

    fn operation(&self, method: &'static str, action: &'static str, words: &str, suffix: &str) -> Operation {
        let Resource { group, version, kind, .. } = self.resource;
        let tag = identifier_words(group, version).join("_").to_lowercase();
        let camel: String = identifier_words(group, version).concat();
        let scope = if self.namespaced { "Namespaced" } else { "" };
        Operation {
            method,
            id: format!("{words}{camel}{scope}{kind}{suffix}"),
            description: String::new(),
            tag,
            action,
            kind: json!({"group": group, "version": version, "kind": kind}),
            patches: if self.resource.defined.is_some() { &CUSTOM_PATCH_TYPES } else { &PATCH_TYPES },
            parameters: Vec::new(),
            body: None,
            answer: Some(self.resource.definition.to_string()),
            codes: OK,
        }
    }

    fn list(&self, suffix: &str) -> Operation {
        Operation {
            description: format!("list or watch objects of kind {}", self.resource.kind),
            parameters: WATCH.iter().chain(&SELECTION).collect(),
            answer: Some(list_name(self.resource)),
            ..self.operation("get", "list", "list", suffix)
        }
    }

    fn collection(&self) -> Vec<Operation> {
        let (verbs, kind) = (self.resource.verbs, &self.resource.kind);
        let mut operations = Vec::new();
        if verbs.contains(Verb::List) {
            operations.push(self.list(""));
        }
        if verbs.contains(Verb::Create) {
            operations.push(Operation {
                description: format!("create {} {kind}", article(kind)),
                parameters: WRITE.iter().collect(),
                body: Some((self.resource.definition.to_string(), true)),
                codes: OK_CREATED_ACCEPTED,
                ..self.operation("post", "post", "create", "")
            });
        }
        if verbs.contains(Verb::DeleteCollection) {
            operations.push(Operation {
                description: format!("delete collection of {kind}"),
                parameters: DELETE.iter().chain(&SELECTION).collect(),
                body: self.options_body(),
                answer: Some(format!("{META}.Status")),
                ..self.operation("delete", "deletecollection", "deleteCollection", "")
            });
        }
        operations
    }

    fn options_body(&self) -> Option<(String, bool)> {
        let name = format!("{META}.DeleteOptions");
        self.schemas.has(&name).then_some((name, false))
    }

    fn object(&self) -> Vec<Operation> {
        let (verbs, kind) = (self.resource.verbs, &self.resource.kind);
        let mut operations = self.part("", verbs, &self.resource.definition, None);
        if verbs.contains(Verb::Delete) {
            operations.push(Operation {
                description: format!("delete {} {kind}", article(kind)),
                parameters: DELETE.iter().collect(),
                body: self.options_body(),
                answer: Some(format!("{META}.Status")),
                codes: OK_ACCEPTED,
                ..self.operation("delete", "delete", "delete", "")
            });
        }
        operations
    }

    /// Reading, replacing and patching an object or a part of it.
    fn part(&self, suffix: &str, verbs: Verbs, definition: &str, kind: Option<Value>) -> Vec<Operation> {
        let of = if suffix.is_empty() { String::new() } else { format!("{} of ", suffix.to_lowercase()) };
        let make = |method, action, words: &str| {
            let operation = self.operation(method, action, words, suffix);
            let answer = Some(definition.to_owned());
            Operation {
                description: format!("{words} {of}the specified {}", self.resource.kind),
                kind: kind.clone().unwrap_or_else(|| operation.kind.clone()),
                answer,
                ..operation
            }
        };
        let mut operations = Vec::new();
        if verbs.contains(Verb::Get) {
            operations.push(make("get", "get", "read"));
        }
        if verbs.contains(Verb::Update) {
            operations.push(Operation {
                parameters: WRITE.iter().collect(),
                body: Some((definition.to_owned(), true)),
                codes: OK_CREATED,
                ..make("put", "put", "replace")
            });
        }
        if verbs.contains(Verb::Patch) {
            operations.push(Operation {
                parameters: WRITE.iter().chain([&FORCE]).collect(),
                body: Some((format!("{META}.Patch"), true)),
                codes: OK_CREATED,
                ..make("patch", "patch", "partially update")
            });
        }
        for operation in &mut operations {
            operation.id = operation.id.replacen("partially update", "patch", 1);
        }
        operations
    }

    fn other(&self, other: &Subresource) -> Vec<Operation> {
        let suffix = capitalised(&other.name);
        let kind = json!({"group": other.group, "version": other.version, "kind": other.kind});
        // A subresource whose kind is the parent's, such as a log, answers with something else than an object.
        let plain = other.kind == self.resource.kind;
        let definition = self.schemas.of_kind(&other.group, &other.version, &other.kind);
        let mut operations = match (&definition, plain) {
            (Some(definition), false) => self.part(&suffix, other.verbs, definition, Some(kind.clone())),
            _ => self.part(&suffix, other.verbs, &self.resource.definition, Some(kind.clone())),
        };
        if other.verbs.contains(Verb::Create) {
            operations.push(Operation {
                description: format!("create {} of the specified {}", other.name, self.resource.kind),
                kind,
                parameters: WRITE.iter().collect(),
                body: definition.clone().filter(|_| !plain).map(|definition| (definition, true)),
                answer: definition,
                codes: OK_CREATED_ACCEPTED,
                ..self.operation("post", if plain { "connect" } else { "post" }, "create", &suffix)
            });
        }
        if plain {
            operations.iter_mut().for_each(|operation| operation.answer = None);
        }
        operations
    }
}

/// `Core`, `V1`; `RbacAuthorization`, `V1`.
fn identifier_words(group: &str, version: &str) -> [String; 2] {
    let group = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    [group.split(['.', '-']).map(capitalised).collect(), capitalised(version)]
}

fn capitalised(word: &str) -> String {
    let mut characters = word.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

fn article(kind: &str) -> &'static str {
    if kind.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" }
}

impl Parameter {
    fn to_v2(&self) -> Value {
        let mut out = json!({
            "name": self.name, "in": self.place, "type": self.kind, "description": self.description,
            "uniqueItems": true,
        });
        if self.place == "path" {
            out["required"] = true.into();
        }
        out
    }

    fn to_v3(&self) -> Value {
        let mut out = json!({
            "name": self.name, "in": self.place, "description": self.description,
            "schema": {"type": self.kind, "uniqueItems": true},
        });
        if self.place == "path" {
            out["required"] = true.into();
        }
        out
    }
}

impl PathItem {
    pub(super) fn to_v2(&self, wanted: &mut BTreeSet<String>) -> Value {
        let mut out = Map::new();
        for operation in &self.operations {
            out.insert(operation.method.to_owned(), operation.to_v2(wanted));
        }
        let parameters = self.parameters.iter().map(|parameter| parameter.to_v2()).collect();
        out.insert("parameters".to_owned(), parameters);
        Value::Object(out)
    }

    pub(super) fn to_v3(&self, wanted: &mut BTreeSet<String>) -> Value {
        let mut out = Map::new();
        for operation in &self.operations {
            out.insert(operation.method.to_owned(), operation.to_v3(wanted));
        }
        let parameters = self.parameters.iter().map(|parameter| parameter.to_v3()).collect();
        out.insert("parameters".to_owned(), parameters);
        Value::Object(out)
    }
}

impl Operation {
    fn common(&self) -> Map<String, Value> {
        let common = json!({
            "description": self.description, "operationId": self.id, "tags": [self.tag],
            "x-kubernetes-action": self.action, "x-kubernetes-group-version-kind": self.kind,
        });
        common.as_object().cloned().unwrap_or_default()
    }

    fn consumes(&self) -> &'static [&'static str] {
        if self.action == "patch" { self.patches } else { &["*/*"] }
    }

    fn produces(&self) -> Vec<&'static str> {
        match (&self.answer, self.action) {
            (None, _) => vec!["text/plain"],
            (_, "list") => MEDIA_TYPES.iter().chain(&WATCH_TYPES[..1]).copied().collect(),
            _ => MEDIA_TYPES.to_vec(),
        }
    }

    fn to_v2(&self, wanted: &mut BTreeSet<String>) -> Value {
        let mut out = self.common();
        let mut parameters: Vec<Value> = Vec::new();
        if let Some((body, required)) = &self.body {
            let schema = reference(body, Style::V2, wanted);
            parameters.push(json!({"name": "body", "in": "body", "required": required, "schema": schema}));
        }
        parameters.extend(self.parameters.iter().map(|parameter| parameter.to_v2()));
        let mut responses = Map::new();
        for (code, description) in self.codes {
            let schema = self.answer_schema(Style::V2, wanted);
            responses.insert((*code).to_owned(), json!({"description": description, "schema": schema}));
        }
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        out.insert("consumes".to_owned(), json!(self.consumes()));
        out.insert("produces".to_owned(), json!(self.produces()));
        out.insert("schemes".to_owned(), json!(["https"]));
        out.insert("parameters".to_owned(), parameters.into());
        out.insert("responses".to_owned(), responses.into());
        Value::Object(out)
    }

    fn to_v3(&self, wanted: &mut BTreeSet<String>) -> Value {
        let mut out = self.common();
        let parameters = self.parameters.iter().map(|parameter| parameter.to_v3()).collect();
        out.insert("parameters".to_owned(), parameters);
        if let Some((body, required)) = &self.body {
            let schema = reference(body, Style::V3, wanted);
            let content: Map<String, Value> = self
                .consumes()
                .iter()
                .map(|media| ((*media).to_owned(), json!({"schema": schema})))
                .collect();
            let mut body = json!({"content": content});
            if *required {
                body["required"] = true.into();
            }
            out.insert("requestBody".to_owned(), body);
        }
        let mut responses = Map::new();
        for (code, description) in self.codes {
            let schema = self.answer_schema(Style::V3, wanted);
            let content: Map<String, Value> = self
                .produces()
                .iter()
                .map(|media| ((*media).to_owned(), json!({"schema": schema})))
                .collect();
            responses.insert((*code).to_owned(), json!({"description": description, "content": content}));
        }
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        out.insert("responses".to_owned(), responses.into());
        Value::Object(out)
    }

    fn answer_schema(&self, style: Style, wanted: &mut BTreeSet<String>) -> Value {
        match &self.answer {
            Some(name) => reference(name, style, wanted),
            None => json!({"type": "string"}),
        }
    }
}
