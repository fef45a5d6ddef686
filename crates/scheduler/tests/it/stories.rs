//! The scheduler's state through what happens to nodes and pods, without an API.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodCondition;
use scheduler::scheduler::{Action, Report, Reported, Scheduler};
use serde_json::{Value, json};
use tokio::time::{Instant, advance};

use crate::{asking, key, node, pod};

#[derive(Default)]
struct World(Scheduler);

impl World {
    fn node(&mut self, name: &str, over: &Value) {
        self.0.node_changed(name, Some(node(name, over)));
    }

    fn pod(&mut self, name: &str, over: &Value) {
        self.0.pod_changed(&key(name), Some(pod(name, over)), Instant::now());
    }

    fn gone(&mut self, name: &str) {
        self.0.pod_changed(&key(name), None, Instant::now());
    }

    fn next(&mut self) -> Option<Action> {
        self.0.wake(Instant::now());
        self.0.next(Instant::now(), |_| 0)
    }

    /// The next action must be a binding.
    fn bind(&mut self) -> (String, String) {
        match self.next() {
            Some(Action::Bind { key, node, .. }) => (key.name, node),
            other => panic!("no binding but {other:?}"),
        }
    }

    /// The next action must be a refusal, which is then written.
    fn refuse(&mut self) -> Report {
        match self.next() {
            Some(Action::Report(report)) => {
                if report.write.is_some() {
                    let condition = condition(&report);
                    self.0.reported(
                        &report,
                        Reported::Written(condition, Some("2".to_owned())),
                        Instant::now(),
                    );
                }
                report
            }
            other => panic!("no refusal but {other:?}"),
        }
    }
}

fn condition(report: &Report) -> PodCondition {
    PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some(report.reason.to_owned()),
        message: Some(report.message.clone()),
        ..PodCondition::default()
    }
}

fn pair(pod: &str, node: &str) -> (String, String) {
    (pod.to_owned(), node.to_owned())
}

