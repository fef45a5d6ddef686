//! What a Job does next, as tables.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::indexes;
use super::plan::{self, Plan};
use super::pod::{self, Failures};
use super::policy::{self, Verdict};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a literal")
}

fn job(spec: &Value, status: &Value) -> Job {
    let started = api_machinery::clock::rfc3339(now() - SignedDuration::from_secs(60));
    let whole = json!({
        "metadata": {"name": "work", "namespace": "n", "uid": "job"},
        "spec": {
            "parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
            "template": {"metadata": {"labels": {"app": "work"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}},
        },
        "status": {"startTime": started, "uncountedTerminatedPods": {}},
    });
    let whole = api_machinery::patch::merge::apply(&whole, &json!({"spec": spec, "status": status}));
    serde_json::from_value(whole).expect("a Job")
}

/// `a` runs; `as` has succeeded, `af` failed a minute ago, `af5` with exit code 5, `an` just now; `ad` is being deleted.
/// A `!` behind it: it has no finalizer any more. `a@2` works for index 2.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    let pod = |word: &str| {
        let (word, untracked) = word.strip_suffix('!').map_or((word, false), |word| (word, true));
        let (word, index) = word.split_once('@').unwrap_or((word, ""));
        let (name, mark) = word.split_at(1);
        let code =
            mark.trim_start_matches(char::is_alphabetic).parse().unwrap_or(i32::from(!mark.contains('s')));
        let phase = match mark.chars().next() {
            Some('s') => "Succeeded",
            Some('f' | 'n') => "Failed",
            _ => "Running",
        };
        let ago = if mark == "n" { 0 } else { 60 };
        let at = api_machinery::clock::rfc3339(now() - SignedDuration::from_secs(ago));
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "creationTimestamp": at},
            "status": {"phase": phase},
        });
        if !untracked {
            pod["metadata"]["finalizers"] = json!([pod::FINALIZER]);
        }
        if !index.is_empty() {
            pod["metadata"]["annotations"] = json!({"batch.kubernetes.io/job-completion-index": index});
        }
        if phase != "Running" {
            let state = json!({"terminated": {"exitCode": code, "finishedAt": at}});
            pod["status"]["containerStatuses"] = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
        }
        if mark == "d" {
            pod["metadata"]["deletionTimestamp"] = at.into();
        }
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    };
    text.split_whitespace().map(pod).collect()
}

fn planned(spec: &Value, status: &Value, text: &str) -> Plan {
    plan::plan(&job(spec, status), &pods(text), now())
}

/// `+` makes a pod, `+2` one for index 2; `~a` is let go, `-a` discarded, `!a` deleted.
fn told(plan: &Plan) -> String {
    let name = |pod: &Arc<Pod>| pod.metadata.name.clone().expect("named");
    let made = plan.create.iter().map(|place| match place {
        Some((index, _)) => format!("+{index}"),
        None => "+".to_owned(),
    });
    let sign = |sign: &'static str, pods: &[Arc<Pod>]| {
        pods.iter().map(|pod| format!("{sign}{}", name(pod))).collect::<Vec<_>>()
    };
    let gone = [sign("~", &plan.release), sign("-", &plan.discard), sign("!", &plan.delete)].concat();
    made.chain(gone).collect::<Vec<_>>().join(" ")
}

