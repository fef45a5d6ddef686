//! Reading fixtures: YAML documents and lines that change them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api_catalog::catalog;
use api_machinery::resource::Resource;
use serde_json::{Map, Value};

/// All files of a folder of fixtures, by name.
pub fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(&folder).expect("fixtures").map(|entry| entry.expect("fixture").path()).collect();
    paths.sort();
    let name = |path: &Path| path.file_name().expect("named").to_string_lossy().into_owned();
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).expect("readable"))).collect()
}

pub fn yaml(text: &str) -> Value {
    api_machinery::decode::yaml(text.as_bytes(), None).unwrap_or_else(|e| panic!("{e:?} in {text}")).value
}

/// The resource that an object's `apiVersion` and `kind` name.
pub fn resource_of(object: &Value) -> Arc<Resource> {
    let version = object["apiVersion"].as_str().expect("apiVersion");
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let kind = object["kind"].as_str().expect("kind");
    Arc::clone(
        catalog().get_kind(group, version, kind).unwrap_or_else(|| panic!("no {group}/{version} {kind}")),
    )
}

/// Sets what a JSON pointer names, making what is on the way; null removes.
pub fn set(object: &mut Value, pointer: &str, value: Value) {
    let steps: Vec<String> =
        pointer.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~")).collect();
    let (last, way) = steps.split_last().expect("a pointer has steps");
    let mut at = object;
    for step in way {
        at = enter(at, step);
    }
    match (at, value) {
        (Value::Array(list), Value::Null) => drop(list.remove(last.parse().expect("index"))),
        (Value::Object(map), Value::Null) => drop(map.remove(last)),
        (at, value) => *enter(at, last) = value,
    }
}

fn enter<'a>(at: &'a mut Value, step: &str) -> &'a mut Value {
    if at.is_null() {
        *at =
            if step.parse::<usize>().is_ok() { Value::Array(Vec::new()) } else { Value::Object(Map::new()) };
    }
    match at {
        Value::Array(list) => {
            let index: usize = step.parse().expect("index");
            if index >= list.len() {
                list.resize(index + 1, Value::Null);
            }
            &mut list[index]
        }
        Value::Object(map) => map.entry(step).or_insert(Value::Null),
        other => panic!("{other} has no {step}"),
    }
}
