//! What a CronJob does next, as tables.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use serde_json::{Value, json};

use super::plan::{Plan, plan};

fn at(clock: &str) -> Timestamp {
    format!("2026-03-01T{clock}Z").parse().expect("a time of day")
}

fn cron(spec: &Value, last: &str) -> CronJob {
    let mut whole = json!({
        "metadata": {"name": "tick", "namespace": "n", "uid": "cron", "creationTimestamp": "2026-03-01T10:00:30Z"},
        "spec": {
            "schedule": "*/10 * * * *", "concurrencyPolicy": "Allow", "suspend": false,
            "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}},
        },
        "status": {},
    });
    if !last.is_empty() {
        whole["status"]["lastScheduleTime"] = at(last).to_string().into();
    }
    serde_json::from_value(api_machinery::patch::merge::apply(&whole, &json!({"spec": spec})))
        .expect("a CronJob")
}

/// `10:10` runs, `10:10c` is complete, `10:10f` has failed.
fn jobs(text: &str) -> Vec<Arc<Job>> {
    let job = |word: &str| {
        let clock = word.trim_end_matches(char::is_alphabetic);
        let due = at(&format!("{clock}:00"));
        let name = format!("tick-{}", due.as_second() / 60);
        let over = match &word[clock.len()..] {
            "c" => json!([{"type": "Complete", "status": "True"}]),
            "f" => json!([{"type": "Failed", "status": "True"}]),
            _ => json!([]),
        };
        let job = json!({"metadata": {"name": name, "uid": word}, "spec": {"template": {}},
            "status": {"startTime": due.to_string(), "completionTime": due.to_string(), "conditions": over}});
        Arc::new(serde_json::from_value(job).expect("a job"))
    };
    text.split_whitespace().map(job).collect()
}

/// `+10:10` makes the Job of that time, `-10:10c` deletes, `"Reason"` is told.
fn told(plan: &Plan) -> String {
    let clock = |job: &Job| {
        let due = &job.metadata.annotations.as_ref().expect("one")["batch.kubernetes.io/cronjob-scheduled-timestamp"];
        due[11..16].to_owned()
    };
    let made = plan.create.iter().map(|job| format!("+{}", clock(job)));
    let gone = plan.delete.iter().map(|job| format!("-{}", job.metadata.uid.as_deref().expect("one")));
    let notes = plan.notes.iter().map(|note| format!("{:?}", note.reason));
    made.chain(gone).chain(notes).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_is_due() {
    let deadline = |seconds: i64| json!({"startingDeadlineSeconds": seconds});
    for (spec, last, now, known, expected) in [
        (json!({}), "", "10:05:00", "", ""),
        (json!({}), "", "10:10:00", "", "+10:10"),
        (json!({}), "10:10:00", "10:10:01", "10:10", ""),
        (json!({}), "10:10:00", "10:20:05", "10:10", "+10:20"),
        // Only the last one that was missed.
        (json!({}), "10:10:00", "10:45:00", "10:10c", "+10:40"),
        // Made, but not said.
        (json!({}), "10:10:00", "10:20:05", "10:20", ""),
        (json!({"suspend": true}), "", "10:10:00", "", ""),
        // Late by five seconds.
        (deadline(4), "10:10:00", "10:20:05", "", ""),
        (deadline(6), "10:10:00", "10:20:05", "", "+10:20"),
        (json!({"concurrencyPolicy": "Forbid"}), "10:10:00", "10:20:00", "10:10", "\"JobAlreadyActive\""),
        (json!({"concurrencyPolicy": "Forbid"}), "10:10:00", "10:20:00", "10:10c", "+10:20"),
        (json!({"concurrencyPolicy": "Replace"}), "10:10:00", "10:20:00", "10:10", "+10:20 -10:10"),
        (json!({"schedule": "* * * * *"}), "10:00:00", "11:50:00", "", "+11:50 \"TooManyMissedTimes\""),
        (json!({"schedule": "* * *"}), "", "11:50:00", "", "\"UnparseableSchedule\""),
        (json!({"timeZone": "Nowhere"}), "", "11:50:00", "", "\"UnknownTimeZone\""),
        (json!({"schedule": "46 15 * * *", "timeZone": "Asia/Kathmandu"}), "", "10:01:00", "", "+15:46"),
    ] {
        let plan = plan(&cron(&spec, last), &jobs(known), at(now));
        assert_eq!(told(&plan), expected, "{spec} {last} {now} {known}");
    }
}

#[test]
fn what_is_over_goes_but_for_a_few() {
    let known = "10:10c 10:20f 10:30c 10:40f 10:50c 11:00c 11:10";
    let plan = plan(&cron(&json!({}), "11:10:00"), &jobs(known), at("11:11:00"));
    assert_eq!(told(&plan), "-10:10c -10:20f");
    assert_eq!(plan.wake, Some(at("11:20:00")));
    let all = super::plan::plan(
        &cron(&json!({"successfulJobsHistoryLimit": 0}), "11:10:00"),
        &jobs(known),
        at("11:11:00"),
    );
    assert_eq!(all.delete.len(), 5);
}

#[test]
fn the_status_follows_the_jobs() {
    let mut cron = cron(&json!({}), "11:10:00");
    let status = cron.status.as_mut().expect("one");
    let known = |uid: &str| super::plan::entry(&jobs(uid)[0]);
    status.active = Some(vec![known("10:10c"), known("10:20"), known("10:30")]);
    let plan = plan(&cron, &jobs("10:10c 10:20"), at("11:11:00"));
    assert_eq!(told(&plan), "\"SawCompletedJob\" \"MissingJob\"");
    assert_eq!(
        plan.notes[0].text,
        format!("Saw completed job: tick-{}, condition: Complete", at("10:10:00").as_second() / 60)
    );
    assert_eq!(plan.status.active.expect("one").len(), 1);
    assert_eq!(plan.status.last_successful_time.expect("one").0, at("10:10:00"));
}
