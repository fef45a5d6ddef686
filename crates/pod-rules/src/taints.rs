//! Taints of nodes and the tolerations of pods. Who adds taints, and who evicts, is decided elsewhere.

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

/// Keeps pods away that are not there yet.
pub const NO_SCHEDULE: &str = "NoSchedule";
/// Keeps pods away where that is possible.
pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
/// Keeps pods away and evicts those that are there.
pub const NO_EXECUTE: &str = "NoExecute";

/// The pod's tolerations.
pub fn tolerations(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

/// Whether one toleration covers one taint. An empty key or effect covers all of them.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let covers = |wanted: &Option<String>, found: &str| {
        wanted.as_deref().is_none_or(|wanted| wanted.is_empty() || wanted == found)
    };
    if !covers(&toleration.effect, &taint.effect) || !covers(&toleration.key, &taint.key) {
        return false;
    }
    let (wanted, found) = (toleration.value.as_deref().unwrap_or(""), taint.value.as_deref().unwrap_or(""));
    let numbers = || Some((found.parse::<i64>().ok()?, wanted.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or("") {
        "" | "Equal" => wanted == found,
        "Exists" => true,
        "Gt" => numbers().is_some_and(|(found, wanted)| found > wanted),
        "Lt" => numbers().is_some_and(|(found, wanted)| found < wanted),
        _ => false,
    }
}

/// The first taint with one of these effects that the pod does not tolerate.
pub fn untolerated<'a>(pod: &Pod, taints: &'a [Taint], effects: &[&str]) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| effects.contains(&taint.effect.as_str()))
        .find(|taint| !tolerations(pod).iter().any(|toleration| tolerates(toleration, taint)))
}

/// How many seconds the pod may stay on a node with these taints: the least that the first toleration of each `NoExecute`
/// taint allows. `None` is forever; `Some(0)` is at once, as for a taint that is not tolerated.
pub fn toleration_deadline(pod: &Pod, taints: &[Taint]) -> Option<u64> {
    let mut least: Option<u64> = None;
    for taint in taints.iter().filter(|taint| taint.effect == NO_EXECUTE) {
        let Some(toleration) = tolerations(pod).iter().find(|toleration| tolerates(toleration, taint)) else {
            return Some(0);
        };
        if let Some(seconds) = toleration.toleration_seconds {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            least = Some(least.map_or(seconds, |least| least.min(seconds)));
        }
    }
    least
}
