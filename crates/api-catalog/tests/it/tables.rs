//! What tables say about pods and other kinds in many states.
//!
//! Each file is a list of YAML documents: `cells` are the expected ones by column, `object` what they are of.

use api_machinery::table;
use jiff::Timestamp;

use crate::fixture::{files, resource_of, yaml};

#[test]
fn cells_are_what_kubectl_shows() {
    let now: Timestamp = "2026-01-01T01:00:00Z".parse().expect("time");
    for (file, text) in files("tables") {
        for document in text.split("\n---\n") {
            let case = yaml(document);
            let object = &case["object"];
            let resource = resource_of(object);
            for (name, expected) in case["cells"].as_object().expect("cells") {
                let column = resource
                    .columns
                    .iter()
                    .find(|c| c.name == *name)
                    .unwrap_or_else(|| panic!("no column {name}"));
                assert_eq!(&table::cell(column, object, now), expected, "{file}: {name} of {object}");
            }
        }
    }
}
