//! What the controller keeps at its size: ReplicaSets, and ReplicationControllers, which are ReplicaSets with an older
//! selector and an older status.

use std::borrow::Cow;

use component::api::Object;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Serialize;

/// Something with a number of equal pods.
pub(crate) trait Set:
    Object + Serialize + kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
{
    /// As a ReplicaSet.
    fn view(&self) -> Cow<'_, ReplicaSet>;

    /// With another status.
    fn told(&self, status: ReplicaSetStatus) -> Self;
}

impl Set for ReplicaSet {
    fn view(&self) -> Cow<'_, ReplicaSet> {
        Cow::Borrowed(self)
    }

    fn told(&self, status: ReplicaSetStatus) -> Self {
        Self { status: Some(status), ..self.clone() }
    }
}

impl Set for ReplicationController {
    fn view(&self) -> Cow<'_, ReplicaSet> {
        let spec = self.spec.clone().unwrap_or_default();
        let selector = LabelSelector { match_labels: spec.selector, match_expressions: None };
        Cow::Owned(ReplicaSet {
            metadata: self.metadata.clone(),
            spec: ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: spec.replicas,
                selector,
                template: spec.template,
            },
            status: self.status.clone().map(|status| ReplicaSetStatus {
                available_replicas: status.available_replicas,
                conditions: status.conditions.map(|all| all.into_iter().map(newer).collect()),
                fully_labeled_replicas: status.fully_labeled_replicas,
                observed_generation: status.observed_generation,
                ready_replicas: status.ready_replicas,
                replicas: status.replicas,
                terminating_replicas: None,
            }),
        })
    }

    fn told(&self, status: ReplicaSetStatus) -> Self {
        let status = ReplicationControllerStatus {
            available_replicas: status.available_replicas,
            conditions: status.conditions.map(|all| all.into_iter().map(older).collect()),
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
        };
        Self { status: Some(status), ..self.clone() }
    }
}

fn newer(condition: ReplicationControllerCondition) -> ReplicaSetCondition {
    ReplicaSetCondition {
        last_transition_time: condition.last_transition_time,
        message: condition.message,
        reason: condition.reason,
        status: Some(condition.status),
        type_: Some(condition.type_),
    }
}

fn older(condition: ReplicaSetCondition) -> ReplicationControllerCondition {
    ReplicationControllerCondition {
        last_transition_time: condition.last_transition_time,
        message: condition.message,
        reason: condition.reason,
        status: condition.status.unwrap_or_default(),
        type_: condition.type_.unwrap_or_default(),
    }
}
