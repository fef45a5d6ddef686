//! The class of service that a pod gets when a node runs short: from what its containers ask for and are limited to.

use std::collections::BTreeMap;

use api_machinery::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

/// Quality of service. Later ones are given up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QosClass {
    /// Everything that is used was asked for.
    Guaranteed,
    /// Something was asked for.
    Burstable,
    /// Nothing was asked for.
    BestEffort,
}

impl QosClass {
    /// The name in `status.qosClass`.
    pub fn name(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

type Sums = BTreeMap<&'static str, Quantity>;

/// The class that the pod's spec gives it. Only CPU and memory count; pod-level resources count alone where there are any.
pub fn class(pod: &Pod) -> QosClass {
    let Some(spec) = &pod.spec else { return QosClass::BestEffort };
    let (mut requests, mut limits) = (Sums::new(), Sums::new());
    let mut all_limited = true;
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let per_container = containers.map(|container| container.resources.as_ref());
    let whole = spec.resources.as_ref().filter(|resources| !is_empty(resources));
    let holders: Vec<Option<&ResourceRequirements>> = match whole {
        Some(whole) => vec![Some(whole)],
        None => per_container.collect(),
    };
    for holder in holders {
        for name in ["cpu", "memory"] {
            let of = |list: Option<&crate::resources::List>| {
                let text = list.and_then(|list| list.get(name))?;
                Quantity::parse(&text.0).ok().filter(|quantity| *quantity > Quantity::ZERO)
            };
            let limit = of(holder.and_then(|holder| holder.limits.as_ref()));
            all_limited &= limit.is_some();
            for (sums, quantity) in [
                (&mut requests, of(holder.and_then(|holder| holder.requests.as_ref()))),
                (&mut limits, limit),
            ] {
                if let Some(quantity) = quantity {
                    let sum = sums.entry(name).or_insert(Quantity::ZERO);
                    *sum = sum.plus(quantity);
                }
            }
        }
    }
    if requests.is_empty() && limits.is_empty() {
        return QosClass::BestEffort;
    }
    if all_limited && requests == limits { QosClass::Guaranteed } else { QosClass::Burstable }
}

fn is_empty(resources: &ResourceRequirements) -> bool {
    let empty = |list: &Option<crate::resources::List>| list.as_ref().is_none_or(BTreeMap::is_empty);
    empty(&resources.requests) && empty(&resources.limits)
}
