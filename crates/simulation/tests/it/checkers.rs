//! The checkers can fail: a bug that is planted is found, by the law or the condition that is about it, and the same story
//! without it goes well.

use simulation::run::run;
use simulation::scenario::Scenario;

/// Two small nodes, a set of two pods, and one pod fewer in the end. At no time more than two.
const STORY: &str = r#"
node n1 cpu=1
node n2 cpu=1
SABOTAGE
always count pods app=web is <= 2
apply
  apiVersion: apps/v1
  kind: ReplicaSet
  metadata: {name: web}
  spec:
    replicas: 2
    selector: {matchLabels: {app: web}}
    template:
      metadata: {labels: {app: web}}
      spec:
        containers: [{name: c, image: "web:1", resources: {requests: {cpu: 600m}}}]
wait 2m count pods app=web where .status.phase = Running is = 2
patch apps/replicasets web {"spec": {"replicas": 1}}
wait 2m count pods app=web is = 1
"#;

fn told(sabotage: &str) -> Result<(), String> {
    let scenario: Scenario = STORY.replace("SABOTAGE", sabotage).parse().expect("a scenario");
    run(&scenario, 1).map(drop).map_err(|failed| failed.to_string())
}

#[test]
fn a_sound_cluster_passes() {
    assert_eq!(told("# nothing is wrong"), Ok(()));
}

#[test]
fn planted_bugs_are_found() {
    let table = [
        ("sabotage doubles", "must always hold"),
        ("sabotage crowding n1", "a law was broken: n1 has"),
        ("sabotage lost-deletes", "not within 120s"),
    ];
    for (sabotage, expected) in table {
        let told = told(sabotage).expect_err(sabotage);
        assert!(told.contains(expected), "{sabotage}: {told}");
    }
}

/// What must always hold is judged in the middle of other steps too, not only when they end.
#[test]
fn what_holds_in_the_end_must_have_held_before() {
    let faulty = STORY.replace("SABOTAGE", "always count pods app=web is <= 1");
    let told = run(&faulty.parse().expect("a scenario"), 1).expect_err("there were two pods for a while");
    assert!(told.to_string().contains("must always hold"), "{told}");
}
