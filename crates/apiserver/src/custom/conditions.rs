//! What the server says of a definition in its status: whether its names are free, and whether it is in force.
//!
//! Pure: from what all definitions of a group ask for and were given, to the status that one should have. Reasons and
//! messages are upstream's. Upstream waits for other servers before it says `Established`; here nobody serves from memory
//! that is older than the definition, so there is nothing to wait for.

use std::collections::BTreeSet;

use api_machinery::field::go_quote;
use api_machinery::meta;
use serde_json::{Value, json};

/// The finalizer behind which the objects of a definition are deleted.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
const APPROVAL: &str = "api-approved.kubernetes.io";

/// What is remembered of a definition: small, since there are many.
#[derive(Clone, Debug, PartialEq)]
pub struct Brief {
    pub group: String,
    /// The names that are asked for.
    pub wanted: Value,
    /// The names that were given.
    pub accepted: Value,
    pub conditions: Value,
    /// The annotation of groups that belong to the community.
    pub approval: Option<String>,
    /// Whether its objects are to be deleted before it goes.
    pub cleanup: bool,
}

/// What to write into a status.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub accepted: Value,
    pub conditions: Value,
}

impl Brief {
    /// Reads a definition.
    pub fn of(definition: &Value) -> Brief {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (spec, status) = (&definition["spec"], &definition["status"]);
        let group = text(&spec["group"]);
        let annotation = definition["metadata"]["annotations"][APPROVAL].as_str().map(str::to_owned);
        let is_protected = ["k8s.io", "kubernetes.io"].iter().any(|owner| {
            group.strip_suffix(owner).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        Brief {
            approval: is_protected.then(|| annotation.unwrap_or_default()),
            wanted: spec["names"].clone(),
            accepted: status["acceptedNames"].clone(),
            conditions: status["conditions"].clone(),
            cleanup: meta::is_deleting(definition) && meta::finalizers(definition).contains(&CLEANUP),
            group,
        }
    }

    /// Whether others have names that it asks for.
    pub fn lacks_names(&self) -> bool {
        !self.holds("NamesAccepted")
    }

    fn holds(&self, kind: &str) -> bool {
        let conditions = self.conditions.as_array().into_iter().flatten();
        conditions.filter(|one| one["type"] == kind).any(|one| one["status"] == "True")
    }
}

/// The status that a definition should have beside these others of its group; `None` if it has that.
pub fn judge<'a>(brief: &Brief, others: impl Iterator<Item = &'a Brief>, now: &str) -> Option<Verdict> {
    let (accepted, conflict) = names(brief, others);
    let mut conditions = Conditions { all: brief.conditions.as_array().cloned().unwrap_or_default(), now };
    match &conflict {
        None => conditions.set("NamesAccepted", true, "NoConflicts", "no conflicts found"),
        Some((reason, message)) => conditions.set("NamesAccepted", false, reason, message),
    }
    match (conflict.is_none(), brief.holds("Established")) {
        (true, false) => {
            conditions.set(
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted",
            );
        }
        (false, false) => conditions.set("Established", false, "NotAccepted", "not all names are accepted"),
        (_, true) => {}
    }
    if let Some(approval) = &brief.approval {
        let (is_approved, reason, message) = approved(approval);
        conditions.set("KubernetesAPIApprovalPolicyConformant", is_approved, reason, &message);
    }
    if brief.cleanup {
        let message = "CustomResource deletion is in progress";
        conditions.set("Terminating", true, "InstanceDeletionInProgress", message);
    }
    let verdict = Verdict { accepted, conditions: conditions.all.into() };
    (verdict.accepted != brief.accepted || verdict.conditions != brief.conditions).then_some(verdict)
}

/// The names that a definition may use, and why it may not use all that it asks for.
fn names<'a>(
    brief: &Brief,
    others: impl Iterator<Item = &'a Brief>,
) -> (Value, Option<(&'static str, String)>) {
    let resources_of = |names: &'a Value| texts(names, &["plural", "singular", "shortNames"]);
    let kinds_of = |names: &'a Value| texts(names, &["kind", "listKind"]);
    let asked: BTreeSet<&str> =
        texts(&brief.wanted, &["plural", "singular", "shortNames", "kind", "listKind"]).collect();
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for taken in others.map(|other| &other.accepted) {
        resources.extend(resources_of(taken).filter(|name| asked.contains(name)));
        kinds.extend(kinds_of(taken).filter(|name| asked.contains(name)));
    }
    let mut accepted = if brief.accepted.is_object() { brief.accepted.clone() } else { json!({}) };
    let mut conflict = None;
    let in_use = |name: &str| format!("{} is already in use", go_quote(name));
    for (field, taken, reason) in [
        ("plural", &resources, "PluralConflict"),
        ("singular", &resources, "SingularConflict"),
        ("shortNames", &resources, "ShortNamesConflict"),
        ("kind", &kinds, "KindConflict"),
        ("listKind", &kinds, "ListKindConflict"),
    ] {
        let wanted = &brief.wanted[field];
        let many = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
        // What was given before stays given.
        let kept = |name: &str| match &brief.accepted[field] {
            Value::Array(names) => names.iter().any(|known| known == name),
            known => known == name,
        };
        let lost: Vec<&str> = wanted
            .as_str()
            .into_iter()
            .chain(many)
            .filter(|name| !kept(name) && taken.contains(name))
            .collect();
        if lost.is_empty() {
            set(&mut accepted, field, wanted);
            continue;
        }
        let message = match wanted {
            Value::Array(_) => {
                let all: Vec<String> = lost.iter().map(|name| in_use(name)).collect();
                if all.len() == 1 { all[0].clone() } else { format!("[{}]", all.join(", ")) }
            }
            _ => in_use(lost[0]),
        };
        conflict = Some((reason, message));
    }
    set(&mut accepted, "categories", &brief.wanted["categories"]);
    (accepted, conflict)
}

/// The texts of these fields, each of which is one or a list of them.
fn texts<'a>(names: &'a Value, fields: &'static [&'static str]) -> impl Iterator<Item = &'a str> {
    let all = fields.iter().map(|field| &names[field]);
    all.flat_map(|field| {
        field.as_str().into_iter().chain(field.as_array().into_iter().flatten().filter_map(Value::as_str))
    })
}

