//! Silence, taints, zones and deadlines, as tables.

mod outage;

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::plan::{self, Health, Permission};
use super::policy::{Policy, interval};
use super::zones::{Mode, Zones};

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_second(minutes * 60).unwrap()
}

/// `Ready=True`, `MemoryPressure=False`, `cordoned`, and taints as `key:Effect`, short for `node.kubernetes.io/key`.
fn node(words: &str) -> Node {
    let (mut conditions, mut taints, mut cordoned) = (Vec::new(), Vec::new(), None);
    for word in words.split_whitespace() {
        match (word.split_once('='), word.split_once(':')) {
            (Some((kind, status)), _) => {
                conditions
                    .push(json!({"type": kind, "status": status, "lastTransitionTime": at(10).to_string()}));
            }
            (_, Some((key, effect))) => taints.push(taint(key, effect)),
            _ => cordoned = Some(true),
        }
    }
    parsed(json!({"metadata": {"name": "n"}, "spec": {"taints": taints, "unschedulable": cordoned},
                  "status": {"conditions": conditions}}))
}

fn taint(key: &str, effect: &str) -> Taint {
    let key = if key.contains('/') { key.to_owned() } else { format!("node.kubernetes.io/{key}") };
    Taint { key, effect: effect.to_owned(), ..Taint::default() }
}

