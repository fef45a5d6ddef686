//! What is made of JSON and YAML: objects, patches, applied objects and who owns their fields.

use api_catalog::catalog;
use api_machinery::apply::{Part, Write};
use api_machinery::decode::{self, DecodeError, Decoded};
use api_machinery::field::Errors;
use api_machinery::patch::{json as json_patch, merge, strategic};
use api_machinery::resource::Resource;
use api_machinery::structural::{self, Checks};
use api_machinery::{meta, table};
use jiff::Timestamp;
use serde_json::{Value, json as value};

fn deployments() -> &'static Resource {
    catalog().get("apps", "v1", "deployments").expect("the catalogue has deployments")
}

fn judged(decoded: Result<Decoded, DecodeError>) -> Result<Value, String> {
    let decoded = decoded.map_err(|error| error.to_string())?;
    assert!(!decode::is_too_deep(&decoded.value), "what was decoded is not too deep");
    Ok(decoded.value)
}

/// Two values, one behind the other: a list of two.
fn pair(input: &[u8]) -> Result<(Value, Value), String> {
    match judged(decode::json(input, None))? {
        Value::Array(items) => match <[Value; 2]>::try_from(items) {
            Ok([first, second]) => Ok((first, second)),
            Err(_) => Err("no pair".to_owned()),
        },
        _ => Err("no list".to_owned()),
    }
}

fn said<T>(result: Result<T, impl ToString>) -> String {
    result.map_or_else(|error| error.to_string(), |_| "fine".to_owned())
}

/// Decoding under a schema is decoding without one and pruning; what was read is written and read again.
pub fn json(input: &[u8]) -> String {
    let schema = deployments().schema.view();
    let typed = decode::json(input, Some(schema));
    let value = match judged(decode::json(input, None)) {
        Ok(value) => value,
        // What a schema does not know is skipped, and may be what only nearly is JSON.
        Err(why) => return format!("{why}{}", typed.is_ok()),
    };
    let again = decode::json(value.to_string().as_bytes(), None).expect("what was read is written as JSON");
    assert_eq!(again.value, value);
    let typed = typed.expect("a schema refuses nothing that is JSON");
    let mut pruned = value;
    structural::prune(&mut pruned, schema);
    assert_eq!(typed.value, pruned);
    format!("{}{:?}", pruned.is_object(), typed.findings)
}

/// YAML.
pub fn yaml(input: &[u8]) -> String {
    let schema = deployments().schema.view();
    let typed = judged(decode::yaml(input, Some(schema)));
    match judged(decode::yaml(input, None)) {
        Ok(value) => format!("{}{}", said(typed), value.is_object()),
        Err(why) => why,
    }
}

/// An object of the kind that it says it is, through all rules of that kind.
pub fn objects(input: &[u8]) -> String {
    let said = match judged(decode::json(input, None)) {
        Ok(said) => said,
        Err(why) => return why,
    };
    let (version, kind) = (meta::api_version(&said), meta::kind(&said));
    let found = catalog().iter().find(|resource| resource.kind == kind && resource.api_version() == version);
    let Some(resource) = found else { return "no such kind".to_owned() };
    let decoded = decode::json(input, Some(resource.schema.view())).expect("it is JSON");
    let mut object = decoded.value;
    let mut errors = Errors::new();
    structural::validate(&object, resource.schema.view(), Checks::BUILT_IN, &mut errors);
    if !errors.is_empty() {
        return format!("{kind}: {}", errors.iter().map(|error| error.kind.reason()).collect::<String>());
    }
    meta::drop_empty(&mut object);
    let rules = &resource.rules;
    let fill = |object: &mut Value| {
        structural::apply_defaults(object, resource.schema.view());
        (rules.default)(object);
    };
    fill(&mut object);
    let mut again = object.clone();
    fill(&mut again);
    assert_eq!(again, object, "what has its defaults needs no more");
    let old = object.clone();
    (rules.prepare_create)(&mut object);
    (rules.validate)(&object, &mut errors);
    (rules.validate_create)(&object, &mut errors);
    (rules.prepare_update)(&mut object, &old);
    (rules.validate_update)(&object, &old, &mut errors);
    let now = Timestamp::UNIX_EPOCH;
    for column in &resource.columns {
        table::cell(column, &object, now);
    }
    let findings = errors.iter().map(|error| format!("{} {}", error.field, error.kind.reason()));
    format!("{kind} {}", findings.collect::<Vec<_>>().join(","))
}