fn set(names: &mut Value, field: &str, wanted: &Value) {
    if wanted.is_null() {
        if let Some(names) = names.as_object_mut() {
            names.remove(field);
        }
    } else {
        names[field] = wanted.clone();
    }
}

fn approved(annotation: &str) -> (bool, &'static str, String) {
    let wanted = format!("protected groups must have approval annotation \"{APPROVAL}\"");
    let review = "see https://github.com/kubernetes/enhancements/pull/1111";
    if annotation.is_empty() {
        (false, "MissingAnnotation", format!("{wanted}, {review}"))
    } else if annotation.starts_with("unapproved") {
        (false, "UnapprovedAnnotation", format!("not approved: {}", go_quote(annotation)))
    } else if annotation.contains("://") {
        (true, "ApprovedAnnotation", format!("approved in {annotation}"))
    } else {
        let detail = "with either a URL or a reason starting with \"unapproved\"";
        (false, "InvalidAnnotation", format!("{wanted} {detail}, {review}"))
    }
}

struct Conditions<'a> {
    all: Vec<Value>,
    now: &'a str,
}

impl Conditions<'_> {
    fn set(&mut self, kind: &str, holds: bool, reason: &str, message: &str) {
        let status = if holds { "True" } else { "False" };
        let new = json!({"type": kind, "status": status, "reason": reason, "message": message});
        let same = |old: &Value| ["status", "reason", "message"].iter().all(|field| old[field] == new[field]);
        let known = self.all.iter_mut().find(|one| one["type"] == kind);
        let mut new = new.clone();
        match known {
            Some(old) if same(old) => {}
            Some(old) => {
                let since =
                    if old["status"] == status { old["lastTransitionTime"].clone() } else { self.now.into() };
                new["lastTransitionTime"] = since;
                *old = new;
            }
            None => {
                new["lastTransitionTime"] = self.now.into();
                self.all.push(new);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn wants(names: Value) -> Brief {
        Brief::of(&json!({"spec": {"group": "example.com", "names": names}}))
    }

    fn has(names: Value) -> Brief {
        Brief { accepted: names.clone(), ..wants(names) }
    }

    fn said(verdict: &Verdict, kind: &str) -> String {
        let all = verdict.conditions.as_array().expect("conditions");
        let one = all.iter().find(|one| one["type"] == kind).unwrap_or(&Value::Null);
        format!("{} {}: {}", one["status"], one["reason"], one["message"])
            .replace("\\\"", "'")
            .replace('"', "")
    }

    #[test]
    fn names_that_are_free_are_accepted_and_then_nothing_is_left_to_say() {
        let names =
            json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"});
        let new = wants(names.clone());
        let verdict = judge(&new, std::iter::empty(), NOW).expect("something to say");
        assert_eq!(verdict.accepted, names);
        assert_eq!(said(&verdict, "NamesAccepted"), "True NoConflicts: no conflicts found");
        let established = "True InitialNamesAccepted: the initial names have been accepted";
        assert_eq!(said(&verdict, "Established"), established);
        let settled = Brief { accepted: verdict.accepted, conditions: verdict.conditions, ..new };
        assert_eq!(judge(&settled, std::iter::empty(), "2027-01-01T00:00:00Z"), None);
    }

    #[test]
    fn names_that_are_taken() {
        let other = has(json!({"plural": "gadgets", "shortNames": ["g", "w"], "kind": "Gadget"}));
        for (names, expected) in [
            (
                json!({"plural": "gadgets", "kind": "Widget"}),
                "False PluralConflict: 'gadgets' is already in use",
            ),
            (json!({"plural": "widgets", "singular": "g"}), "False SingularConflict: 'g' is already in use"),
            (
                json!({"plural": "widgets", "kind": "Gadget"}),
                "False KindConflict: 'Gadget' is already in use",
            ),
            (
                json!({"plural": "widgets", "listKind": "Gadget"}),
                "False ListKindConflict: 'Gadget' is already in use",
            ),
            (
                json!({"plural": "widgets", "shortNames": ["w"]}),
                "False ShortNamesConflict: 'w' is already in use",
            ),
            (
                json!({"plural": "widgets", "shortNames": ["w", "g"]}),
                "False ShortNamesConflict: ['w' is already in use, 'g' is already in use]",
            ),
        ] {
            let verdict = judge(&wants(names), std::iter::once(&other), NOW).expect("something to say");
            assert_eq!(said(&verdict, "NamesAccepted"), expected);
            assert_eq!(said(&verdict, "Established"), "False NotAccepted: not all names are accepted");
        }
    }

    #[test]
    fn what_is_in_force_stays_in_force_under_the_names_that_it_has() {
        let other = has(json!({"plural": "gadgets", "kind": "Gadget"}));
        let first = wants(json!({"plural": "widgets", "kind": "Widget"}));
        let Verdict { accepted, conditions } = judge(&first, std::iter::empty(), NOW).expect("something");
        let renamed =
            Brief { wanted: json!({"plural": "widgets", "kind": "Gadget"}), accepted, conditions, ..first };
        let verdict = judge(&renamed, std::iter::once(&other), NOW).expect("something");
        assert_eq!(verdict.accepted["kind"], "Widget");
        assert!(said(&verdict, "NamesAccepted").starts_with("False KindConflict"));
        assert!(said(&verdict, "Established").starts_with("True"));
    }

    #[test]
    fn groups_of_the_community_say_whether_they_were_approved() {
        let of = |annotations: Value| {
            let definition = json!({"metadata": {"annotations": annotations},
                "spec": {"group": "x.k8s.io", "names": {"plural": "a"}}});
            let verdict = judge(&Brief::of(&definition), std::iter::empty(), NOW).expect("something");
            said(&verdict, "KubernetesAPIApprovalPolicyConformant")
        };
        assert!(of(json!({})).starts_with("False MissingAnnotation"));
        assert_eq!(
            of(json!({APPROVAL: "https://a.b/1"})),
            "True ApprovedAnnotation: approved in https://a.b/1"
        );
        let unapproved = "False UnapprovedAnnotation: not approved: 'unapproved, for tests'";
        assert_eq!(of(json!({APPROVAL: "unapproved, for tests"})), unapproved);
        assert!(of(json!({APPROVAL: "yes"})).starts_with("False InvalidAnnotation"));
    }
}
