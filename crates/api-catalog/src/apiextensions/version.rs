//! The versions of a definition: what each says beside its schema, and that they fit together.

use std::collections::BTreeSet;

use api_machinery::field::Errors;
use api_machinery::names;
use serde_json::Value;

use super::schema;
use crate::at::At;

const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";
const MOST_SELECTABLE: usize = 8;
const LONGEST_WARNING: usize = 256;

/// A part that every version may have, where upstream has it when all have the same, and its check.
type Part = (&'static str, &'static str, fn(&At, &Value, &mut Errors));

const PARTS: [Part; 4] = [
    ("schema", "spec.validation", schema::validate),
    ("subresources", "spec.subresources", |at, _, e| subresources(at, e)),
    ("additionalPrinterColumns", "spec.additionalPrinterColumns", |at, _, e| columns(at, e)),
    ("selectableFields", "spec.selectableFields", selectable_fields),
];

/// Checks all versions. What `old` had alike is not looked at again.
pub fn validate(versions: &At, old: Option<&Value>, e: &mut Errors) {
    for (version, schema) in versions.items().zip(versions.array().iter().map(|one| &one["schema"])) {
        if schema["openAPIV3Schema"].is_null() {
            version.get("schema").get("openAPIV3Schema").required(e, "schemas are required");
        }
    }
    let mut names = BTreeSet::new();
    let mut unique = true;
    for version in versions.items() {
        let name = version.get("name");
        unique &= names.insert(name.text());
        let wrong = names::is_dns1035_label(name.text());
        if !wrong.is_empty() {
            name.invalid_text(e, wrong.join(","));
        }
        deprecation(&version, e);
    }
    for part in PARTS {
        each(versions, old, part, e);
    }
    if !unique {
        versions.invalid(e, "must contain unique version names");
    }
    if versions.array().iter().filter(|version| version["storage"] == true).count() != 1 {
        versions.invalid(e, "must have exactly one version marked as storage version");
    }
}

fn each(versions: &At, old: Option<&Value>, (field, top, check): Part, e: &mut Errors) {
    let all = versions.array();
    let alike = all.iter().all(|version| version[field] == all[0][field]);
    for (version, value) in versions.items().zip(all) {
        let before = old.and_then(Value::as_array).into_iter().flatten();
        let before =
            before.filter(|old| old["name"] == value["name"]).find(|old| old["schema"] == value["schema"]);
        if before.is_some_and(|old| old[field] == value[field]) {
            continue;
        }
        if alike {
            return check(&At::named(top, &value[field]), value, e);
        }
        check(&version.get(field), value, e);
    }
}

fn deprecation(version: &At, e: &mut Errors) {
    let warning = version.get("deprecationWarning");
    if !warning.is_set() {
        return;
    }
    if !version.get("deprecated").flag() {
        return warning.invalid(e, "can only be set for deprecated versions");
    }
    let text = warning.text();
    if text.len() > LONGEST_WARNING {
        warning.invalid(e, format!("must be <= {LONGEST_WARNING} characters long"));
    }
    if text.is_empty() {
        warning.invalid(e, "must not be an empty string");
    }
    let unprintable = text.char_indices().find(|(_, letter)| !api_machinery::field::is_printable(*letter));
    if let Some((index, _)) = unprintable {
        let detail = "must only contain printable UTF-8 characters; non-printable character found at index";
        warning.invalid(e, format!("{detail} {index}"));
    }
}

/// Whether a path looks like `.a.b`; says so if it does not.
fn is_simple_path(path: &At, e: &mut Errors) -> bool {
    if !path.must_be_set(e) {
        return false;
    }
    let simple = path.text().starts_with('.');
    if !simple {
        path.invalid(e, "must be a simple json path starting with .");
    }
    simple
}

fn subresources(subresources: &At, e: &mut Errors) {
    let scale = subresources.get("scale");
    if !scale.is_set() {
        return;
    }
    for (field, below) in [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")] {
        let path = scale.get(field);
        if is_simple_path(&path, e) && !path.text().starts_with(&format!("{below}.")) {
            path.invalid(e, format!("should be a json path under {below}"));
        }
    }
    let selector = scale.get("labelSelectorPath");
    let text = selector.text();
    let below = text.starts_with(".spec.") || text.starts_with(".status.");
    if !text.is_empty() && is_simple_path(&selector, e) && !below {
        selector.invalid(e, "should be a json path under either .spec or .status");
    }
}

fn columns(columns: &At, e: &mut Errors) {
    for column in columns.items() {
        column.get("name").must_be_set(e);
        let (kind, format, path) = (column.get("type"), column.get("format"), column.get("jsonPath"));
        let types = format!("must be one of {COLUMN_TYPES}");
        if kind.is_empty() {
            kind.required(e, &types);
        } else if !COLUMN_TYPES.split(',').any(|known| known == kind.text()) {
            kind.invalid(e, types);
        }
        if !format.is_empty() && !COLUMN_FORMATS.split(',').any(|known| known == format.text()) {
            format.invalid(e, format!("must be one of {COLUMN_FORMATS}"));
        }
        // Upstream's name of the field.
        is_simple_path(&column.at("JSONPath", path.value()), e);
    }
}

fn selectable_fields(fields: &At, version: &Value, e: &mut Errors) {
    let schema = &version["schema"]["openAPIV3Schema"];
    let mut seen = BTreeSet::new();
    for field in fields.items() {
        let path = field.get("jsonPath");
        if !path.must_be_set(e) {
            continue;
        }
        let Some(found) = found(schema, path.text()) else {
            path.invalid(e, "is an invalid path: does not refer to a valid field");
            continue;
        };
        if path.text().trim_start_matches('.').split('.').next() == Some("metadata") {
            path.invalid(e, "must not point to fields in metadata");
        }
        if !matches!(found["type"].as_str(), Some("string" | "boolean" | "integer")) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                          formats are allowed.";
            path.invalid(e, detail);
        }
        if !seen.insert(path.text()) {
            path.duplicate(e);
        }
    }
    if seen.len() > MOST_SELECTABLE {
        fields.too_many(e, seen.len(), MOST_SELECTABLE);
    }
}

/// The schema of a field. Items of lists and entries of maps are no fields.
fn found<'a>(schema: &'a Value, path: &str) -> Option<&'a Value> {
    let mut at = schema;
    for name in path.strip_prefix('.')?.split('.') {
        at = at["properties"].get(name)?;
    }
    Some(at)
}
