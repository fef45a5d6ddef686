//! What a quota's status should say. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use pod_rules::amounts::Amounts;
use pod_rules::quota::Quota;
use pod_rules::status::{is_deleting, is_terminal};

/// Whether the quota has never been counted as it is now: then nothing of it is enforced.
pub fn is_new(quota: &ResourceQuota) -> bool {
    let wanted = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let status = quota.status.as_ref();
    status.is_none_or(|status| status.hard.as_ref() != wanted || status.used.is_none())
}

/// Whether a pod may cost less, or soon will, after it has changed so. What it costs more has been charged.
pub fn may_give_back(old: Option<&Pod>, new: Option<&Pod>) -> bool {
    match (old, new) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(old), Some(new)) => {
            is_terminal(old) != is_terminal(new)
                || is_deleting(old) != is_deleting(new)
                || old.metadata.generation != new.metadata.generation
        }
    }
}

/// The status that is missing. What could not be counted stays as it was last seen.
pub fn status(quota: &ResourceQuota, parsed: &Quota, counted: Amounts) -> Option<ResourceQuotaStatus> {
    let mut used = parsed.used.clone();
    used.extend(counted);
    used.retain(|name, _| parsed.wanted.contains_key(name));
    let told = quota.status.as_ref().is_some_and(|status| status.hard.is_some() && status.used.is_some());
    if told && parsed.hard == parsed.wanted && parsed.used == used {
        return None;
    }
    let written = |amounts: &Amounts| -> BTreeMap<String, Quantity> {
        amounts.iter().map(|(name, amount)| (name.clone(), Quantity(amount.to_string()))).collect()
    };
    Some(ResourceQuotaStatus { hard: Some(written(&parsed.wanted)), used: Some(written(&used)) })
}