/// Type and reason of the conditions that are true.
fn stands(status: &JobStatus) -> String {
    let all = status.conditions.iter().flatten().filter(|condition| condition.status == "True");
    all.map(|it| format!("{}:{}", it.type_, it.reason.as_deref().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn as_many_run_as_should() {
    for (spec, pods, expected) in [
        (json!({}), "", "+"),
        (json!({}), "a", ""),
        (json!({"completions": 5, "parallelism": 3}), "a", "+ +"),
        (json!({"completions": 5, "parallelism": 3}), "as bs cs", "+ + ~a ~b ~c"),
        (json!({"completions": 2, "parallelism": 5}), "", "+ +"),
        (json!({"completions": null, "parallelism": 2}), "", "+ +"),
        // A queue is not refilled when one has found it empty.
        (json!({"completions": null, "parallelism": 2}), "as b", "~a"),
        (json!({"parallelism": 0}), "a", "-a"),
        (json!({"suspend": true}), "a", "-a"),
        (json!({"suspend": true}), "", ""),
        // After a failure there is a pause, which is over here and not there.
        (json!({}), "af", "+ ~a"),
        (json!({}), "an", "~a"),
        (json!({"completions": 3, "parallelism": 3}), "as bn", "~a ~b"),
        // One that is being deleted is replaced at once, or when it has ended.
        (json!({}), "ad!", "+"),
        (json!({"podReplacementPolicy": "Failed"}), "ad", ""),
        (json!({"podReplacementPolicy": "Failed"}), "ad!", ""),
        (json!({"managedBy": "example.com/other"}), "as", ""),
    ] {
        assert_eq!(told(&planned(&spec, &json!({}), pods)), expected, "{spec}: {pods}");
    }
}

#[test]
fn every_index_has_one() {
    let spec = |more: Value| {
        let base = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3});
        api_machinery::patch::merge::apply(&base, &more)
    };
    for (more, status, pods, expected) in [
        (json!({}), json!({}), "", "+0 +1 +2"),
        (json!({}), json!({}), "a@1", "+0 +2"),
        (json!({}), json!({"completedIndexes": "0,1"}), "", "+2"),
        (json!({}), json!({}), "as@0", "+1 +2 ~a"),
        (json!({"parallelism": 1}), json!({}), "as@0", "+1 ~a"),
        // Two of one index, and one of an index that there is not.
        (json!({}), json!({}), "a@0 b@0 c@7", "-b -c"),
        // The last failed pod of an index is kept until another knows how often it failed.
        (json!({"backoffLimitPerIndex": 2}), json!({}), "af@0 b@1 c@2", "+0"),
        (json!({"backoffLimitPerIndex": 2}), json!({}), "af@0 b@1 c@2 d@0", "~a"),
        (json!({"backoffLimitPerIndex": 2}), json!({}), "an@0 b@1 c@2", ""),
        // It is not tried again.
        (json!({"backoffLimitPerIndex": 0}), json!({}), "af@0 b@1 c@2", "~a"),
    ] {
        assert_eq!(told(&planned(&spec(more.clone()), &status, pods)), expected, "{more} {status}: {pods}");
    }
    let plan = planned(&spec(json!({"backoffLimitPerIndex": 2})), &json!({}), "af@0 b@1 c@2");
    assert_eq!(plan.create, [Some((0, Some(Failures { counted: 1, ignored: 0 })))]);
}

#[test]
fn how_it_ends() {
    let codes = |action: &str| json!({"podFailurePolicy": {"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [5]}}]}});
    let indexed = |more: Value| {
        let base = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2});
        api_machinery::patch::merge::apply(&base, &more)
    };
    let met = "SuccessCriteriaMet:CompletionsReached";
    for (spec, status, pods, expected) in [
        (json!({}), json!({}), "as", met.to_owned()),
        (
            json!({}),
            json!({"uncountedTerminatedPods": {"succeeded": ["a"]}}),
            "as!",
            format!("{met} Complete:CompletionsReached"),
        ),
        (json!({"completions": 0}), json!({}), "", format!("{met} Complete:CompletionsReached")),
        (json!({"completions": null}), json!({}), "as b", String::new()),
        (json!({"backoffLimit": 0}), json!({}), "af", "FailureTarget:BackoffLimitExceeded".to_owned()),
        (json!({"backoffLimit": 1}), json!({}), "af", String::new()),
        (
            json!({"backoffLimit": 1}),
            json!({"failed": 1}),
            "af",
            "FailureTarget:BackoffLimitExceeded".to_owned(),
        ),
        (json!({"activeDeadlineSeconds": 60}), json!({}), "a", "FailureTarget:DeadlineExceeded".to_owned()),
        (json!({"activeDeadlineSeconds": 61}), json!({}), "a", String::new()),
        (codes("FailJob"), json!({}), "af5 b", "FailureTarget:PodFailurePolicy".to_owned()),
        (codes("FailJob"), json!({}), "af6", String::new()),
        (
            api_machinery::patch::merge::apply(&codes("Ignore"), &json!({"backoffLimit": 0})),
            json!({}),
            "af5",
            String::new(),
        ),
        (indexed(json!({"backoffLimitPerIndex": 0})), json!({}), "af@0 b@1", String::new()),
        (
            indexed(json!({"backoffLimitPerIndex": 0})),
            json!({}),
            "af@0 bs@1",
            "FailureTarget:FailedIndexes".to_owned(),
        ),
        (
            indexed(json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 0})),
            json!({}),
            "af@0 b@1",
            "FailureTarget:MaxFailedIndexesExceeded".to_owned(),
        ),
        (
            indexed(json!({"successPolicy": {"rules": [{"succeededIndexes": "1"}]}})),
            json!({}),
            "a@0 bs@1",
            "SuccessCriteriaMet:SuccessPolicy".to_owned(),
        ),
        (json!({"suspend": true}), json!({}), "", "Suspended:JobSuspended".to_owned()),
    ] {
        let plan = planned(&spec, &status, pods);
        assert_eq!(stands(&plan.status.expect("a status")), expected, "{spec} {status}: {pods}");
    }
}

