//! The controllers from end to end: what users ask for becomes what the cloud has, and nothing is left of it.

use std::sync::Arc;

use cloud::aws::client::Parameters;
use cloud::bare_metal::{BareMetal, BareMetalConfig};
use cloud::provider::Provider;
use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, Pod, Service, ServiceAccount,
};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, change, delete, make, unprotect, until};
use crate::moto::{Fault, Moto, error};

const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": 80}]},
    })
}

/// The addresses of a Service, by its status.
fn addresses(services: &[Service], name: &str) -> Vec<String> {
    let service = services.iter().find(|service| service.metadata.name.as_deref() == Some(name));
    let status = service.and_then(|service| service.status.as_ref()?.load_balancer.as_ref()?.ingress.clone());
    status.into_iter().flatten().filter_map(|one| one.ip.or(one.hostname)).collect()
}

fn is_held(services: &[Service], name: &str) -> bool {
    let service = services.iter().find(|service| service.metadata.name.as_deref() == Some(name));
    let finalizers = service.and_then(|service| service.metadata.finalizers.clone());
    finalizers.is_some_and(|all| all.iter().any(|one| one == FINALIZER))
}

fn node(name: &str) -> Value {
    let taint = json!({"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"});
    json!({"metadata": {"name": name}, "spec": {"taints": [taint], "podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24"]}})
}

fn has_taint(node: &Node, key: &str) -> bool {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == key)
}

fn bare_metal() -> Arc<dyn Provider> {
    let pools = vec!["192.0.2.1-192.0.2.2".to_owned()];
    Arc::new(BareMetal::new(&BareMetalConfig { pools }).expect("pools"))
}

#[tokio::test]
async fn on_bare_metal_addresses_are_given_kept_and_given_back() {
    let mut cluster = Cluster::start(bare_metal()).await;
    let services = cluster.services();
    for (name, address) in [("a", "192.0.2.1"), ("b", "192.0.2.2")] {
        make(&services, service(name)).await;
        until(&services, name, |all| addresses(all, name) == [address] && is_held(all, name)).await;
        cluster.told(name, "EnsuredLoadBalancer", "Ensured load balancer").await;
    }
    make(&services, service("c")).await;
    cluster
        .told(
            "c",
            "SyncLoadBalancerFailed",
            "failed to ensure load balancer: no address is left in 192.0.2.1-192.0.2.2: all 2 are in use",
        )
        .await;
    // What was given is known to the next manager by the statuses.
    cluster.replace(bare_metal()).await;
    let mut other = service("d");
    other["spec"]["loadBalancerClass"] = "example.com/other".into();
    make(&services, other).await;
    delete(&services, "a").await;
    until(&services, "passed on", |all| addresses(all, "c") == ["192.0.2.1"]).await;
    until(&services, "gone", |all| !all.iter().any(|one| one.metadata.name.as_deref() == Some("a"))).await;
    change(&services, "b", json!({"spec": {"type": "ClusterIP"}})).await;
    until(&services, "given up", |all| addresses(all, "b").is_empty() && !is_held(all, "b")).await;
    cluster.told("b", "DeletedLoadBalancer", "Deleted load balancer").await;
    let all = services.list(&kube::api::ListParams::default()).await.expect("a list").items;
    assert!(!is_held(&all, "d") && addresses(&all, "d").is_empty(), "somebody else's");
    make(&cluster.nodes(), node("n1")).await;
    until(&cluster.nodes(), "initialized", |nodes| {
        let known = |node: &Node| {
            node.spec.as_ref().is_some_and(|spec| spec.provider_id.as_deref() == Some("bare-metal://n1"))
        };
        nodes
            .iter()
            .any(|node| known(node) && !has_taint(node, "node.cloudprovider.kubernetes.io/uninitialized"))
    })
    .await;
    cluster.stop().await;
}

