//! The order of versions, and what is said of deprecated ones.

use std::cmp::Ordering;

use serde_json::Value;

/// How mature a version is, and its numbers. `v1` is above all betas, those are above all alphas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    stability: u8,
    major: u64,
    minor: u64,
}

fn rank(name: &str) -> Option<Rank> {
    let rest = name.strip_prefix('v')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (major, rest) = rest.split_at(digits);
    let number = |text: &str| {
        let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|_| plain)
    };
    let major = number(major)?;
    if rest.is_empty() {
        return Some(Rank { stability: 2, major, minor: 0 });
    }
    let beta = rest.strip_prefix("beta").map(|minor| (1, minor));
    let (stability, minor) = beta.or_else(|| rest.strip_prefix("alpha").map(|minor| (0, minor)))?;
    Some(Rank { stability, major, minor: number(minor)? })
}

/// Which of two versions is preferred, the greater one: `v10`, `v2`, `v1`, `v11beta2`, `v3beta1`, `v12alpha1`, and then
/// what is no such name, the first in the alphabet before the others.
pub fn compare(a: &str, b: &str) -> Ordering {
    match (rank(a), rank(b)) {
        (Some(first), Some(second)) => first.cmp(&second),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => b.cmp(a),
    }
}

/// The warning for clients that use this version, if it is deprecated.
pub(super) fn deprecation(spec: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != Value::Bool(true) {
        return None;
    }
    if let Some(text) = version["deprecationWarning"].as_str() {
        return Some(text.to_owned());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, kind, name) = (text(&spec["group"]), text(&spec["names"]["kind"]), text(&version["name"]));
    let old = format!("{group}/{name} {kind} is deprecated");
    let is = |version: &Value, flag: &str| version[flag] == Value::Bool(true);
    let better = spec["versions"].as_array().into_iter().flatten();
    let better = better.filter(|other| is(other, "served") && !is(other, "deprecated"));
    let names = better.filter_map(|other| other["name"].as_str());
    match names.filter(|other| compare(other, &name).is_gt()).max_by(|a, b| compare(a, b)) {
        Some(better) => Some(format!("{old}; use {group}/{better} {kind}")),
        None => Some(old),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order() {
        let sorted = [
            "v10",
            "v2",
            "v1",
            "v11beta2",
            "v10beta3",
            "v3beta1",
            "v12alpha1",
            "v11alpha2",
            "a",
            "foo1",
            "v01",
            "v1beta",
        ];
        let mut names = sorted;
        names.reverse();
        names.sort_by(|a, b| compare(b, a));
        assert_eq!(names, sorted);
    }

    #[test]
    fn what_is_said_of_deprecated_versions() {
        let spec = serde_json::json!({"group": "example.com", "names": {"kind": "Widget"}, "versions": [
            {"name": "v1alpha1", "served": true, "deprecated": true},
            {"name": "v1beta1", "served": true, "deprecated": true, "deprecationWarning": "no more"},
            {"name": "v1", "served": true}, {"name": "v2", "served": false},
            {"name": "v3", "served": true, "deprecated": true},
        ]});
        let said: Vec<Option<String>> =
            (0..5).map(|index| deprecation(&spec, &spec["versions"][index])).collect();
        let expected = [
            Some("example.com/v1alpha1 Widget is deprecated; use example.com/v1 Widget"),
            Some("no more"),
            None,
            None,
            Some("example.com/v3 Widget is deprecated"),
        ];
        assert_eq!(said, expected.map(|text| text.map(str::to_owned)));
    }
}