#[test]
fn what_runs_on_is_ended_and_what_is_over_stays_over() {
    let failed =
        json!([{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded", "message": "m"}]);
    let plan = planned(&json!({}), &json!({"conditions": failed}), "a bs");
    assert_eq!(told(&plan), "~b !a");
    assert_eq!(stands(&plan.status.expect("a status")), "FailureTarget:DeadlineExceeded", "one still runs");
    let plan = planned(&json!({}), &json!({"conditions": failed}), "");
    assert_eq!(
        stands(&plan.status.expect("a status")),
        "FailureTarget:DeadlineExceeded Failed:DeadlineExceeded"
    );
    let complete = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    let plan = planned(&json!({"completions": 9}), &complete, "as");
    assert_eq!((told(&plan).as_str(), plan.status), ("~a", None));
}

#[test]
fn every_pod_is_counted_once() {
    let counts = |status: &Value, pods: &str| {
        let status = planned(&json!({"completions": 9}), status, pods).status.expect("a status");
        let noted = status.uncounted_terminated_pods.expect("always told");
        let all = |uids: Option<Vec<String>>| uids.unwrap_or_default().join(",");
        let (succeeded, failed) = (status.succeeded.unwrap_or(0), status.failed.unwrap_or(0));
        format!("{succeeded} {} {failed} {}", all(noted.succeeded), all(noted.failed))
    };
    let noted = json!({"succeeded": 3, "uncountedTerminatedPods": {"succeeded": ["a"], "failed": ["b"]}});
    for (status, pods, expected) in [
        (&json!({}), "as bf c", "0 a 0 b"),
        (&noted, "as bf", "3 a 0 b"),
        (&noted, "as! bf", "4  0 b"),
        (&noted, "bf!", "4  1 "),
        (&noted, "as bf cs", "3 a,c 0 b"),
        // Counted already, and kept by somebody else.
        (&json!({"succeeded": 1}), "as!", "1  0 "),
    ] {
        assert_eq!(counts(status, pods), expected, "{status}: {pods}");
    }
}

#[test]
fn a_suspended_job_starts_anew() {
    let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    let status = planned(&json!({}), &suspended, "").status.expect("a status");
    assert_eq!(status.start_time.expect("started").0, now());
    assert_eq!(status.conditions.expect("one")[0].reason.as_deref(), Some("JobResumed"));
}

#[test]
fn pauses_grow() {
    let wake =
        |pods: &str| planned(&json!({}), &json!({}), pods).wake.map(|at| at.duration_since(now()).as_secs());
    assert_eq!(wake("an"), Some(10));
    assert_eq!(wake("an bn"), Some(20));
    assert_eq!(wake("an bn cn dn"), Some(80));
    assert_eq!(wake("an bn cn dn en fn gn"), None, "it is over");
    let deadline = planned(&json!({"activeDeadlineSeconds": 90}), &json!({}), "a");
    assert_eq!(deadline.wake.map(|at| at.duration_since(now()).as_secs()), Some(30));
}

#[test]
fn indexes_are_read_and_written() {
    for (text, completions, printed) in [
        ("", 5, ""),
        ("0", 5, "0"),
        ("0,1", 5, "0,1"),
        ("0,1,2,4", 5, "0-2,4"),
        ("0-4", 3, "0-2"),
        ("3-1,x,,2", 5, "2"),
    ] {
        assert_eq!(indexes::print(&indexes::parse(text, completions)), printed, "{text}");
    }
}

#[test]
fn failures_are_judged() {
    let judge = |rule: Value| {
        policy::judge(&job(&json!({"podFailurePolicy": {"rules": [rule]}}), &json!({})), &pods("af5")[0])
    };
    let codes = |operator: &str, values: Value| {
        judge(json!({"action": "FailIndex", "onExitCodes": {"operator": operator, "values": values}}))
    };
    assert_eq!(codes("In", json!([5])), Verdict::FailIndex);
    assert_eq!(codes("In", json!([6])), Verdict::Count);
    assert_eq!(codes("NotIn", json!([6])), Verdict::FailIndex);
    assert_eq!(codes("NotIn", json!([5])), Verdict::Count);
    let other =
        json!({"action": "Ignore", "onExitCodes": {"containerName": "x", "operator": "In", "values": [5]}});
    assert_eq!(judge(other), Verdict::Count);
    let condition = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]});
    assert_eq!(judge(condition), Verdict::Count);
}

#[test]
fn a_new_pod_knows_its_index() {
    let pod =
        pod::new_pod(&job(&json!({}), &json!({})), Some((3, Some(Failures { counted: 1, ignored: 0 }))));
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("work-3-"));
    assert_eq!((pod::index(&pod), Failures::of(&pod).counted), (Some(3), 1));
    assert!(pod::is_tracked(&pod));
    let spec = pod.spec.expect("a spec");
    assert_eq!(spec.hostname.as_deref(), Some("work-3"));
    assert_eq!(spec.containers[0].env.as_ref().expect("one")[0].name, "JOB_COMPLETION_INDEX");
}
