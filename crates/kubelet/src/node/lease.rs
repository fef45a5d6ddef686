//! The node's Lease: the sign of life that the control plane goes by. It is written by itself, whatever else is going on.

use std::time::Duration;

use api_machinery::clock::rfc3339_micro;
use component::Api;
use component::Context;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

const NAMESPACE: &str = "kube-node-lease";
/// After this time without a renewal the node counts as gone.
const LIFE: i32 = 40;
/// Between renewals.
const EVERY: Duration = Duration::from_secs(10);
/// Between attempts after a failed one: the first pause, doubled up to the last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// No answer within this time is no answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Renews for ever.
pub(super) async fn renew(context: Context, node: String, uid: String) {
    let mut pause = AGAIN.0;
    loop {
        let begun = Instant::now();
        match tokio::time::timeout(ANSWER_LIMIT, once(&context, &node, &uid)).await {
            Ok(Ok(())) => {
                pause = AGAIN.0;
                tokio::time::sleep_until(begun + EVERY).await;
                continue;
            }
            Ok(Err(error)) => tracing::debug!(%error, "the node's lease was not renewed"),
            Err(_) => tracing::debug!("no answer to the renewal of the node's lease"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(AGAIN.1);
    }
}

async fn once(context: &Context, node: &str, uid: &str) -> kube::Result<()> {
    let api = Api::<Lease>::namespaced(context.client.clone(), NAMESPACE);
    let now = context.clock.now();
    let spec = json!({
        "holderIdentity": node, "leaseDurationSeconds": LIFE, "renewTime": rfc3339_micro(now),
    });
    let patch = Patch::Merge(json!({"spec": spec}));
    match api.patch(node, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(LIFE),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}
