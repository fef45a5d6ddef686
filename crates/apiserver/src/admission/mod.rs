//! Admission: what the cluster has to say about a write that was authorized. One file a plugin, in upstream's order.
//!
//! Plugins read other objects through `Lookup` and change nothing but the object in front of them.

pub mod certificates;
mod claim_resize;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod devices;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod priority;
mod runtime_class;
mod service_account;
mod storage_object_in_use;
mod taint_nodes_by_condition;

use std::fmt::Display;
use std::sync::Arc;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::Value;

use crate::types::{AdmissionRequest, Lookup, Operation};

/// All plugins.
pub struct Admission {
    /// Reads other objects.
    pub lookup: Arc<dyn Lookup>,
    /// Names of volumes.
    pub entropy: Entropy,
    /// The time.
    pub clock: Clock,
}

impl Admission {
    /// Mutating admission, and what is decided before anything is validated.
    pub async fn admit(&self, request: &mut AdmissionRequest<'_>) -> Result<Vec<String>, ApiError> {
        let lookup = &*self.lookup;
        namespace_lifecycle::admit(lookup, request).await?;
        limit_ranger::admit(lookup, request).await?;
        service_account::admit(lookup, &self.entropy, request).await?;
        node_restriction::admit(lookup, request).await?;
        taint_nodes_by_condition::admit(request);
        priority::admit(lookup, request).await?;
        default_toleration_seconds::admit(request);
        default_storage_class::admit(lookup, request).await?;
        storage_object_in_use::admit(request);
        runtime_class::admit(lookup, request).await?;
        certificates::admit(&self.clock, request);
        default_ingress_class::admit(lookup, request).await?;
        devices::admit(&self.clock, request);
        Ok(Vec::new())
    }

    /// Validating admission.
    pub async fn check(&self, request: &AdmissionRequest<'_>) -> Result<Vec<String>, ApiError> {
        let lookup = &*self.lookup;
        limit_ranger::check(lookup, request).await?;
        service_account::check(lookup, request).await?;
        let warnings = pod_security::check(lookup, request).await?;
        priority::check(lookup, request).await?;
        claim_resize::check(lookup, request).await?;
        runtime_class::check(lookup, request).await?;
        devices::check(lookup, request).await?;
        Ok(warnings)
    }
}

/// Whether a request is about a resource or subresource of the core group.
fn is(request: &AdmissionRequest<'_>, plural: &str, subresource: &str) -> bool {
    request.resource.group.is_empty()
        && request.resource.plural == plural
        && request.info.subresource == subresource
}

/// The name of the object of a request.
fn name<'a>(request: &'a AdmissionRequest<'_>) -> &'a str {
    if !request.info.name.is_empty() {
        return &request.info.name;
    }
    let object = request.object.as_deref();
    object
        .map(
            |object| {
                if meta::name(object).is_empty() { meta::generate_name(object) } else { meta::name(object) }
            },
        )
        .filter(|name| !name.is_empty())
        .unwrap_or("Unknown")
}

/// Upstream's 403 of an admission plugin.
fn forbidden(request: &AdmissionRequest<'_>, why: impl Display) -> ApiError {
    ApiError::forbidden(&request.resource.group, &request.resource.plural, name(request), why)
}

/// The object, if this is a creation of one of a core resource.
fn created<'a>(request: &'a mut AdmissionRequest<'_>, plural: &str) -> Option<&'a mut Value> {
    if request.operation != Operation::Create || !is(request, plural, "") {
        return None;
    }
    request.object.as_deref_mut()
}

/// Of the classes that say by one of these annotations that they are the default, the newest; of equally old ones the first
/// by name.
fn newest_default(classes: Vec<Arc<Value>>, annotations: &[&str]) -> Option<Arc<Value>> {
    let says = |class: &Value| annotations.iter().any(|key| meta::annotation(class, key) == Some("true"));
    classes.into_iter().filter(|class| says(class)).max_by(|a, b| {
        let by_age = meta::creation_timestamp(a).cmp(&meta::creation_timestamp(b));
        by_age.then_with(|| meta::name(b).cmp(meta::name(a)))
    })
}