fn words(taints: &[Taint]) -> String {
    let word = |taint: &Taint| {
        let key = taint.key.strip_prefix("node.kubernetes.io/").unwrap_or(&taint.key);
        format!("{key}:{}", taint.effect)
    };
    taints.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn silence_becomes_unknown_after_the_grace() {
    let reported = "Ready=True MemoryPressure=False DiskPressure=False PIDPressure=False";
    let unknown = "Ready=Unknown MemoryPressure=Unknown DiskPressure=Unknown PIDPressure=Unknown";
    let left = |seconds| Some(Duration::from_secs(seconds));
    // Conditions, seconds of silence; time left, or the reasons that the conditions get.
    let cases = [
        (reported, 0, left(50), ""),
        (reported, 49, left(1), ""),
        (reported, 50, None, "NodeStatusUnknown NodeStatusUnknown NodeStatusUnknown NodeStatusUnknown"),
        (
            "Ready=False",
            50,
            None,
            "NodeStatusUnknown NodeStatusNeverUpdated NodeStatusNeverUpdated NodeStatusNeverUpdated",
        ),
        ("", 50, left(10), ""),
        (
            "",
            60,
            None,
            "NodeStatusNeverUpdated NodeStatusNeverUpdated NodeStatusNeverUpdated NodeStatusNeverUpdated",
        ),
        (unknown, 500, None, ""),
    ];
    for (conditions, silence, left, reasons) in cases {
        let health =
            plan::health(&node(conditions), Duration::from_secs(silence), &Policy::default(), at(20));
        match health {
            Health::Alive(time) => assert_eq!(Some(time), left, "{conditions} {silence}"),
            Health::Silent => assert_eq!((left, reasons), (None, ""), "{conditions} {silence}"),
            Health::Lost(after) => {
                let reason = |condition: &NodeCondition| condition.reason.clone().unwrap_or_default();
                assert_eq!(
                    after.iter().map(reason).collect::<Vec<_>>().join(" "),
                    reasons,
                    "{conditions} {silence}"
                );
                assert!(after.iter().all(|condition| condition.status == "Unknown"));
                assert_eq!(after[0].last_transition_time.as_ref().unwrap().0, at(20));
            }
        }
    }
}

#[test]
fn taints_follow_conditions() {
    use Permission::{Granted, Revoked, Withheld};
    // The node; the taints that it should have, if others than it has.
    let cases = [
        ("Ready=True", Granted, None),
        ("Ready=True not-ready:NoSchedule", Granted, Some("")),
        ("", Granted, Some("not-ready:NoSchedule")),
        ("not-ready:NoSchedule", Granted, None),
        ("Ready=False", Granted, Some("not-ready:NoSchedule not-ready:NoExecute")),
        ("Ready=Unknown", Granted, Some("unreachable:NoSchedule unreachable:NoExecute")),
        ("Ready=Unknown", Withheld, Some("unreachable:NoSchedule")),
        ("Ready=Unknown", Revoked, Some("unreachable:NoSchedule")),
        ("Ready=Unknown unreachable:NoSchedule unreachable:NoExecute", Withheld, None),
        (
            "Ready=Unknown unreachable:NoSchedule unreachable:NoExecute",
            Revoked,
            Some("unreachable:NoSchedule"),
        ),
        (
            "Ready=Unknown not-ready:NoSchedule not-ready:NoExecute",
            Withheld,
            Some("unreachable:NoSchedule unreachable:NoExecute"),
        ),
        ("Ready=True unreachable:NoSchedule unreachable:NoExecute", Withheld, Some("")),
        (
            "Ready=True MemoryPressure=True DiskPressure=True PIDPressure=True NetworkUnavailable=True",
            Granted,
            Some(
                "memory-pressure:NoSchedule disk-pressure:NoSchedule network-unavailable:NoSchedule \
               pid-pressure:NoSchedule",
            ),
        ),
        ("Ready=True MemoryPressure=False memory-pressure:NoSchedule", Granted, Some("")),
        ("Ready=True MemoryPressure=Unknown", Granted, None),
        ("Ready=True cordoned", Granted, Some("unschedulable:NoSchedule")),
        ("Ready=True unschedulable:NoSchedule", Granted, Some("")),
        // Those of others stay, in their places.
        (
            "Ready=True a/b:NoSchedule not-ready:NoSchedule out-of-service:NoExecute",
            Granted,
            Some("a/b:NoSchedule out-of-service:NoExecute"),
        ),
        (
            "Ready=False a/b:NoExecute",
            Granted,
            Some("a/b:NoExecute not-ready:NoSchedule not-ready:NoExecute"),
        ),
    ];
    for (state, permission, expected) in cases {
        let found = plan::wanted_taints(&node(state), permission, at(1));
        assert_eq!(found.as_deref().map(words).as_deref(), expected, "{state} {permission:?}");
    }
}

#[test]
fn trouble_that_gets_worse_does_not_begin_anew() {
    let mut silent = node("Ready=Unknown not-ready:NoExecute");
    silent.spec.as_mut().unwrap().taints.as_mut().unwrap()[0].time_added =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(3)));
    assert!(!plan::begins_eviction(&silent));
    let taints = plan::wanted_taints(&silent, Permission::Granted, at(5)).unwrap();
    let added: Vec<Timestamp> = taints.iter().map(|taint| taint.time_added.as_ref().unwrap().0).collect();
    assert_eq!(
        (words(&taints).as_str(), added),
        ("unreachable:NoSchedule unreachable:NoExecute", vec![at(5), at(3)])
    );
}

#[test]
fn pods_of_a_node_in_trouble_are_not_ready_unless_they_became_so_since() {
    let pod = |ready: &str, since: i64| -> Pod {
        parsed(json!({"status": {"conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": at(since).to_string()}]}}))
    };
    // Node (its conditions changed at minute 10), pod ready, since when.
    let cases = [
        ("Ready=True", "True", 5, false),
        ("Ready=Unknown", "True", 5, true),
        ("Ready=False", "True", 10, true),
        ("Ready=False", "True", 11, false),
        ("Ready=Unknown", "False", 5, false),
        ("", "True", 5, false),
    ];
    for (state, ready, since, expected) in cases {
        assert_eq!(
            plan::is_stale_ready(&pod(ready, since), &node(state)),
            expected,
            "{state} {ready} {since}"
        );
    }
}

