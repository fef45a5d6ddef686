//! Which requests concern a webhook: its rules, the forms in which a request can be shown to it, and its selectors.
//!
//! Pure. Conditions are judged in `conditions`, after everything here has said yes.

use std::sync::Arc;

use api_machinery::meta;
use api_machinery::resource::Resource;
use api_machinery::selector::{LabelSelector, SelectorError};
use serde_json::Value;

use super::subject::Subject;
use crate::catalog::Catalog;
use crate::references::items;
use crate::types::Operation;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    All,
    Namespaced,
    Cluster,
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    items(value, field).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether one of the words is meant, or all are.
fn names(words: &[String], word: &str) -> bool {
    words.iter().any(|one| one == "*" || one == word)
}

impl Rule {
    fn of(rule: &Value) -> Rule {
        let resources = texts(rule, "resources").into_iter().map(|text| match text.split_once('/') {
            Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
            None => (text, String::new()),
        });
        Rule {
            operations: texts(rule, "operations"),
            groups: texts(rule, "apiGroups"),
            versions: texts(rule, "apiVersions"),
            resources: resources.collect(),
            scope: match rule["scope"].as_str() {
                Some("Namespaced") => Scope::Namespaced,
                Some("Cluster") => Scope::Cluster,
                _ => Scope::All,
            },
        }
    }

    /// Whether the request concerns the webhook if it were about `resource`.
    fn matches(&self, subject: &Subject<'_>, resource: &Resource) -> bool {
        // Namespaces are in no namespace, although their requests name one.
        let inside = !subject.namespace().is_empty() && !subject.is_about_namespaces();
        let scope = match self.scope {
            Scope::All => true,
            Scope::Namespaced => inside,
            Scope::Cluster => !inside,
        };
        let resources = || {
            self.resources.iter().any(|(plural, subresource)| {
                (plural == "*" || *plural == resource.plural)
                    && (subresource == "*" || subresource == subject.subresource())
            })
        };
        scope
            && names(&self.operations, subject.operation().as_str())
            && names(&self.groups, &resource.group)
            && names(&self.versions, &resource.version)
            && resources()
    }
}

/// What a webhook is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matching {
    rules: Vec<Rule>,
    /// Only what is asked for under the name that a rule says.
    exact: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

impl Matching {
    /// Reads the fields `rules`, `matchPolicy`, `namespaceSelector` and `objectSelector`.
    pub fn of(webhook: &Value) -> Result<Matching, SelectorError> {
        let selector = |field: &str| match webhook.get(field) {
            None | Some(Value::Null) => Ok(LabelSelector::everything()),
            some => LabelSelector::from_object(some),
        };
        Ok(Matching {
            rules: items(webhook, "rules").map(Rule::of).collect(),
            exact: webhook["matchPolicy"] == "Exact",
            namespaces: selector("namespaceSelector")?,
            objects: selector("objectSelector")?,
        })
    }

    /// The resource under whose name the request concerns the webhook, if it does: the one that was asked for, or another
    /// form of the same objects.
    pub fn form(&self, catalog: &Catalog, subject: &Subject<'_>) -> Option<Arc<Resource>> {
        let asked = subject.resource();
        if self.rules.iter().any(|rule| rule.matches(subject, asked)) {
            return Some(asked.clone());
        }
        if self.exact {
            return None;
        }
        let others = subject.other_forms(catalog);
        self.rules.iter().find_map(|rule| others.iter().find(|other| rule.matches(subject, other))).cloned()
    }

    /// Whether the object, as it was or as it would be, is selected.
    pub fn selects_object(&self, subject: &Subject<'_>, object: Option<&Value>) -> bool {
        let selected =
            |object: Option<&Value>| object.is_some_and(|object| self.objects.matches(meta::labels(object)));
        self.objects.is_empty() || selected(object) || selected(subject.old())
    }

    /// Whether the namespace's labels need not be known.
    pub fn is_for_all_namespaces(&self, subject: &Subject<'_>) -> bool {
        self.namespaces.is_empty() || (subject.namespace().is_empty() && !subject.is_about_namespaces())
    }

    /// Whether a namespace is selected.
    pub fn selects_namespace(&self, namespace: &Value) -> bool {
        self.namespaces.matches(meta::labels(namespace))
    }
}

/// Whether a request is about a webhook configuration or a policy: nobody is asked about those, or nobody could mend them.
pub fn is_exempt(resource: &Resource) -> bool {
    resource.group == "admissionregistration.k8s.io"
}

/// Whether the labels of the namespace in a request count, and not those that are stored.
pub fn brings_its_labels(subject: &Subject<'_>) -> bool {
    subject.is_about_namespaces()
        && subject.subresource().is_empty()
        && matches!(subject.operation(), Operation::Create | Operation::Update)
}
