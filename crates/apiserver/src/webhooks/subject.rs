//! One write as it is shown to webhooks: in the version that somebody asked for, or in another one.
//!
//! Inside, objects are in the form in which they are stored.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use api_machinery::meta;
use api_machinery::resource::Resource;
use api_machinery::status::ApiError;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::authn::user_value;
use crate::catalog::Catalog;
use crate::custom::convert;
use crate::registry::Lens;
use crate::request::admit::Admission;
use crate::server::ApiServer;
use crate::types::{Operation, UserInfo};

/// One write.
pub struct Subject<'a> {
    admission: &'a Admission<'a>,
    /// Set when an object is changed through a subresource that shows something else, or only a part of it.
    lens: Option<Lens>,
    name: String,
    namespace: String,
    others: OnceLock<Vec<Arc<Resource>>>,
}

impl<'a> Subject<'a> {
    /// As admission has it.
    pub fn new(admission: &'a Admission<'a>, object: Option<&Value>) -> Subject<'a> {
        let (info, stored) = (&admission.call.info, &admission.call.stored);
        let changed = admission.operation == Operation::Update;
        let name = match info.name.as_str() {
            "" => object.or(admission.old).map(meta::name).unwrap_or_default(),
            name => name,
        };
        let about_namespaces = stored.group.is_empty() && stored.plural == "namespaces";
        let namespace = if about_namespaces { name } else { &info.namespace };
        Subject {
            lens: changed.then(|| Lens::of(stored, &info.subresource).ok()).flatten(),
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            others: OnceLock::new(),
            admission,
        }
    }

    /// What is about to happen.
    pub fn operation(&self) -> Operation {
        self.admission.operation
    }

    /// The resource that was asked for.
    pub fn resource(&self) -> &Arc<Resource> {
        &self.admission.call.resource
    }

    /// The resource whose objects they are.
    pub fn stored(&self) -> &Arc<Resource> {
        &self.admission.call.stored
    }

    /// Other resources with the same objects and the same subresource.
    pub fn other_forms(&self, catalog: &Catalog) -> &[Arc<Resource>] {
        let (asked, stored, subresource) = (self.resource(), self.stored(), self.subresource());
        let names = |of: &Resource| (of.group.clone(), of.version.clone(), of.plural.clone());
        let several = self.admission.call.custom.is_some();
        let shows = |other: &Resource| {
            names(other) == names(stored)
                || (several && (&other.group, &other.plural) == (&stored.group, &stored.plural))
                || other.view_of.is_some_and(|view| {
                    (view.group, view.version, view.plural)
                        == (&*stored.group, &*stored.version, &*stored.plural)
                })
        };
        self.others.get_or_init(|| {
            let same = catalog.all().filter(|other| shows(other) && names(other) != names(asked));
            same.filter(|other| subresource.is_empty() || other.has_subresource(subresource))
                .cloned()
                .collect()
        })
    }

    /// The subresource, or nothing.
    pub fn subresource(&self) -> &str {
        &self.admission.call.info.subresource
    }

    /// The namespace; for a namespace itself its name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name, as far as there is one yet.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who asks.
    pub fn user(&self) -> &'a UserInfo {
        &self.admission.call.user
    }

    /// The 403 of a request: `pods "x" is forbidden: ...`.
    pub fn forbidden(&self, object: Option<&Value>, why: impl std::fmt::Display) -> ApiError {
        let generated = object.map(meta::generate_name).unwrap_or_default();
        let names = [self.name(), generated, "Unknown"];
        let name = names.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
        let (group, plural) = self.admission.call.names();
        ApiError::forbidden(group, plural, name, why)
    }

    /// Whether the object is a namespace.
    pub fn is_about_namespaces(&self) -> bool {
        let stored = self.stored();
        stored.group.is_empty() && stored.plural == "namespaces"
    }

    /// The object before, as it is stored.
    pub fn old(&self) -> Option<&'a Value> {
        self.admission.old
    }

    /// Until when the request must be answered.
    pub fn deadline(&self) -> Instant {
        self.admission.call.deadline
    }

    /// Nothing will be stored.
    pub fn is_dry_run(&self) -> bool {
        self.admission.dry_run
    }

    /// An object as `form` shows it.
    pub async fn show<'b>(
        &self,
        server: &ApiServer,
        form: &Resource,
        object: &'b Value,
    ) -> Result<Cow<'b, Value>, ApiError> {
        match (&self.lens, &form.view_of) {
            (Some(lens), _) if !lens.is_whole() => Ok(Cow::Owned(lens.view(object))),
            (_, Some(view)) if self.shows_objects() => {
                let mut object = object.clone();
                (view.from_stored)(&mut object);
                Ok(Cow::Owned(object))
            }
            _ if self.shows_objects() => convert::form(server, self.admission.call, form, object).await,
            _ => Ok(Cow::Borrowed(object)),
        }
    }

    /// The object, and the one before, as `form` shows them.
    pub async fn both<'b>(
        &self,
        server: &ApiServer,
        form: &Resource,
        object: Option<&'b Value>,
    ) -> Result<[Option<Cow<'b, Value>>; 2], ApiError>
    where
        'a: 'b,
    {
        let mut shown = [None, None];
        for (place, object) in shown.iter_mut().zip([object, self.old()]) {
            if let Some(object) = object {
                *place = Some(self.show(server, form, object).await?);
            }
        }
        Ok(shown)
    }

    /// What was shown and changed, put back into the object.
    pub async fn put(
        &self,
        server: &ApiServer,
        form: &Resource,
        mut shown: Value,
        object: &Value,
    ) -> Result<Value, ApiError> {
        match (&self.lens, &form.view_of) {
            (Some(lens), _) if !lens.is_whole() => return lens.put(shown, object),
            (_, Some(view)) if self.shows_objects() => (view.to_stored)(&mut shown),
            _ if self.shows_objects() => {
                let call = self.admission.call;
                shown = convert::form(server, call, &call.resource, &shown).await?.into_owned();
            }
            _ => {}
        }
        match &self.lens {
            Some(lens) => lens.put(shown, object),
            None => Ok(shown),
        }
    }

    /// Whether the object of the request is one of the resource, and not a body that is posted to one.
    pub fn shows_objects(&self) -> bool {
        match self.operation() {
            Operation::Create => self.subresource().is_empty(),
            Operation::Update => self.lens.as_ref().is_none_or(Lens::is_whole),
            Operation::Delete => true,
            Operation::Connect => false,
        }
    }

    /// Group, version and kind of the request's object as `form` shows it.
    fn kind(&self, form: &Resource) -> Value {
        let other = form.subresources.others.iter().find(|other| other.name == self.subresource());
        let (group, version, kind) = match (self.subresource(), other) {
            ("scale", _) => ("autoscaling", "v1", "Scale"),
            (_, Some(other)) => (&*other.group, &*other.version, &*other.kind),
            _ => (&*form.group, &*form.version, &*form.kind),
        };
        json!({"group": group, "version": version, "kind": kind})
    }

    /// The `AdmissionRequest` as far as it does not depend on the webhook: all but the objects and its uid.
    pub fn request(&self, form: &Resource) -> Map<String, Value> {
        let resource =
            |of: &Resource| json!({"group": of.group, "version": of.version, "resource": of.plural});
        let mut request = Map::new();
        let mut set = |field: &str, value: Value| drop(request.insert(field.to_owned(), value));
        set("kind", self.kind(form));
        set("resource", resource(form));
        set("requestKind", self.kind(self.resource()));
        set("requestResource", resource(self.resource()));
        for (field, text) in [
            ("subResource", self.subresource()),
            ("requestSubResource", self.subresource()),
            ("name", self.name()),
            ("namespace", self.namespace()),
        ] {
            if !text.is_empty() {
                set(field, text.into());
            }
        }
        set("operation", self.operation().as_str().into());
        set("userInfo", user_value(&self.admission.call.user));
        set("dryRun", self.is_dry_run().into());
        set("options", self.options());
        request
    }

    fn options(&self) -> Value {
        let mut options = self.admission.options.clone();
        let kind = match self.operation() {
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
            _ => return options,
        };
        if !options.is_object() {
            options = json!({});
        }
        // Clients that send options need not say what they are.
        options["kind"] = kind.into();
        options["apiVersion"] = "meta.k8s.io/v1".into();
        options
    }
}
