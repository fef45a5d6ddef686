//! What a Job's own rules say of pods that failed (`podFailurePolicy`) and of indexes that succeeded (`successPolicy`).
//! Pure.

use k8s_openapi::api::batch::v1::{
    Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, SuccessPolicyRule,
};
use k8s_openapi::api::core::v1::Pod;
use pod_rules::status;

use super::indexes::{self, Indexes};
use super::pod;

/// What becomes of a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It counts towards the limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index is not tried again.
    FailIndex,
    /// The whole Job has failed, and why.
    FailJob(String),
}

/// The verdict of the first rule that a failed pod matches.
pub(crate) fn judge(job: &Job, failed: &Pod) -> Verdict {
    let policy = job.spec.as_ref().and_then(|spec| spec.pod_failure_policy.as_ref());
    for (number, rule) in policy.into_iter().flat_map(|policy| &policy.rules).enumerate() {
        let codes = rule.on_exit_codes.as_ref().and_then(|codes| exited(failed, codes));
        let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
        let Some(what) = codes.or_else(|| has_condition(failed, conditions)) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{what} matching FailJob rule at index {number}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn place(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!("{}/{}", meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// A container that ended as the rule says. Success is not a failure, whatever the rule says.
fn exited(pod: &Pod, rule: &PodFailurePolicyOnExitCodesRequirement) -> Option<String> {
    let wanted = |name: &str| rule.container_name.as_deref().is_none_or(|wanted| wanted == name);
    let (name, code) =
        pod::containers(pod).filter(|container| wanted(&container.name)).find_map(|container| {
            let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
            let listed = rule.values.contains(&code);
            let matches = if rule.operator == "NotIn" { !listed } else { listed };
            (code != 0 && matches).then_some((&container.name, code))
        })?;
    Some(format!("Container {name} for pod {} failed with exit code {code}", place(pod)))
}

fn has_condition(pod: &Pod, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<String> {
    let found = patterns.iter().find(|pattern| {
        let wanted = pattern.status.as_deref().unwrap_or("True");
        status::condition(pod, &pattern.type_).is_some_and(|condition| condition.status == wanted)
    })?;
    Some(format!("Pod {} has condition {}", place(pod), found.type_))
}

/// Which rule of the success policy the succeeded indexes meet, if any.
pub(crate) fn success(job: &Job, succeeded: &Indexes, completions: i32) -> Option<usize> {
    let policy = job.spec.as_ref()?.success_policy.as_ref()?;
    policy.rules.iter().position(|rule| meets(rule, succeeded, completions))
}

fn meets(rule: &SuccessPolicyRule, succeeded: &Indexes, completions: i32) -> bool {
    let wanted = rule.succeeded_indexes.as_deref().map(|text| indexes::parse(text, completions));
    let done = match &wanted {
        Some(wanted) => wanted.intersection(succeeded).count(),
        None => succeeded.len(),
    };
    match (rule.succeeded_count, wanted) {
        (Some(count), _) => usize::try_from(count).is_ok_and(|count| done >= count),
        (None, Some(wanted)) => done >= wanted.len(),
        (None, None) => false,
    }
}
