//! A subresource as a view of the object: what a client sees of it, and what its changes may touch.

use api_machinery::meta;
use api_machinery::resource::{Resource, ScalePaths};
use api_machinery::selector::LabelSelector;
use api_machinery::status::{ApiError, Reason};
use serde_json::{Map, Value, json};

/// Which part of an object a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lens {
    /// The object, except for its status where there is a status subresource.
    Main,
    /// `/status`.
    Status,
    /// `/scale`.
    Scale(ScalePaths),
    /// `/binding` of a pod: the server's own step, which may set what nobody else may.
    Bind,
    /// `/finalize` of a namespace: `spec.finalizers` only.
    Finalize,
    /// A subresource by which a part of the object is changed, by its name.
    Part(&'static str),
}

impl Lens {
    /// The lens of a subresource.
    pub fn of(resource: &Resource, subresource: &str) -> Result<Lens, ApiError> {
        match subresource {
            "" => Ok(Lens::Main),
            "status" => Ok(Lens::Status),
            "finalize" => Ok(Lens::Finalize),
            "scale" => {
                resource.subresources.scale.clone().map(Lens::Scale).ok_or_else(ApiError::no_such_path)
            }
            other if resource.part(other).is_some() => {
                Ok(Lens::Part(resource.part(other).map_or("", |part| part.name)))
            }
            other => {
                let text = format!("the subresource {other} is not served by this server yet");
                Err(ApiError::new(Reason::Unknown, text).with_code(501))
            }
        }
    }

    /// Whether the view is the whole object.
    pub fn is_whole(&self) -> bool {
        !matches!(self, Lens::Scale(_))
    }

    /// What the client sees of an object.
    pub fn view(&self, object: &Value) -> Value {
        match self {
            Lens::Scale(paths) => scale_of(object, paths),
            _ => object.clone(),
        }
    }

    /// An applied view of an object as the part of it that is stated. Of a scale that is the number of replicas.
    pub fn applied(&self, view: &Value, resource: &Resource) -> Value {
        let Lens::Scale(paths) = self else { return view.clone() };
        let mut object = json!({"apiVersion": resource.api_version(), "kind": resource.kind, "metadata": {}});
        for field in ["name", "namespace", "uid", "resourceVersion", "managedFields"] {
            if let Some(value) = view.get("metadata").and_then(|metadata| metadata.get(field)) {
                object["metadata"][field] = value.clone();
            }
        }
        if let Some(replicas) = view.pointer("/spec/replicas") {
            set_pointer(&mut object, &paths.spec_replicas, replicas.clone());
        }
        object
    }

    /// The object after the client changed its view of it.
    pub fn put(&self, view: Value, old: &Value) -> Result<Value, ApiError> {
        match self {
            Lens::Main | Lens::Status | Lens::Bind | Lens::Part(_) => Ok(view),
            Lens::Finalize => Ok(with_finalizers(&view, old)),
            Lens::Scale(paths) => with_scale(&view, old, paths),
        }
    }
}

/// The `autoscaling/v1 Scale` of an object.
fn scale_of(object: &Value, paths: &ScalePaths) -> Value {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.get("metadata").and_then(|metadata| metadata.get(field)) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": number(&paths.spec_replicas)},
        "status": {"replicas": number(&paths.status_replicas)},
    });
    let selector = paths.selector.as_ref().and_then(|pointer| object.pointer(pointer));
    if let Some(selector) = selector.and_then(selector_text) {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// The string form of a selector that is an object or, in old kinds, a plain map. Custom resources have the text itself.
fn selector_text(selector: &Value) -> Option<String> {
    if let Some(text) = selector.as_str().filter(|text| !text.is_empty()) {
        return Some(text.to_owned());
    }
    let fields = selector.as_object()?;
    if fields.contains_key("matchLabels") || fields.contains_key("matchExpressions") {
        return LabelSelector::from_object(Some(selector)).ok().map(|selector| selector.to_string());
    }
    Some(LabelSelector::from_set(fields).to_string())
}

fn with_scale(scale: &Value, old: &Value, paths: &ScalePaths) -> Result<Value, ApiError> {
    let invalid = |detail: String| {
        let mut errors = api_machinery::field::Errors::new();
        let spec = api_machinery::field::Path::new("spec");
        let value = scale.pointer("/spec/replicas").cloned().unwrap_or_default();
        errors.invalid(&spec.child("replicas"), value, detail);
        ApiError::invalid("autoscaling", "Scale", meta::name(old), errors)
    };
    let kind = (meta::api_version(scale), meta::kind(scale));
    if !matches!(kind, ("autoscaling/v1" | "", "Scale" | "")) {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version (autoscaling/v1)",
            kind.0
        )));
    }
    let replicas = match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(value) => value
            .as_i64()
            .filter(|replicas| i32::try_from(*replicas).is_ok())
            .ok_or_else(|| invalid("must be a 32-bit integer".to_owned()))?,
    };
    if replicas < 0 {
        return Err(invalid("must be greater than or equal to 0".to_owned()));
    }
    let mut new = old.clone();
    meta::set_text(&mut new, "resourceVersion", meta::resource_version(scale));
    let uid = meta::uid(scale);
    if !uid.is_empty() {
        meta::set_uid(&mut new, uid);
    }
    set_pointer(&mut new, &paths.spec_replicas, replicas.into());
    Ok(new)
}

/// Sets a field by JSON pointer; parents that are missing are made.
fn set_pointer(object: &mut Value, pointer: &str, value: Value) {
    let mut place = object;
    for field in pointer.split('/').skip(1) {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[field];
    }
    *place = value;
}

fn with_finalizers(view: &Value, old: &Value) -> Value {
    let mut new = old.clone();
    meta::set_text(&mut new, "resourceVersion", meta::resource_version(view));
    if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
        match view
            .pointer("/spec/finalizers")
            .filter(|list| list.as_array().is_some_and(|list| !list.is_empty()))
        {
            Some(list) => spec.insert("finalizers".to_owned(), list.clone()),
            None => spec.remove("finalizers"),
        };
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> ScalePaths {
        ScalePaths {
            spec_replicas: "/spec/replicas".into(),
            status_replicas: "/status/replicas".into(),
            selector: Some("/spec/selector".into()),
        }
    }

    #[test]
    fn scale_there_and_back() {
        let object = json!({
            "metadata": {"name": "a", "namespace": "b", "resourceVersion": "7", "labels": {"x": "y"}},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "a"}}, "other": 1},
            "status": {"replicas": 1},
        });
        let lens = Lens::Scale(paths());
        let mut scale = lens.view(&object);
        assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=a"}));
        assert_eq!(scale["metadata"], json!({"name": "a", "namespace": "b", "resourceVersion": "7"}));
        let custom = json!({"spec": {"selector": "app in (a,b)"}});
        assert_eq!(lens.view(&custom)["status"]["selector"], "app in (a,b)");
        scale["spec"]["replicas"] = json!(5);
        let mut expected = object.clone();
        expected["spec"]["replicas"] = json!(5);
        assert_eq!(lens.put(scale.clone(), &object).expect("a good scale"), expected);
        scale["spec"]["replicas"] = json!(-1);
        assert_eq!(lens.put(scale.clone(), &object).expect_err("negative").code(), 422);
        scale["spec"]["replicas"] = json!("5");
        assert_eq!(lens.put(scale, &object).expect_err("text").code(), 422);
    }
}