/// A machine, its node, and the name of both.
async fn machine(moto: &Moto, cluster: &Cluster) -> (String, String) {
    let id = moto.run_instance().await;
    let of = Parameters::default().with("InstanceId.1", &id);
    let name = moto.value("DescribeInstances", of, "privateDnsName").await;
    make(&cluster.nodes(), node(&name)).await;
    until(&cluster.nodes(), "initialized", |nodes| {
        nodes.iter().any(|node| {
            let labels = node.metadata.labels.clone().unwrap_or_default();
            let provider_id = node.spec.as_ref().and_then(|spec| spec.provider_id.clone());
            node.metadata.name.as_deref() == Some(&name)
                && provider_id == Some(format!("aws:///us-east-1a/{id}"))
                && labels.get("topology.kubernetes.io/zone").map(String::as_str) == Some("us-east-1a")
                && labels.get("topology.kubernetes.io/region").map(String::as_str) == Some("us-east-1")
                && labels.get("node.kubernetes.io/instance-type").map(String::as_str) == Some("m5.large")
                && !has_taint(node, "node.cloudprovider.kubernetes.io/uninitialized")
        })
    })
    .await;
    (id, name)
}

#[tokio::test]
async fn on_aws_services_get_load_balancers_and_leave_nothing() {
    let Some(moto) = Moto::start().await else { return };
    moto.tag_subnets().await;
    let cluster = Cluster::start(Arc::new(moto.provider())).await;
    let (one, _) = machine(&moto, &cluster).await;
    let services = cluster.services();
    make(&services, service("web")).await;
    until(&services, "a name", |all| addresses(all, "web").iter().any(|name| name.contains("elb"))).await;
    assert_eq!(moto.balancers().await, (1, 1, 1));
    assert_eq!(moto.targets().await.len(), 1);
    let (two, _) = machine(&moto, &cluster).await;
    cluster.told("web", "UpdatedLoadBalancer", "Updated load balancer with new hosts").await;
    let mut machines = [one, two].map(|id| format!("{id}:"));
    machines.sort();
    let targets = moto.targets().await;
    assert!(
        targets.iter().zip(&machines).all(|(target, machine)| target.starts_with(machine)),
        "{targets:?}"
    );
    assert_eq!(targets.len(), 2);
    // A Service that goes while it is half made.
    moto.fail("CreateListener", (0..50).map(|_| Fault::Refuse(500, None, String::new())));
    make(&services, service("half")).await;
    cluster.told("half", "SyncLoadBalancerFailed", "failed to ensure load balancer: CreateListener").await;
    assert_eq!(moto.balancers().await, (2, 1, 2));
    moto.fail("DeleteTargetGroup", [Fault::Refuse(400, None, error("ResourceInUse"))]);
    delete(&services, "half").await;
    delete(&services, "web").await;
    until(&services, "both gone", |all| {
        addresses(all, "web").is_empty() && !is_held(all, "half") && !is_held(all, "web")
    })
    .await;
    assert_eq!(moto.balancers().await, (0, 0, 0));
    cluster.stop().await;
    moto.stop().await;
}

async fn silence(cluster: &Cluster, name: &str) {
    let condition = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let nodes = cluster.nodes();
    nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(condition)).await.expect("it is changed");
}

#[tokio::test]
async fn on_aws_nodes_follow_their_machines() {
    let Some(moto) = Moto::start().await else { return };
    let cluster = Cluster::start(Arc::new(moto.provider())).await;
    let (off, off_name) = machine(&moto, &cluster).await;
    let (gone, gone_name) = machine(&moto, &cluster).await;
    moto.ec2("StopInstances", Parameters::default().with("InstanceId.1", &off)).await;
    silence(&cluster, &off_name).await;
    until(&cluster.nodes(), "switched off", |nodes| {
        let taint = "node.cloudprovider.kubernetes.io/shutdown";
        nodes.iter().any(|node| node.metadata.name.as_ref() == Some(&off_name) && has_taint(node, taint))
    })
    .await;
    // A cloud that is away, or says so once, or says nothing, costs no node.
    let lies = [
        Fault::Refuse(503, None, String::new()),
        Fault::Lie("<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>".to_owned()),
    ];
    moto.fail("DescribeInstances", lies);
    moto.ec2("TerminateInstances", Parameters::default().with("InstanceId.1", &gone)).await;
    silence(&cluster, &gone_name).await;
    until(&cluster.nodes(), "only one left", |nodes| {
        nodes.len() == 1 && nodes[0].metadata.name.as_ref() == Some(&off_name)
    })
    .await;
    cluster.told(&gone_name, "DeletingNode", "because it does not exist in the cloud provider").await;
    cluster.stop().await;
    moto.stop().await;
}

