//! Invalid objects and updates, each with the errors that it must get.
//!
//! A file is a valid object in YAML, a line `---`, and cases. A case is a title, then lines:
//! `/pointer = JSON` changes the object (null removes), `~ /pointer = JSON` changes it in an update (`s~` through
//! `/status`, `approval~` through that), `! error` is an error that must be reported; `…` at its end stands for the
//! rest of the line. Cases without `!` must be valid.

use std::collections::BTreeMap;

use api_catalog::catalog;
use api_machinery::field::Errors;
use api_machinery::meta;
use api_machinery::resource::{Resource, Storage};
use serde_json::Value;

use crate::fixture::{files, resource_of, set, yaml};

/// Kinds that hold nothing that can be wrong.
const NEVER_WRONG: [&str; 1] = ["SelfSubjectReview"];

#[derive(Default)]
struct Case<'a> {
    title: &'a str,
    sets: Vec<(&'a str, Value)>,
    updates: Vec<(&'a str, Value)>,
    /// The main resource has none, `/status` is `s`.
    subresource: &'a str,
    errors: Vec<&'a str>,
}

fn cases(text: &str) -> Vec<Case<'_>> {
    let mut all: Vec<Case> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let Some(rest) = line.strip_prefix("  ") else {
            all.push(Case { title: line, ..Case::default() });
            continue;
        };
        let case = all.last_mut().expect("a title comes first");
        if let Some(error) = rest.strip_prefix("! ") {
            case.errors.push(error);
        } else if let Some((subresource, change)) = rest.split_once("~ /").filter(|(s, _)| !s.contains('/')) {
            case.updates.push(assignment(&rest[subresource.len() + 2..]));
            assert!(change.contains(" = "), "no assignment: {rest}");
            case.subresource = subresource;
        } else {
            case.sets.push(assignment(rest));
        }
    }
    all
}

fn assignment(line: &str) -> (&str, Value) {
    let (pointer, value) = line.split_once(" = ").unwrap_or_else(|| panic!("no assignment: {line}"));
    (pointer, serde_json::from_str(value).unwrap_or_else(|e| panic!("{e}: {line}")))
}

/// The object as the resource has it whose rules judge it, and that.
fn stored(mut object: Value) -> (Value, std::sync::Arc<Resource>) {
    let resource = resource_of(&object);
    if resource.namespaced() && meta::namespace(&object).is_empty() && resource.storage == Storage::Stored {
        meta::set_namespace(&mut object, "default");
    }
    let Some(view) = resource.view_of else { return (object, resource) };
    (view.to_stored)(&mut object);
    let resource = resource_of(&object);
    (object, resource)
}

fn run(base: &Value, case: &Case) -> Vec<String> {
    let mut object = base.clone();
    for (pointer, value) in &case.sets {
        set(&mut object, pointer, value.clone());
    }
    let view = resource_of(&object).view_of;
    let (mut object, resource) = stored(object);
    let rules = &resource.rules;
    (rules.default)(&mut object);
    let mut errors = Errors::new();
    if case.updates.is_empty() {
        if resource.storage == Storage::Stored {
            meta::validate_meta(&object, resource.namespaced(), rules.name, &mut errors);
        }
        (rules.validate)(&object, &mut errors);
        (rules.validate_create)(&object, &mut errors);
        return errors.iter().map(|e| e.to_string()).collect();
    }
    let mut new = object.clone();
    if let Some(view) = view {
        (view.from_stored)(&mut new);
    }
    for (pointer, value) in &case.updates {
        set(&mut new, pointer, value.clone());
    }
    let (mut new, _) = stored(new);
    (rules.default)(&mut new);
    meta::set_text(&mut new, "resourceVersion", "1");
    meta::set_text(&mut object, "resourceVersion", "1");
    meta::validate_meta_update(&new, &object, &mut errors);
    match case.subresource {
        "" => {
            (rules.prepare_update)(&mut new, &object);
            (rules.validate)(&new, &mut errors);
            (rules.validate_update)(&new, &object, &mut errors);
        }
        "s" => {
            (rules.prepare_status)(&mut new, &object);
            (rules.validate_status_update)(&new, &object, &mut errors);
        }
        name => {
            let part = resource.part(name).unwrap_or_else(|| panic!("{} has no {name}", resource.kind));
            (part.prepare)(&mut new, &object);
            (part.validate)(&new, &object, &mut errors);
        }
    }
    errors.iter().map(|e| e.to_string()).collect()
}

fn fits(expected: &str, found: &str) -> bool {
    let first = found.lines().next().unwrap_or("");
    match expected.strip_suffix('…') {
        Some(start) => first.starts_with(start),
        None => expected == first,
    }
}

#[test]
fn objects_get_the_errors_that_upstream_gives() {
    let (mut count, mut wrong) = (0, String::new());
    for (file, text) in files("invalid") {
        let (base, rest) = text.split_once("\n---\n").unwrap_or_else(|| panic!("{file}: no ---"));
        let base = yaml(base);
        let untouched = run(&base, &Case::default());
        assert!(untouched.is_empty(), "{file}: the base is not valid: {untouched:#?}");
        for case in cases(rest) {
            count += usize::from(!case.errors.is_empty());
            let found = run(&base, &case);
            let same =
                found.len() == case.errors.len() && case.errors.iter().zip(&found).all(|(e, f)| fits(e, f));
            if !same {
                wrong.push_str(&format!("{file}: {}\n", case.title));
                case.errors.iter().for_each(|error| wrong.push_str(&format!("  expected {error}\n")));
                found.iter().for_each(|error| wrong.push_str(&format!("  found    {error}\n")));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(count >= 900, "only {count} invalid cases");
}

#[test]
fn every_kind_has_objects_that_are_valid_and_some_that_are_not() {
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for (file, text) in files("invalid") {
        let (base, rest) = text.split_once("\n---\n").unwrap_or_else(|| panic!("{file}: no ---"));
        let resource = resource_of(&yaml(base));
        let wrong = cases(rest).iter().filter(|case| !case.errors.is_empty()).count();
        *known.entry(resource.definition.to_string()).or_default() += wrong;
    }
    for resource in catalog().iter() {
        let wrong = known.get(&*resource.definition);
        let never = NEVER_WRONG.contains(&&*resource.kind);
        let fits = wrong.is_some_and(|count| never == (*count == 0));
        assert!(fits, "{}: {wrong:?} invalid objects in tests/fixtures/invalid", resource.definition);
    }
}
