//! Which objects of a resource a list or watch is about.

use api_machinery::resource::Resource;
use api_machinery::selector::{FieldSelector, LabelSelector};
use api_machinery::status::ApiError;

use super::object::Cached;
use super::resource::Interest;

/// A namespace or all, a label selector and a field selector, checked against the resource.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Empty for all.
    pub namespace: String,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Parses both selectors; a field that the resource does not offer is a 400.
    pub fn parse(
        resource: &Resource,
        namespace: &str,
        labels: &str,
        fields: &str,
    ) -> Result<Selection, ApiError> {
        let labels =
            LabelSelector::parse(labels).map_err(|error| ApiError::bad_request(error.to_string()))?;
        let fields =
            FieldSelector::parse(fields).map_err(|error| ApiError::bad_request(error.to_string()))?;
        for term in fields.terms() {
            let known = match term.field.as_str() {
                "metadata.name" => true,
                "metadata.namespace" => resource.namespaced(),
                other => resource.selectable.iter().any(|field| field.field == other),
            };
            if !known {
                return Err(ApiError::bad_request(if resource.selectable.is_empty() {
                    format!(
                        "{:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
                        term.field
                    )
                } else {
                    format!("field label not supported: {}", term.field)
                }));
            }
        }
        Ok(Selection { namespace: namespace.to_owned(), labels, fields })
    }

    /// Everything in a namespace, or everywhere.
    pub fn all(namespace: &str) -> Selection {
        Selection {
            namespace: namespace.to_owned(),
            labels: LabelSelector::everything(),
            fields: FieldSelector::everything(),
        }
    }

    /// One object.
    pub fn one(namespace: &str, name: &str) -> Selection {
        Selection { fields: FieldSelector::exactly("metadata.name", name), ..Selection::all(namespace) }
    }

    /// Whether anything but the namespace is asked for.
    pub fn is_filtered(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    /// The one name that is selected, if the field selector says so.
    pub fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// The prefix of the keys that can match.
    pub fn key_prefix(&self) -> String {
        if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) }
    }

    /// The narrowest ring that holds every event this selection may want.
    pub(super) fn interest(&self, resource: &Resource) -> Interest {
        if let Some(name) = self.name()
            && (!resource.namespaced() || !self.namespace.is_empty())
        {
            return Interest::Object(format!("{}{name}", self.key_prefix()));
        }
        for (at, field) in resource.selectable.iter().enumerate() {
            if let Some(value) = self.fields.exact(&field.field) {
                return Interest::Field(at, value.to_owned());
            }
        }
        if self.namespace.is_empty() { Interest::All } else { Interest::Namespace(self.namespace.clone()) }
    }

    /// Whether an object is selected.
    pub fn matches(&self, resource: &Resource, object: &Cached) -> bool {
        if !self.namespace.is_empty() && object.namespace() != self.namespace {
            return false;
        }
        if !self.is_filtered() {
            return true;
        }
        self.fields_match(resource, object)
            && (self.labels.is_empty() || {
                let index = object.selected(resource);
                self.labels.matches_with(|key| index.label(key))
            })
    }

    fn fields_match(&self, resource: &Resource, object: &Cached) -> bool {
        self.fields.matches(|path| match path {
            "metadata.name" => Some(object.name()),
            "metadata.namespace" => Some(object.namespace()),
            other => {
                let at = resource.selectable.iter().position(|field| field.field == other)?;
                object.selected(resource).fields.get(at).map(|value| &**value)
            }
        })
    }
}