fn claim(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "storageClassName": "ebs", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "3Gi"}},
    }})
}

#[tokio::test]
async fn on_aws_claims_get_volumes_and_leave_nothing() {
    let Some(moto) = Moto::start().await else { return };
    let cluster = Cluster::start(Arc::new(moto.provider())).await;
    let (_, name) = machine(&moto, &cluster).await;
    let client = || cluster.client.clone();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client(), "default");
    let volumes: Api<PersistentVolume> = Api::all(client());
    let attachments: Api<VolumeAttachment> = Api::all(client());
    let pods: Api<Pod> = Api::namespaced(client(), "default");
    let class = json!({"metadata": {"name": "ebs"}, "provisioner": "ebs.aws.skiff.dev", "allowVolumeExpansion": true});
    make(&Api::<StorageClass>::all(client()), class).await;
    make(&Api::<ServiceAccount>::namespaced(client(), "default"), json!({"metadata": {"name": "default"}}))
        .await;
    make(&claims, claim("data")).await;
    unprotect(&claims, "data").await;
    let phase = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|status| status.phase.clone());
    until(&claims, "bound", |all| all.iter().any(|claim| phase(claim).as_deref() == Some("Bound"))).await;
    until(&volumes, "bound", |all| {
        all.iter()
            .any(|volume| volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound"))
    })
    .await;
    assert_eq!(moto.volumes().await.len(), 1);
    let made = volumes.list(&kube::api::ListParams::default()).await.expect("a list").items;
    unprotect(&volumes, made[0].metadata.name.as_deref().expect("a name")).await;
    let pod = json!({"metadata": {"name": "db"}, "spec": {
        "nodeName": name, "automountServiceAccountToken": false, "containers": [{"name": "db", "image": "db"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }});
    make(&pods, pod).await;
    until(&attachments, "attached", |all| {
        all.iter().any(|one| one.status.as_ref().is_some_and(|status| status.attached))
    })
    .await;
    change(&claims, "data", json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}})).await;
    until(&volumes, "grown", |all| {
        let capacity =
            |volume: &PersistentVolume| volume.spec.as_ref()?.capacity.as_ref()?.get("storage").cloned();
        all.iter().filter_map(capacity).any(|capacity| capacity.0 == "5Gi")
    })
    .await;
    // Half-way out the cloud is away, and loses an answer.
    let away = || Fault::Refuse(503, None, String::new());
    moto.fail("DetachVolume", [away(), away(), away(), away(), Fault::LoseAnswer]);
    moto.fail("DeleteVolume", [away(), away(), away(), away(), Fault::LoseAnswer]);
    delete(&pods, "db").await;
    until(&attachments, "detached", <[_]>::is_empty).await;
    delete(&claims, "data").await;
    until(&volumes, "gone", <[_]>::is_empty).await;
    assert!(moto.volumes().await.is_empty() && moto.is_calm());
    // A claim that goes before anybody knows of its volume.
    moto.fail(
        "CreateVolume",
        [Fault::LoseAnswer, Fault::Refuse(503, Some(300), error("RequestLimitExceeded"))],
    );
    make(&claims, claim("lost")).await;
    cluster.told("lost", "ProvisioningFailed", "failed to provision volume: throttled").await;
    assert_eq!(moto.volumes().await.len(), 1);
    delete(&claims, "lost").await;
    unprotect(&claims, "lost").await;
    until(&claims, "gone", <[_]>::is_empty).await;
    assert!(moto.volumes().await.is_empty());
    cluster.stop().await;
    moto.stop().await;
}
