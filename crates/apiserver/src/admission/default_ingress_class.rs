//! DefaultIngressClass: an Ingress that names no class gets the default one, the newest if there are several.

use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::{Value, json};

use super::newest_default;
use crate::types::{AdmissionRequest, Lookup, Operation};

const GROUP: &str = "networking.k8s.io";
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// How classes were named before there were any.
const OLD: &str = "kubernetes.io/ingress.class";

/// Names the class.
pub async fn admit(lookup: &dyn Lookup, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    let resource = request.resource;
    let ingress = resource.group == GROUP && resource.plural == "ingresses";
    if !ingress || request.operation != Operation::Create || !request.info.subresource.is_empty() {
        return Ok(());
    }
    let Some(ingress) = request.object.as_deref_mut() else { return Ok(()) };
    let named = ingress.pointer("/spec/ingressClassName").is_some_and(|class| !class.is_null());
    if named || meta::annotation(ingress, OLD).is_some() {
        return Ok(());
    }
    let classes = lookup.list(GROUP, "ingressclasses", None).await?;
    if let Some(class) = newest_default(classes, &[DEFAULT]) {
        if !ingress["spec"].is_object() {
            ingress["spec"] = json!({});
        }
        ingress["spec"]["ingressClassName"] = Value::from(meta::name(&class));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, Write, resource};
    use super::*;
    use api_machinery::resource::Scope;

    #[tokio::test]
    async fn the_newest_default() {
        let class = |name: &str, day: &str, default: &str| {
            let created = format!("2026-01-{day}T00:00:00Z");
            let metadata =
                json!({"name": name, "creationTimestamp": created, "annotations": {DEFAULT: default}});
            (GROUP, "ingressclasses", json!({"metadata": metadata}))
        };
        let lookup = Objects::of(&[
            class("b", "02", "true"),
            class("a", "02", "true"),
            class("old", "01", "true"),
            class("no", "03", ""),
        ]);
        let table = [
            (json!({"spec": {}}), json!("a")),
            (json!({}), json!("a")),
            (json!({"spec": {"ingressClassName": "mine"}}), json!("mine")),
            (json!({"metadata": {"annotations": {OLD: "nginx"}}, "spec": {}}), Value::Null),
        ];
        for (ingress, want) in table {
            let kind = resource(GROUP, "Ingress", "ingresses", Scope::Namespaced);
            let mut write = Write::new(Operation::Create, kind, "a", Some(ingress), None);
            admit(&*lookup, &mut write.request()).await.expect("admitted");
            assert_eq!(write.object.expect("still there")["spec"]["ingressClassName"], want);
        }
    }
}
