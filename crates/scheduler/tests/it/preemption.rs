//! Who makes room for whom.

use pod_rules::labels;
use scheduler::decide::{Decision, decide};
use scheduler::preempt::{Attempt, Budget, Budgets, attempt};
use scheduler::scheduler::{Action, Reported, Scheduler};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{columns, demand, key, merge, node, place, pod};

/// A pod of so many CPUs and this priority.
fn asks(cpu: &str, priority: i32) -> Value {
    json!({"metadata": {"labels": {"app": "x"}}, "spec": {"priority": priority,
        "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

/// Who goes for a pod, on nodes with four CPUs; `NAME CPU PRIORITY` for those that are there, named by their node first.
fn victims(there: &[(&str, &str, i32)], new: &Value, budgets: &Budgets) -> String {
    let mut columns = columns(&[("a", json!({})), ("b", json!({}))]);
    for (name, cpu, priority) in there {
        place(&mut columns, name, &name[..1], &asks(cpu, *priority));
    }
    let demand = demand(new);
    columns.learn(&demand);
    let before = format!("{columns:?}");
    let Decision::Refuse(refusal) = decide(&columns, &demand) else { return "fits".to_owned() };
    let found = match attempt(&mut columns, &demand, &refusal, budgets, None) {
        Attempt::Victims(_, victims) => {
            victims.iter().map(|victim| victim.key.name.clone()).collect::<Vec<_>>().join(" ")
        }
        Attempt::NotEligible(why) => why.to_owned(),
        Attempt::Hopeless(_) => "hopeless".to_owned(),
    };
    assert_eq!(format!("{columns:?}"), before, "everybody is back");
    found
}

#[test]
fn the_fewest_and_the_least_important() {
    let none = Budgets::new();
    let new = |cpu: &str| asks(cpu, 10);
    for (there, cpu, expected) in [
        (&[("a1", "4", 10), ("b1", "4", 20)][..], "1", "hopeless"),
        (&[("a1", "4", 5), ("b1", "4", 3)], "1", "b1"),
        // One that is enough, and of several the least important.
        (&[("a1", "2", 1), ("a2", "2", 5), ("b1", "4", 20)], "2", "a1"),
        (&[("a1", "2", 1), ("a2", "2", 5), ("b1", "4", 20)], "3", "a2 a1"),
        // Its highest priority counts before how many there are.
        (&[("a1", "2", 3), ("a2", "2", 3), ("b1", "4", 4)], "4", "a1 a2"),
        (&[("a1", "2", 3), ("a2", "2", 3), ("b1", "4", 3)], "4", "b1"),
        (&[("a1", "3", 20), ("a2", "1", 1), ("b1", "4", 20)], "2", "hopeless"),
    ] {
        assert_eq!(victims(there, &new(cpu), &none), expected, "{there:?} {cpu}");
    }
    let mut meek = new("1");
    merge(&mut meek, &json!({"spec": {"preemptionPolicy": "Never"}}));
    let there = [("a1", "4", 5), ("b1", "4", 5)];
    assert_eq!(victims(&there, &meek, &none), "not eligible due to preemptionPolicy=Never.");
}

#[test]
fn budgets_are_broken_last() {
    let budget = |allowed| {
        let selector = serde_json::from_value(json!({"matchLabels": {"app": "x"}})).expect("a selector");
        let selector = labels::compile(Some(&selector)).expect("a selector");
        Budgets::from([(key("budget"), Budget { selector, allowed, leaving: Vec::new() })])
    };
    let there = [("a1", "2", 1), ("a2", "2", 1), ("b1", "4", 2)];
    assert_eq!(victims(&there, &asks("4", 10), &budget(2)), "a1 a2");
    assert_eq!(victims(&there, &asks("4", 10), &budget(1)), "b1", "one budget is broken there and none here");
    assert_eq!(
        victims(&there, &asks("4", 10), &budget(0)),
        "b1",
        "everybody breaks it: one does less than two"
    );
}

#[test]
fn those_whom_it_must_not_be_near_to_go() {
    let mut new = asks("1", 10);
    merge(
        &mut new,
        &json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": "kubernetes.io/hostname"}]}}}}),
    );
    assert_eq!(victims(&[("a1", "1", 5), ("b1", "1", 20)], &new, &Budgets::new()), "a1");
}

/// Tells the scheduler that what it decided has been written.
fn written(scheduler: &mut Scheduler, action: Option<Action>) -> (Vec<String>, String) {
    let Some(Action::Preempt { report, victims, node }) = action else { panic!("{action:?}") };
    assert_eq!(report.write.as_ref().and_then(|write| write.nominated.as_deref()), Some(&*node));
    scheduler.reported(&report, Reported::Known, Instant::now());
    (victims.into_iter().map(|victim| victim.key.name).collect(), node)
}

#[tokio::test(start_paused = true)]
async fn what_is_made_free_is_kept_for_whom_it_was() {
    let mut scheduler = Scheduler::default();
    scheduler.node_changed("a", Some(node("a", &json!({}))));
    let on = |over: &Value| {
        let mut over = over.clone();
        merge(&mut over, &json!({"spec": {"nodeName": "a"}}));
        over
    };
    scheduler.pod_changed(&key("low"), Some(pod("low", &on(&asks("4", 0)))), Instant::now());
    scheduler.pod_changed(&key("high"), Some(pod("high", &asks("4", 10))), Instant::now());
    let action = scheduler.next(Instant::now(), |_| 0);
    assert_eq!(written(&mut scheduler, action), (vec!["low".to_owned()], "a".to_owned()));
    // It is on its way out: nothing is done twice, and nobody else takes its place.
    let mut leaving = on(&asks("4", 0));
    merge(&mut leaving, &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    scheduler.pod_changed(&key("low"), Some(pod("low", &leaving)), Instant::now());
    scheduler.pod_changed(&key("other"), Some(pod("other", &asks("1", 5))), Instant::now());
    scheduler.pod_changed(&key("low"), None, Instant::now());
    scheduler.wake(Instant::now());
    let mut bound = Vec::new();
    while let Some(action) = scheduler.next(Instant::now(), |_| 0) {
        match action {
            Action::Bind { key, .. } => bound.push(key.name),
            Action::Report(report) => scheduler.reported(&report, Reported::Known, Instant::now()),
            Action::Preempt { victims, .. } => panic!("{victims:?}"),
        }
    }
    assert_eq!(bound, ["high"]);
}
