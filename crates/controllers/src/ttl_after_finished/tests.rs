//! When finished Jobs go.

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use super::due;

#[test]
fn only_what_is_over_goes_and_only_if_it_says_so() {
    let at = "2026-03-01T12:00:00Z";
    let over = |kind: &str, status: &str| json!([{"type": kind, "status": status, "lastTransitionTime": at}]);
    let deleting = json!({"deletionTimestamp": at});
    for (metadata, ttl, conditions, expected) in [
        (json!({}), json!(0), over("Complete", "True"), Some("2026-03-01T12:00:00Z")),
        (json!({}), json!(90), over("Failed", "True"), Some("2026-03-01T12:01:30Z")),
        (json!({}), Value::Null, over("Complete", "True"), None),
        (json!({}), json!(90), over("Complete", "False"), None),
        (json!({}), json!(90), over("SuccessCriteriaMet", "True"), None),
        (json!({}), json!(90), json!([]), None),
        (deleting, json!(90), over("Complete", "True"), None),
    ] {
        let job = json!({"metadata": metadata, "status": {"conditions": conditions},
            "spec": {"ttlSecondsAfterFinished": ttl, "template": {}}});
        let job: Job = serde_json::from_value(job).expect("a job");
        assert_eq!(due(&job).map(|at| at.to_string()).as_deref(), expected, "{ttl} {conditions}");
    }
}