#[tokio::test(start_paused = true)]
async fn an_assumed_pod_takes_its_place_before_the_api_says_so() {
    let mut world = World::default();
    let three = asking(json!({"cpu": "3"}));
    world.node("n", &json!({}));
    world.pod("a", &three);
    world.pod("b", &three);
    assert_eq!(world.bind(), pair("a", "n"));
    assert!(world.refuse().message.starts_with("0/1 nodes are available: 1 Insufficient cpu."));
    // A view that does not show the assignment is older than our own write.
    world.pod("a", &three);
    assert!(world.next().is_none());
    world.0.bound(&key("a"), "uid-a");
    world.pod("a", &three);
    assert!(world.next().is_none());
    let mut bound = three.clone();
    bound["spec"]["nodeName"] = "n".into();
    world.pod("a", &bound);
    advance(Duration::from_secs(2)).await;
    assert!(world.next().is_none(), "nothing that helps b");
    world.gone("a");
    assert_eq!(world.bind(), pair("b", "n"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_binding_frees_the_node_and_backs_off() {
    let mut world = World::default();
    let three = asking(json!({"cpu": "3"}));
    world.node("n", &json!({}));
    world.pod("a", &three);
    world.bind();
    let report =
        world.0.bind_failed(&key("a"), "uid-a", Some("no".to_owned()), Instant::now()).expect("a report");
    assert_eq!(report.reason, "SchedulerError");
    world.0.reported(&report, Reported::Written(condition(&report), Some("2".to_owned())), Instant::now());
    world.pod("b", &three);
    assert_eq!(world.bind(), pair("b", "n"), "the room is free again");
    assert!(world.next().is_none(), "a backs off");
    advance(Duration::from_secs(1)).await;
    assert!(world.refuse().message.contains("Insufficient cpu"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_a_pod_of_before_changes_nothing() {
    let mut world = World::default();
    world.node("n", &json!({}));
    world.pod("a", &json!({}));
    world.bind();
    world.pod("a", &json!({"metadata": {"uid": "another"}}));
    assert_eq!(world.bind(), pair("a", "n"));
    assert!(world.0.bind_failed(&key("a"), "uid-a", Some("gone".to_owned()), Instant::now()).is_none());
    let placement = world.0.columns().placement(&key("a")).expect("the new one stays assumed");
    assert_eq!((placement.uid, placement.assumed), ("another", true));
}

#[tokio::test(start_paused = true)]
async fn only_events_that_help_wake_a_pod() {
    let mut world = World::default();
    let ssd = json!({"metadata": {"labels": {"disk": "ssd"}}});
    let tainted = json!({"metadata": {"labels": {"disk": "ssd"}},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    world.node("plain", &json!({}));
    world.pod("picky", &json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
    assert!(world.refuse().message.contains("didn't match Pod's node affinity/selector"));
    advance(Duration::from_secs(60)).await;
    world.node("other", &json!({}));
    world.node("n", &tainted);
    assert!(world.next().is_none(), "neither node helps");
    let mut heartbeat = tainted.clone();
    heartbeat["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    world.node("n", &heartbeat);
    assert!(world.next().is_none());
    world.node("n", &ssd);
    assert_eq!(world.bind(), pair("picky", "n"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_still_does_not_fit_says_the_new_reason() {
    let mut world = World::default();
    world.pod("large", &asking(json!({"cpu": "5"})));
    assert_eq!(world.refuse().message, "no nodes available to schedule pods");
    world.node("n", &json!({"spec": {"taints": [{"key": "not-ready", "effect": "NoSchedule"}]}}));
    advance(Duration::from_secs(1)).await;
    assert!(world.refuse().message.contains(": 1 node(s) had untolerated taint(s)."));
    world.node("n", &json!({}));
    assert!(world.next().is_none(), "it backs off");
    advance(Duration::from_secs(2)).await;
    assert!(world.refuse().message.contains(": 1 Insufficient cpu."));
    world.node("other", &json!({}));
    advance(Duration::from_secs(60)).await;
    assert!(world.next().is_none(), "another node that does not help");
}

#[tokio::test(start_paused = true)]
async fn room_is_used_at_once_and_only_as_far_as_it_goes() {
    let mut world = World::default();
    let three = asking(json!({"cpu": "3"}));
    let mut there = three.clone();
    there["spec"]["nodeName"] = "n".into();
    world.node("n", &json!({}));
    world.pod("there", &there);
    world.pod("a", &three);
    world.pod("b", &three);
    world.refuse();
    world.refuse();
    world.gone("there");
    assert_eq!(world.bind(), pair("a", "n"));
    assert!(world.next().is_none(), "b is not even tried");
}

#[tokio::test(start_paused = true)]
async fn a_condition_is_written_once_and_over_what_it_was_decided_on() {
    let mut world = World::default();
    world.pod("a", &json!({}));
    let first = world.refuse();
    let write = first.write.expect("news");
    assert_eq!((write.version.as_deref(), write.before), (Some("1"), None));
    advance(Duration::from_secs(300)).await;
    let second = world.refuse();
    assert!(second.write.is_none(), "it says so already, though the cache does not show it yet");
    world.node("n", &json!({"spec": {"unschedulable": true}}));
    advance(Duration::from_secs(300)).await;
    let third = world.refuse();
    assert!(third.message.starts_with("0/1 nodes are available: 1 node(s) were unschedulable."));
    assert_eq!(third.write.expect("news").version.as_deref(), Some("2"), "our own last write");
}

#[tokio::test(start_paused = true)]
async fn a_report_that_failed_is_made_again() {
    let mut world = World::default();
    world.pod("a", &json!({}));
    let Some(Action::Report(report)) = world.next() else { panic!("no report") };
    world.0.reported(&report, Reported::Failed, Instant::now());
    advance(Duration::from_secs(1)).await;
    assert!(world.refuse().write.is_some());
}

#[tokio::test(start_paused = true)]
async fn pods_that_are_not_ours_to_place_are_left_alone() {
    let mut world = World::default();
    world.node("n", &json!({}));
    world.pod("gated", &json!({"spec": {"schedulingGates": [{"name": "wait"}]}}));
    world.pod("other", &json!({"spec": {"schedulerName": "mine"}}));
    world.pod("dying", &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    world.pod("done", &json!({"status": {"phase": "Succeeded"}}));
    assert!(world.next().is_none());
    world.pod("gated", &json!({}));
    assert_eq!(world.bind(), pair("gated", "n"));
}

#[tokio::test(start_paused = true)]
async fn a_restart_learns_everything_from_what_it_sees() {
    let mut world = World::default();
    let mut there = asking(json!({"cpu": "3"}));
    there["spec"]["nodeName"] = "n".into();
    // Pods may be seen before their node.
    world.pod("there", &there);
    world.pod("new", &asking(json!({"cpu": "2"})));
    world.node("n", &json!({}));
    assert!(world.refuse().message.contains("1 Insufficient cpu"));
    let mut done = there.clone();
    done["status"] = json!({"phase": "Succeeded"});
    world.pod("there", &done);
    advance(Duration::from_secs(1)).await;
    assert_eq!(world.bind(), pair("new", "n"));
    world.0.node_changed("n", None);
    world.gone("new");
    assert_eq!(world.0.columns().present(), 0);
    assert_eq!(world.0.columns().slot("n"), None, "nothing is kept of what is gone");
}

#[tokio::test]
async fn a_thousand_pods_on_a_hundred_nodes() {
    let mut world = World::default();
    for number in 0..100 {
        world.node(
            &format!("node-{number}"),
            &json!({"status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}}}),
        );
    }
    let mut wanted = asking(json!({"cpu": "100m", "memory": "128Mi"}));
    wanted["metadata"] = json!({"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "owner", "controller": true}]});
    for number in 0..1000 {
        world.pod(&format!("pod-{number}"), &wanted);
    }
    let start = Instant::now();
    for _ in 0..1000 {
        let (pod, _) = world.bind();
        world.0.bound(&key(&pod), &format!("uid-{pod}"));
    }
    let each = start.elapsed() / 1000;
    println!("{each:?} a pod");
    assert!(each < Duration::from_millis(5), "{each:?} a pod, without optimization");
    let spread = world.0.columns().siblings("owner").expect("siblings");
    assert!(spread.len() == 100 && spread.values().all(|count| *count == 10), "{spread:?}");
}