/// A document and a JSON patch of it.
pub fn json_patches(input: &[u8]) -> String {
    let (document, patch) = match pair(input) {
        Ok(pair) => pair,
        Err(why) => return why,
    };
    let patch = match json_patch::Patch::parse(patch.to_string()) {
        Ok(patch) => patch,
        Err(error) => return error.message().to_owned(),
    };
    let done = patch.try_apply(&document);
    if let Ok(done) = &done {
        assert!(!decode::is_too_deep(done), "what was patched is not too deep");
        let most = input.len() + decode::MAX_BYTES;
        assert!(done.to_string().len() <= 2 * most, "copies are bounded");
    }
    said(done)
}

/// A document and a merge patch of it, which may be repeated without any effect.
pub fn merge_patches(input: &[u8]) -> String {
    let (document, patch) = match pair(input) {
        Ok(pair) => pair,
        Err(why) => return why,
    };
    let done = merge::apply(&document, &patch);
    assert_eq!(merge::apply(&done, &patch), done);
    format!("{}{}", document.is_object(), done == document)
}

/// A Deployment and a strategic merge patch of it.
pub fn strategic_merge_patches(input: &[u8]) -> String {
    let (document, patch) = match pair(input) {
        Ok(pair) => pair,
        Err(why) => return why,
    };
    let done = strategic::try_apply(&document, &patch, deployments().schema.view());
    if let Ok(done) = &done {
        assert!(done.to_string().len() <= 4 * input.len() + 64, "nothing is in it that was not sent");
    }
    said(done)
}

fn write<'a>(resource: &'static Resource, versions: &'a [String]) -> Write<'a> {
    Write {
        schema: resource.schema.view(),
        manager: "fuzz",
        subresource: "",
        api_version: "apps/v1",
        versions,
        part: Part::ButStatus,
        now: Timestamp::UNIX_EPOCH,
    }
}

fn owned(mut object: Value, json: &str) -> Value {
    if !json.is_empty() {
        object["metadata"]["managedFields"] = serde_json::from_str(json).expect("owners are JSON");
    }
    object
}

/// A stored Deployment and one that is applied to it; what was applied to nothing may be applied again without any effect.
pub fn apply(input: &[u8]) -> String {
    let (live, applied) = match pair(input) {
        Ok(pair) => pair,
        Err(why) => return why,
    };
    let versions = ["apps/v1".to_owned()];
    let write = write(deployments(), &versions);
    let fits = |value: &Value| value.is_object() && value.get("metadata").is_none_or(Value::is_object);
    if !fits(&live) || !fits(&applied) {
        return "no object".to_owned();
    }
    let known = api_machinery::apply::apply(Some(&live), &applied, &write, true);
    match api_machinery::apply::apply(None, &applied, &write, false) {
        Ok(first) => {
            let stored = owned(first.object, &first.tracked.json);
            let second = api_machinery::apply::apply(Some(&stored), &applied, &write, false);
            let second = second.expect("what was applied may be applied again");
            assert_eq!(owned(second.object, &second.tracked.json), stored);
            assert!(!second.tracked.changed, "and changes nothing");
            said(known)
        }
        Err(error) => error.to_string(),
    }
}

/// What a client sends as owners of fields.
pub fn managed_fields(input: &[u8]) -> String {
    let list = match judged(decode::json(input, None)) {
        Ok(list) => list,
        Err(why) => return why,
    };
    let spec = value!({"replicas": 1, "template": {"spec": {"containers": [{"name": "a", "image": "i"}]}}});
    let live = value!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "managedFields": list},
        "spec": spec});
    let mut new = live.clone();
    new["spec"]["replicas"] = 2.into();
    let versions = ["apps/v1".to_owned()];
    let write = write(deployments(), &versions);
    let tracked = api_machinery::apply::track(Some(&live), &new, &write);
    if !tracked.json.is_empty() {
        let json: Value = serde_json::from_str(&tracked.json).expect("owners are JSON");
        assert!(tracked.json.len() <= 2 * input.len() + 4096, "they do not grow by themselves");
        assert!(!decode::is_too_deep(&json), "nor are they too deep");
    }
    let applied = value!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}, "spec": {"replicas": 3}});
    said(api_machinery::apply::apply(Some(&live), &applied, &write, false))
}
