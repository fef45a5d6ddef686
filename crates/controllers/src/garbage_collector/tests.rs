//! The graph and the decisions, as tables.

use component::ObjectKey;
use kube::core::ObjectMeta;
use serde_json::{Value, json};

use super::graph::{Graph, Woken};
use super::plan::{self, Action, Dependent, Owner, Propagation};
use crate::resources::Item;

/// `owner:uid`, `blocking:uid`, `deleting`, `foreground`, `orphan`, in any order; the first word is the object's uid.
fn object(words: &str) -> ObjectMeta {
    let mut words = words.split(' ');
    let uid = words.next().unwrap_or_default();
    let mut meta =
        json!({"name": uid, "namespace": "a", "uid": uid, "ownerReferences": [], "finalizers": []});
    for word in words {
        let push = |list: &mut Value, value: Value| list.as_array_mut().unwrap().push(value);
        match word.split_once(':') {
            Some((kind, owner)) => {
                let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": owner,
                                       "blockOwnerDeletion": kind == "blocking"});
                push(&mut meta["ownerReferences"], reference);
            }
            None if word == "deleting" => meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            None if word == "foreground" => push(&mut meta["finalizers"], json!("foregroundDeletion")),
            None => push(&mut meta["finalizers"], json!(word)),
        }
    }
    serde_json::from_value(meta).unwrap()
}

fn item(name: &str) -> Item {
    Item { kind: "configmaps".into(), key: ObjectKey::new("a", name) }
}

#[test]
fn decisions() {
    use Owner::{Absent, Present, Unresolvable, Waiting};
    let keep = |uids: &[&str]| {
        let words: Vec<String> = uids.iter().map(|uid| format!("owner:{uid}")).collect();
        Action::KeepOwners(plan::owners(&object(&format!("x {}", words.join(" ")))).to_vec())
    };
    let delete = |propagation, unblock| Action::Delete { propagation, unblock };
    let foreground = Some(Propagation::Foreground);
    let idle = Dependent { blocks: true, deleting: false, waiting: false };
    let going = Dependent { deleting: true, ..idle };
    let waiting = Dependent { waiting: true, ..going };
    let loose = Dependent { blocks: false, ..idle };
    let cases: &[(&str, &[Owner], &[Dependent], Action)] = &[
        ("x", &[], &[], Action::Nothing),
        ("x owner:a", &[Present], &[], Action::Nothing),
        ("x owner:a", &[Absent], &[], delete(None, false)),
        ("x owner:a owner:b", &[Absent, Absent], &[idle], delete(None, false)),
        ("x owner:a owner:b", &[Present, Absent], &[], keep(&["a"])),
        ("x owner:a owner:b owner:c", &[Waiting, Present, Absent], &[], keep(&["b"])),
        ("x owner:a", &[Waiting], &[], delete(None, false)),
        ("x owner:a", &[Waiting], &[idle], delete(foreground, false)),
        ("x owner:a", &[Waiting], &[waiting], delete(foreground, true)),
        // What the object itself asked for when it goes for lack of owners.
        ("x owner:a orphan", &[Absent], &[idle], delete(Some(Propagation::Orphan), false)),
        ("x owner:a foreground", &[Absent], &[idle], delete(foreground, false)),
        ("x owner:a owner:b", &[Absent, Unresolvable], &[], Action::Nothing),
        // On their way already.
        ("x owner:a deleting", &[], &[], Action::Nothing),
        ("x deleting other", &[], &[idle], Action::Nothing),
        ("x deleting orphan", &[], &[idle], Action::OrphanDependents),
        ("x deleting foreground orphan", &[], &[idle], Action::OrphanDependents),
        ("x deleting foreground", &[], &[], Action::RemoveFinalizer("foregroundDeletion")),
        ("x deleting foreground", &[], &[loose], Action::RemoveFinalizer("foregroundDeletion")),
        ("x deleting foreground", &[], &[going, loose], Action::Nothing),
        ("x deleting foreground", &[], &[going, idle], Action::WakeDependents),
    ];
    for (words, owners, dependents, expected) in cases {
        assert_eq!(
            plan::decide(&object(words), owners, dependents),
            *expected,
            "{words} {owners:?} {dependents:?}"
        );
    }
}

