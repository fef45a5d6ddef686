//! Which requests concern a webhook or a policy: its rules, the forms in which a request can be shown to it, and its
//! selectors.
//!
//! Conditions are judged in `conditions`, after everything here has said yes.

use std::sync::Arc;

use api_machinery::meta;
use api_machinery::resource::Resource;
use api_machinery::selector::{LabelSelector, SelectorError};
use api_machinery::status::ApiError;
use serde_json::Value;

use super::subject::Subject;
use crate::catalog::Catalog;
use crate::references::items;
use crate::server::ApiServer;
use crate::types::Operation;

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    /// Only objects of these names, if there are any.
    names: Vec<String>,
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
            names: texts(rule, "resourceNames"),
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
            && (self.names.is_empty() || self.names.iter().any(|name| name == subject.name()))
    }
}

/// What a webhook or a policy is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matching {
    /// Without rules it is about everything.
    rules: Option<Vec<Rule>>,
    exceptions: Vec<Rule>,
    /// Only what is asked for under the name that a rule says.
    exact: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

impl Matching {
    /// Reads the fields of a webhook.
    pub fn of(webhook: &Value) -> Result<Matching, SelectorError> {
        Matching::with(Some(items(webhook, "rules").map(Rule::of).collect()), Vec::new(), webhook)
    }

    /// Reads `MatchResources` of a policy or a binding.
    pub fn of_resources(resources: &Value) -> Result<Matching, SelectorError> {
        let rules: Vec<Rule> = items(resources, "resourceRules").map(Rule::of).collect();
        let exceptions = items(resources, "excludeResourceRules").map(Rule::of).collect();
        Matching::with((!rules.is_empty()).then_some(rules), exceptions, resources)
    }

    fn with(
        rules: Option<Vec<Rule>>,
        exceptions: Vec<Rule>,
        object: &Value,
    ) -> Result<Matching, SelectorError> {
        let selector = |field: &str| match object.get(field) {
            None | Some(Value::Null) => Ok(LabelSelector::everything()),
            some => LabelSelector::from_object(some),
        };
        Ok(Matching {
            rules,
            exceptions,
            exact: object["matchPolicy"] == "Exact",
            namespaces: selector("namespaceSelector")?,
            objects: selector("objectSelector")?,
        })
    }

    /// The resource under whose name a request concerns this, if it does and its object and namespace are selected.
    pub async fn concerns(
        &self,
        server: &ApiServer,
        subject: &Subject<'_>,
        object: Option<&Value>,
    ) -> Result<Option<Arc<Resource>>, ApiError> {
        let form = self.form(&server.catalog(), subject).filter(|_| self.selects_object(subject, object));
        if form.is_none() || self.is_for_all_namespaces(subject) {
            return Ok(form);
        }
        if let Some(namespace) = object.filter(|_| brings_its_labels(subject)) {
            return Ok(form.filter(|_| self.selects_namespace(namespace)));
        }
        let name = subject.namespace();
        let found = server.lookup().get("", "namespaces", "", name).await?;
        let found = found.ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
        Ok(form.filter(|_| self.selects_namespace(&found)))
    }

    /// The resource under whose name the rules are about a request: the one that was asked for, or another form of the same
    /// objects.
    fn form(&self, catalog: &Catalog, subject: &Subject<'_>) -> Option<Arc<Resource>> {
        if self.named(&self.exceptions, catalog, subject).is_some() {
            return None;
        }
        match &self.rules {
            Some(rules) => self.named(rules, catalog, subject),
            None => Some(subject.resource().clone()),
        }
    }

    fn named(&self, rules: &[Rule], catalog: &Catalog, subject: &Subject<'_>) -> Option<Arc<Resource>> {
        let asked = subject.resource();
        if rules.iter().any(|rule| rule.matches(subject, asked)) {
            return Some(asked.clone());
        }
        if self.exact || rules.is_empty() {
            return None;
        }
        let others = subject.other_forms(catalog);
        rules.iter().find_map(|rule| others.iter().find(|other| rule.matches(subject, other))).cloned()
    }

    /// Whether the object, as it was or as it would be, is selected.
    fn selects_object(&self, subject: &Subject<'_>, object: Option<&Value>) -> bool {
        let selected =
            |object: Option<&Value>| object.is_some_and(|object| self.objects.matches(meta::labels(object)));
        self.objects.is_empty() || selected(object) || selected(subject.old())
    }

    /// Whether the namespace's labels need not be known.
    fn is_for_all_namespaces(&self, subject: &Subject<'_>) -> bool {
        self.namespaces.is_empty() || (subject.namespace().is_empty() && !subject.is_about_namespaces())
    }

    /// Whether a namespace is selected.
    fn selects_namespace(&self, namespace: &Value) -> bool {
        self.namespaces.matches(meta::labels(namespace))
    }
}

/// Whether a request is about a webhook configuration or a policy: nobody is asked about those, or nobody could mend them.
pub fn is_exempt(resource: &Resource) -> bool {
    resource.group == "admissionregistration.k8s.io"
}

/// Whether the labels of the namespace in a request count, and not those that are stored.
fn brings_its_labels(subject: &Subject<'_>) -> bool {
    subject.is_about_namespaces()
        && subject.subresource().is_empty()
        && matches!(subject.operation(), Operation::Create | Operation::Update)
}

/// Whether a request asks who somebody is or what somebody may do: policies have no say in that, as upstream.
pub fn is_review(resource: &Resource) -> bool {
    matches!(&*resource.group, "authentication.k8s.io" | "authorization.k8s.io")
}