#[test]
fn pods_leave_when_their_toleration_runs_out() {
    let tolerating = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    let (five, ever) = (tolerating("node.kubernetes.io/unreachable", Some(300)), tolerating("a/b", None));
    let added = |key: &str, minute: Option<i64>| {
        let time_added =
            minute.map(|minute| k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(minute)));
        Taint { time_added, ..taint(key, "NoExecute") }
    };
    // Tolerations, taints, minute of arrival; minute to leave. Seen first at minute 20.
    type Case = (Vec<Value>, Vec<Taint>, i64, Option<i64>);
    let cases: [Case; 8] = [
        (vec![five.clone()], vec![], 1, None),
        (vec![five.clone()], vec![added("unreachable", Some(10))], 1, Some(15)),
        (vec![five.clone()], vec![added("unreachable", None)], 1, Some(25)),
        // It came knowing of the taint.
        (vec![five.clone()], vec![added("unreachable", Some(10))], 12, Some(17)),
        (vec![five.clone()], vec![added("unreachable", Some(10)), added("a/b", Some(11))], 1, Some(11)),
        (vec![ever.clone()], vec![added("a/b", Some(11))], 1, None),
        (vec![five, ever], vec![added("unreachable", Some(10)), added("a/b", Some(11))], 1, Some(15)),
        (vec![], vec![taint("unreachable", "NoSchedule")], 1, None),
    ];
    for (tolerations, taints, arrived, expected) in cases {
        let pod: Pod =
            parsed(json!({"spec": {"tolerations": tolerations, "containers": []}, "status": {"conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(arrived).to_string()}]}}));
        assert_eq!(plan::eviction(&pod, &taints, at(20)), expected.map(at), "{taints:?} {tolerations:?}");
    }
}

/// A node of a zone.
fn zoned(zone: &str, state: &str) -> Node {
    let mut node = node(state);
    node.metadata.labels = Some([("topology.kubernetes.io/zone".to_owned(), zone.to_owned())].into());
    node
}

/// Nodes of zones by number, ready or not: `a:3+2` is three ready and two others.
fn zones(words: &str) -> Zones {
    let mut zones = Zones::default();
    for word in words.split(' ') {
        let (zone, counts) = word.split_once(':').unwrap();
        let (ready, failed) = counts.split_once('+').unwrap();
        for (state, count) in [("Ready=True", ready), ("Ready=Unknown", failed)] {
            for number in 0..count.parse().unwrap() {
                let node = zoned(zone, state);
                zones.see(&format!("{zone}-{state}-{number}"), Some(&node), Instant::now());
            }
        }
    }
    zones
}

#[test]
fn the_more_of_a_zone_fails_the_less_is_evicted() {
    let cases = [
        ("a:1+1", Mode::Normal),
        ("a:0+1", Mode::Lifted),
        ("a:0+5 b:0+1", Mode::Lifted),
        ("a:0+5 b:1+0", Mode::Normal),
        ("a:1+2", Mode::Normal),
        ("a:2+3", Mode::Halted),
        ("a:3+3", Mode::Normal),
        ("a:20+40", Mode::Slow),
        ("a:40+20", Mode::Normal),
    ];
    for (state, expected) in cases {
        assert_eq!(zones(state).mode("a-Ready=Unknown-0"), expected, "{state}");
    }
}

#[test]
fn nodes_of_a_zone_are_emptied_one_after_the_other() {
    let mut zones = zones("a:9+3 b:9+1");
    let start = Instant::now();
    let wait = |seconds| Err(Some(Duration::from_secs(seconds)));
    assert_eq!(zones.take("a-Ready=Unknown-0", &BTreeSet::new(), start), Ok(()));
    assert_eq!(zones.take("a-Ready=Unknown-1", &BTreeSet::new(), start), wait(10));
    assert_eq!(
        zones.take("b-Ready=Unknown-0", &BTreeSet::new(), start),
        Ok(()),
        "another zone has its own pace"
    );
    assert_eq!(zones.take("a-Ready=Unknown-1", &BTreeSet::new(), start + Duration::from_secs(4)), wait(6));
    assert_eq!(zones.take("a-Ready=Unknown-1", &BTreeSet::new(), start + Duration::from_secs(10)), Ok(()));
}

#[test]
fn who_is_silent_counts_before_it_is_known_to_be_lost() {
    let silent: BTreeSet<String> = (0..3).map(|number| format!("a-Ready=True-{number}")).collect();
    // Of the zone's nodes, the one that is asked for is the only one that is known to be lost.
    let cases = [
        ("a:3+1 b:1+0", Ok(())),
        ("a:4+1 b:1+0", Err(Some(Duration::from_secs(10)))),
        ("a:7+1 b:1+0", Ok(())),
        ("a:3+1 b:0+1", Err(Some(Duration::from_secs(10)))),
    ];
    for (state, expected) in cases {
        assert_eq!(zones(state).take("a-Ready=Unknown-0", &silent, Instant::now()), expected, "{state}");
    }
}

#[test]
fn after_a_halt_each_node_has_its_grace() {
    let start = Instant::now();
    let later = |seconds| start + Duration::from_secs(seconds);
    // Nodes that come back one after the other at the start; whether the last one may be emptied at once.
    for (state, back, at_once) in [("a:2+3", 1, false), ("a:0+2", 1, false), ("a:3+3", 2, true)] {
        let mut zones = zones(state);
        for number in 1..=back {
            zones.see(&format!("a-Ready=Unknown-{number}"), Some(&zoned("a", "Ready=True")), start);
        }
        let mut ask = |seconds| zones.take("a-Ready=Unknown-0", &BTreeSet::new(), later(seconds));
        let expected = if at_once { Ok(()) } else { Err(Some(Duration::from_secs(20))) };
        assert_eq!(ask(30), expected, "{state}");
        assert_eq!(ask(50), Ok(()), "{state}");
    }
}

#[test]
fn only_a_change_of_what_is_allowed_is_told() {
    let (mut zones, now) = (Zones::default(), Instant::now());
    assert!(zones.see("x", Some(&node("Ready=True")), now));
    assert!(!zones.see("x", Some(&node("Ready=True")), now));
    assert!(!zones.see("y", Some(&node("Ready=Unknown")), now));
    assert!(zones.see("x", Some(&node("Ready=False")), now), "the last one that was ready");
    assert!(!zones.see("y", None, now));
    assert!(zones.see("x", None, now));
}

#[test]
fn a_zone_is_emptied_as_fast_as_was_asked_for() {
    assert_eq!(interval(0.1), Some(Duration::from_secs(10)));
    assert_eq!(
        (interval(0.0), interval(-1.0), interval(f64::NAN), interval(1e-300)),
        (None, None, None, None)
    );
    let mut zones = Zones::new(Policy { eviction_rate: 2.0, ..Policy::default() });
    let now = Instant::now();
    zones.see("a", Some(&node("Ready=False")), now);
    zones.see("b", Some(&node("Ready=True")), now);
    assert_eq!(zones.take("a", &BTreeSet::new(), now), Ok(()));
    assert_eq!(zones.take("a", &BTreeSet::new(), now), Err(Some(Duration::from_millis(500))));
    let mut never = Zones::new(Policy { eviction_rate: 0.0, ..Policy::default() });
    never.see("a", Some(&node("Ready=False")), now);
    never.see("b", Some(&node("Ready=True")), now);
    assert_eq!(never.take("a", &BTreeSet::new(), now), Err(None));
    let patient = Policy { grace: Duration::from_secs(70), ..Policy::default() };
    let reported = node("Ready=True");
    let health = plan::health(&reported, Duration::from_secs(60), &patient, at(20));
    assert_eq!(health, Health::Alive(Duration::from_secs(10)));
}