#[test]
fn what_a_change_wakes() {
    // Before, after: the object itself, its owners, its dependents.
    let cases = [
        ("", "x", (false, false, false)),
        ("", "x owner:a", (true, false, false)),
        ("", "x deleting", (false, false, false)),
        ("", "x deleting orphan", (true, false, false)),
        ("", "x deleting foreground", (true, false, true)),
        ("x", "x", (false, false, false)),
        ("x owner:a", "x owner:a", (false, false, false)),
        ("x owner:a", "x", (true, true, false)),
        ("x blocking:a", "x owner:a", (true, true, false)),
        ("x owner:a", "x owner:a deleting", (true, true, false)),
        ("x foreground", "x foreground deleting", (true, false, true)),
        ("x foreground deleting", "x deleting", (true, false, false)),
        ("x", "", (false, false, true)),
        ("x owner:a", "", (false, true, true)),
        ("x owner:a", "y", (false, true, true)),
        ("x", "y owner:a", (true, false, true)),
    ];
    for (before, after, (itself, owners, dependents)) in cases {
        let mut graph = Graph::default();
        graph.change(&item("child"), None, Some(&object("child owner:x")));
        let (before, after) = [before, after].map(|words| (!words.is_empty()).then(|| object(words))).into();
        if before.is_some() {
            graph.change(&item("x"), None, before.as_ref());
        }
        let woken = graph.change(&item("x"), before.as_ref(), after.as_ref());
        let dependents = if dependents { vec![item("child")] } else { vec![] };
        assert_eq!(woken, Woken { itself, dependents, owners }, "{before:?} -> {after:?}");
    }
}

#[test]
fn the_graph_knows_dependents_of_owners_that_it_has_not_seen_and_forgets_what_let_go() {
    let mut graph = Graph::default();
    graph.change(&item("x"), None, Some(&object("x owner:a owner:b")));
    graph.change(&item("y"), None, Some(&object("y owner:a")));
    assert_eq!(graph.dependents("a"), [item("x"), item("y")]);
    graph.change(&item("x"), Some(&object("x owner:a owner:b")), Some(&object("x owner:b")));
    assert_eq!(graph.dependents("a"), [item("y")]);
    graph.change(&item("x"), Some(&object("x owner:b")), None);
    graph.change(&item("y"), Some(&object("y owner:a")), None);
    assert_eq!(format!("{graph:?}"), format!("{:?}", Graph::default()), "nothing is left behind");
}

#[test]
fn references_are_taken_away_and_unblocked() {
    let meta = object("x owner:a blocking:b");
    assert_eq!(plan::without_owner(&meta, "c"), None);
    assert_eq!(plan::without_owner(&meta, "b").unwrap(), plan::owners(&object("x owner:a")));
    assert_eq!(plan::unblocked(&meta), plan::owners(&object("x owner:a owner:b")));
}

/// A circle that is deleted in the foreground comes to an end: x <-> y, both blocking.
#[test]
fn a_circle_comes_to_an_end() {
    let x = object("x blocking:y deleting foreground");
    let y = object("y blocking:x");
    // y's owner waits, and y's dependent x waits: y is unblocked and deleted.
    let action = plan::decide(&y, &[Owner::Waiting], &[plan::dependent(&x, "y")]);
    assert_eq!(action, Action::Delete { propagation: Some(Propagation::Foreground), unblock: true });
    let y = ObjectMeta { owner_references: Some(plan::unblocked(&y)), ..object("y deleting foreground") };
    // Nothing keeps x, and once it is gone nothing keeps y.
    let finalizer = Action::RemoveFinalizer("foregroundDeletion");
    assert_eq!(plan::decide(&x, &[], &[plan::dependent(&y, "x")]), finalizer);
    assert_eq!(plan::decide(&y, &[], &[]), finalizer);
}