/// The list at a field, made when missing; `None` if something else is there.
fn list_mut<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Vec<Value>> {
    let list = object.as_object_mut()?.entry(field).or_insert_with(|| Value::Array(Vec::new()));
    if list.is_null() {
        *list = Value::Array(Vec::new());
    }
    list.as_array_mut()
}

#[cfg(test)]
mod tests {
    use super::testing::{Objects, Write, resource};
    use super::*;
    use api_machinery::resource::Scope;
    use serde_json::json;

    fn pod() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "x", "priorityClassName": "high", "runtimeClassName": "vm", "hostNetwork": true,
            "overhead": {"cpu": "1"},
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}, "envFrom": [{"secretRef": {"name": "s"}}]}],
        }})
    }

    /// What is said of the pod that everybody has something against, when these objects are there.
    async fn said(objects: &[(&str, &str, Value)], validating: bool) -> String {
        let lookup = Objects::of(objects);
        let admission = Admission { lookup, entropy: Entropy::seeded(1), clock: Clock::system() };
        let kind = resource("", "Pod", "pods", Scope::Namespaced);
        let mut write = Write::new(Operation::Create, kind, "a", Some(pod()), None);
        let answer = match validating {
            true => admission.check(&write.request()).await,
            false => admission.admit(&mut write.request()).await,
        };
        answer.err().map(|error| error.message().to_owned()).unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn plugins_speak_in_upstreams_order() {
        let named = |name: &str| json!({"name": name, "namespace": "a"});
        let level = json!({"name": "a", "labels": {"pod-security.kubernetes.io/enforce": "baseline"}});
        let held = json!({"name": "x", "namespace": "a", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}});
        let namespace = ("", "namespaces", json!({"metadata": {"name": "a"}}));
        let account = ("", "serviceaccounts", json!({"metadata": named("x")}));
        let class =
            ("scheduling.k8s.io", "priorityclasses", json!({"metadata": {"name": "high"}, "value": 1}));
        let runtime = ("node.k8s.io", "runtimeclasses", json!({"metadata": {"name": "vm"}}));
        let mutating = [
            ("namespaces \"a\" not found", namespace.clone()),
            ("service account a/x", account.clone()),
            ("no PriorityClass with name high", class),
            ("RuntimeClass \"vm\" not found", runtime.clone()),
        ];
        let mut there = Vec::new();
        for (want, mended) in mutating {
            let found = said(&there, false).await;
            assert!(found.contains(want), "{found} instead of {want}");
            there.push(mended);
        }
        assert_eq!(said(&there, false).await, "");
        let range =
            json!({"metadata": named("r"), "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}});
        // What each has against the pod, first to speak first; the last of the list speaks when all before it are silent.
        let validating = [
            ("maximum cpu usage", ("", "limitranges", range)),
            ("service account x does not reference", ("", "serviceaccounts", json!({"metadata": held}))),
            ("violates PodSecurity \"baseline:latest\"", ("", "namespaces", json!({"metadata": level}))),
            ("Pod Overhead set without", runtime),
        ];
        for first in 0..validating.len() {
            let mut there: Vec<_> = validating[first..].iter().map(|(_, object)| object.clone()).collect();
            there.extend([namespace.clone(), account.clone()]);
            let (found, want) = (said(&there, true).await, validating[first].0);
            assert!(found.contains(want), "{found} instead of {want}");
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A lookup over a list of objects, and requests about them.

    use super::*;
    use crate::types::{RequestInfo, UserInfo};
    use api_machinery::resource::{Resource, Rules, Scope, Storage, Subresources, Verbs};
    use async_trait::async_trait;
    use std::sync::Mutex;

    /// Objects by group, plural, namespace and name.
    #[derive(Default)]
    pub struct Objects(pub Mutex<Vec<(String, String, Arc<Value>)>>);

    impl Objects {
        pub fn of(objects: &[(&str, &str, Value)]) -> Arc<Objects> {
            let all = objects.iter().map(|(group, plural, object)| {
                ((*group).to_owned(), (*plural).to_owned(), Arc::new(object.clone()))
            });
            Arc::new(Objects(Mutex::new(all.collect())))
        }
    }

    #[async_trait]
    impl Lookup for Objects {
        async fn get(
            &self,
            group: &str,
            plural: &str,
            namespace: &str,
            name: &str,
        ) -> Result<Option<Arc<Value>>, ApiError> {
            let found = self.list(group, plural, Some(namespace)).await?;
            Ok(found.into_iter().find(|object| meta::name(object) == name))
        }

        async fn list(
            &self,
            group: &str,
            plural: &str,
            namespace: Option<&str>,
        ) -> Result<Vec<Arc<Value>>, ApiError> {
            let all = self.0.lock().expect("no test panicked");
            let of = all.iter().filter(|(g, p, object)| {
                g == group
                    && p == plural
                    && namespace.is_none_or(|namespace| meta::namespace(object) == namespace)
            });
            Ok(of.map(|(_, _, object)| object.clone()).collect())
        }

        fn changed_at(&self, group: &str, plural: &str) -> u64 {
            let all = self.0.lock().expect("no test panicked");
            all.iter().filter(|(g, p, _)| g == group && p == plural).count() as u64
        }

        async fn fresh(&self) -> Result<(), ApiError> {
            Ok(())
        }
    }

    /// A catalogue entry with a name and nothing else.
    pub fn resource(group: &'static str, kind: &'static str, plural: &'static str, scope: Scope) -> Resource {
        Resource {
            group: group.into(),
            version: "v1".into(),
            kind: kind.into(),
            list_kind: format!("{kind}List").into(),
            plural: plural.into(),
            singular: kind.to_ascii_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            scope,
            verbs: Verbs::ALL,
            storage: Storage::Stored,
            subresources: Subresources::default(),
            has_generation: false,
            columns: Vec::new(),
            selectable: Vec::new(),
            schema: api_machinery::schema::SchemaRef::any(),
            definition: "".into(),
            rules: Rules::default(),
            priority: 0,
            view_of: None,
            defined: None,
        }
    }

    /// One write.
    pub struct Write {
        pub resource: Resource,
        pub info: RequestInfo,
        pub user: UserInfo,
        pub operation: Operation,
        pub object: Option<Value>,
        pub old: Option<Value>,
    }

    impl Write {
        pub fn new(
            operation: Operation,
            resource: Resource,
            namespace: &str,
            object: Option<Value>,
            old: Option<Value>,
        ) -> Write {
            let name = old
                .as_ref()
                .or(object.as_ref())
                .map(|object| meta::name(object).to_owned())
                .unwrap_or_default();
            let info = RequestInfo {
                resource: resource.plural.to_string(),
                api_group: resource.group.to_string(),
                namespace: namespace.to_owned(),
                name: if operation == Operation::Create { String::new() } else { name },
                is_resource: true,
                ..RequestInfo::default()
            };
            Write {
                resource,
                info,
                user: UserInfo::new("u", &["system:authenticated"]),
                operation,
                object,
                old,
            }
        }

        pub fn by(mut self, user: UserInfo) -> Write {
            self.user = user;
            self
        }

        pub fn to(mut self, subresource: &str, name: &str) -> Write {
            self.info.subresource = subresource.to_owned();
            self.info.name = name.to_owned();
            self
        }

        pub fn request(&mut self) -> AdmissionRequest<'_> {
            AdmissionRequest {
                operation: self.operation,
                info: &self.info,
                user: &self.user,
                resource: &self.resource,
                object: self.object.as_mut(),
                old: self.old.as_ref(),
                dry_run: false,
                options: &Value::Null,
            }
        }
    }
}
