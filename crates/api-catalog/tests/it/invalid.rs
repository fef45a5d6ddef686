//! Invalid objects and updates, each with the errors that it must get.
//!
//! A file is a valid object in YAML, a line `---`, and cases. A case is a title, then lines:
//! `/pointer = JSON` changes the object (null removes), `~ /pointer = JSON` changes it in an update (`s~` through
//! `/status`), `! error` is an error that must be reported; `…` at its end stands for the rest of the line. Cases
//! without `!` must be valid.

use api_machinery::field::Errors;
use serde_json::Value;

use crate::fixture::{files, resource_of, set, yaml};

#[derive(Default)]
struct Case<'a> {
    title: &'a str,
    sets: Vec<(&'a str, Value)>,
    updates: Vec<(&'a str, Value)>,
    through_status: bool,
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
        } else if let Some(change) = rest.strip_prefix("~ ") {
            case.updates.push(assignment(change));
        } else if let Some(change) = rest.strip_prefix("s~ ") {
            case.updates.push(assignment(change));
            case.through_status = true;
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

fn run(base: &Value, case: &Case) -> Vec<String> {
    let mut object = base.clone();
    for (pointer, value) in &case.sets {
        set(&mut object, pointer, value.clone());
    }
    let rules = resource_of(&object).rules;
    (rules.default)(&mut object);
    let mut errors = Errors::new();
    if case.updates.is_empty() {
        (rules.validate)(&object, &mut errors);
        (rules.validate_create)(&object, &mut errors);
    } else {
        let mut new = object.clone();
        for (pointer, value) in &case.updates {
            set(&mut new, pointer, value.clone());
        }
        (rules.default)(&mut new);
        if case.through_status {
            (rules.prepare_status)(&mut new, &object);
            (rules.validate_status_update)(&new, &object, &mut errors);
        } else {
            (rules.prepare_update)(&mut new, &object);
            (rules.validate)(&new, &mut errors);
            (rules.validate_update)(&new, &object, &mut errors);
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
    assert!(count >= 150, "only {count} invalid cases");
}
