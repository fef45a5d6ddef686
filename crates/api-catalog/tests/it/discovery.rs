//! What discovery must say of every kind: names, scope, verbs, short names, categories and subresources, as upstream
//! publishes them for this version.

use std::path::Path;

use api_catalog::catalog;
use api_machinery::resource::{Resource, Verb, Verbs};

const ALL: &str = "all";

fn verbs(verbs: Verbs) -> String {
    if verbs == Verbs::ALL {
        return ALL.to_owned();
    }
    verbs.iter().map(Verb::as_str).collect::<Vec<_>>().join(",")
}

/// The lines of one resource: itself, then what hangs below it by name.
fn lines(resource: &Resource) -> Vec<String> {
    let scope = if resource.namespaced() { "namespaced" } else { "cluster" };
    let mut line = format!(
        "{} {} {} {scope} {}",
        resource.plural,
        resource.singular,
        resource.kind,
        verbs(resource.verbs)
    );
    for (word, list) in [("short", &resource.short_names), ("in", &resource.categories)] {
        if !list.is_empty() {
            line.push_str(&format!(" {word}:{}", list.join(",")));
        }
    }
    let mut below: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, kind: String, allowed: Verbs| {
        below.push((name.to_owned(), format!("{kind} {}", verbs(allowed))))
    };
    if resource.subresources.status {
        add("status", resource.kind.to_string(), Verbs::GET_PATCH_UPDATE);
    }
    if resource.subresources.scale.is_some() {
        add("scale", "autoscaling/v1.Scale".to_owned(), Verbs::GET_PATCH_UPDATE);
    }
    for other in &resource.subresources.others {
        let elsewhere = (&other.group, &other.version) != (&resource.group, &resource.version);
        let place = if elsewhere { format!("{}/{}.", other.group, other.version) } else { String::new() };
        add(&other.name, format!("{place}{}", other.kind), other.verbs);
    }
    below.sort();
    std::iter::once(line).chain(below.into_iter().map(|(name, rest)| format!("  /{name} {rest}"))).collect()
}

#[test]
fn discovery_says_what_upstreams_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/discovery.txt");
    let text = std::fs::read_to_string(path).expect("fixture");
    let expected: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let mut found = Vec::new();
    for (group, versions) in catalog().groups() {
        for version in versions {
            found.push(format!("[{}]", api_machinery::resource::group_version(group, version)));
            let mut resources: Vec<_> =
                catalog().iter().filter(|r| r.group == group && r.version == version).collect();
            resources.sort_by_key(|resource| resource.plural.to_string());
            found.extend(resources.into_iter().flat_map(|resource| lines(resource)));
        }
    }
    let wrong: Vec<String> = found
        .iter()
        .filter(|line| !expected.contains(&line.as_str()))
        .map(|line| format!("not upstream's: {line}"))
        .chain(
            expected
                .iter()
                .filter(|line| !found.iter().any(|f| f == *line))
                .map(|line| format!("missing: {line}")),
        )
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(found, expected, "in another order");
}
