//! Objects and what defaulting makes of them.
//!
//! A file holds pairs of YAML documents: what a client sends, and what is stored, as far as defaults and
//! `prepare_create` are concerned. A third document after the pair would start the next one.

use crate::fixture::{files, resource_of, yaml};

#[test]
fn what_clients_leave_out_is_filled_in() {
    for (file, text) in files("defaults") {
        let documents: Vec<&str> = text.split("\n---\n").collect();
        assert!(documents.len().is_multiple_of(2), "{file}: documents come in pairs");
        for pair in documents.chunks(2) {
            let (mut object, expected) = (yaml(pair[0]), yaml(pair[1]));
            let rules = resource_of(&object).rules;
            (rules.default)(&mut object);
            (rules.prepare_create)(&mut object);
            let shown = |v| serde_json::to_string_pretty(v).expect("JSON");
            assert_eq!(object, expected, "{file}: found {}\nexpected {}", shown(&object), shown(&expected));
            let once = object.clone();
            (rules.default)(&mut object);
            assert_eq!(object, once, "{file}: defaulting twice must change nothing");
        }
    }
}
