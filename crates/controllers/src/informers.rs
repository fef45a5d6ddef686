//! One cache per kind, shared by all controllers that read it.
//!
//! A kind that no controller reads is not followed, and of a kind only what they read: leases of nodes, not of leaders.

use component::Api;
use component::Context;
use component::api::Object;
use component::informer::{Index, Informer, Selection};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::storage::v1::VolumeAttributesClass;

use crate::bootstrap_tokens;
use crate::indices::{self, ByLabel, ByOwner};
use crate::volume_protection;

/// The namespace of the leases by which nodes say that they live.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";
/// The ConfigMap that holds the cluster's certificate authority in each namespace.
pub(crate) const ROOT_CA: &str = "kube-root-ca.crt";
/// The ConfigMap by which nodes that join learn which cluster it is.
pub(crate) const CLUSTER_INFO: &str = "cluster-info";

/// The shared caches.
#[derive(Clone)]
#[expect(missing_docs, reason = "the names are the kinds' own")]
pub struct Informers {
    pub pods: Informer<Pod>,
    pub pods_by_node: Index<Pod>,
    pub pods_by_owner: ByOwner<Pod>,
    pub pods_by_label: ByLabel<Pod>,
    pub pods_by_claim: Index<Pod>,
    pub replica_sets: Informer<ReplicaSet>,
    pub replica_sets_by_owner: ByOwner<ReplicaSet>,
    pub replication_controllers: Informer<ReplicationController>,
    pub replication_controllers_by_owner: ByOwner<ReplicationController>,
    pub deployments: Informer<Deployment>,
    pub daemon_sets: Informer<DaemonSet>,
    pub stateful_sets: Informer<StatefulSet>,
    pub jobs: Informer<Job>,
    pub jobs_by_owner: ByOwner<Job>,
    pub cron_jobs: Informer<CronJob>,
    pub controller_revisions: Informer<ControllerRevision>,
    pub controller_revisions_by_owner: ByOwner<ControllerRevision>,
    pub persistent_volumes: Informer<PersistentVolume>,
    pub persistent_volume_claims: Informer<PersistentVolumeClaim>,
    pub volume_attributes_classes: Informer<VolumeAttributesClass>,
    pub pod_disruption_budgets: Informer<PodDisruptionBudget>,
    pub services: Informer<Service>,
    pub endpoint_slices: Informer<EndpointSlice>,
    pub endpoints: Informer<Endpoints>,
    pub nodes: Informer<Node>,
    /// Those of nodes.
    pub node_leases: Informer<Lease>,
    pub namespaces: Informer<Namespace>,
    pub service_accounts: Informer<ServiceAccount>,
    pub cluster_roles: Informer<ClusterRole>,
    pub resource_quotas: Informer<ResourceQuota>,
    /// Those named `kube-root-ca.crt`.
    pub root_ca_config_maps: Informer<ConfigMap>,
    pub certificate_requests: Informer<CertificateSigningRequest>,
    /// Secrets of that type in `kube-system`.
    pub bootstrap_tokens: Informer<Secret>,
    /// The one in `kube-public`.
    pub cluster_info: Informer<ConfigMap>,
}

impl Informers {
    /// Starts following every kind, as the context's identity.
    pub fn start(context: &Context) -> Self {
        let leases = Api::<Lease>::namespaced(context.client.clone(), NODE_LEASES);
        let root_ca = Selection { fields: Some(format!("metadata.name={ROOT_CA}")), labels: None };
        let info = Selection { fields: Some(format!("metadata.name={CLUSTER_INFO}")), labels: None };
        let tokens = Selection { fields: Some(format!("type={}", bootstrap_tokens::TYPE)), labels: None };
        let secrets = Api::namespaced(context.client.clone(), bootstrap_tokens::NAMESPACE);
        let pods = everywhere(context, Selection::default());
        let replica_sets = everywhere(context, Selection::default());
        let replication_controllers = everywhere(context, Selection::default());
        let jobs = everywhere(context, Selection::default());
        let controller_revisions = everywhere(context, Selection::default());
        Self {
            pods_by_node: indices::by_node(&pods),
            pods_by_owner: ByOwner::of(&pods),
            pods_by_label: ByLabel::of(&pods),
            pods_by_claim: volume_protection::claims::index(&pods),
            pods,
            replica_sets_by_owner: ByOwner::of(&replica_sets),
            replica_sets,
            replication_controllers_by_owner: ByOwner::of(&replication_controllers),
            replication_controllers,
            deployments: everywhere(context, Selection::default()),
            daemon_sets: everywhere(context, Selection::default()),
            stateful_sets: everywhere(context, Selection::default()),
            jobs_by_owner: ByOwner::of(&jobs),
            jobs,
            cron_jobs: everywhere(context, Selection::default()),
            controller_revisions_by_owner: ByOwner::of(&controller_revisions),
            controller_revisions,
            persistent_volumes: follow(context, Api::all(context.client.clone()), Selection::default()),
            persistent_volume_claims: everywhere(context, Selection::default()),
            volume_attributes_classes: follow(
                context,
                Api::all(context.client.clone()),
                Selection::default(),
            ),
            pod_disruption_budgets: everywhere(context, Selection::default()),
            services: everywhere(context, Selection::default()),
            endpoint_slices: everywhere(context, Selection::default()),
            endpoints: everywhere(context, Selection::default()),
            nodes: follow(context, Api::all(context.client.clone()), Selection::default()),
            node_leases: follow(context, leases, Selection::default()),
            namespaces: follow(context, Api::all(context.client.clone()), Selection::default()),
            service_accounts: everywhere(context, Selection::default()),
            cluster_roles: follow(context, Api::all(context.client.clone()), Selection::default()),
            resource_quotas: everywhere(context, Selection::default()),
            root_ca_config_maps: everywhere(context, root_ca),
            certificate_requests: follow(context, Api::all(context.client.clone()), Selection::default()),
            bootstrap_tokens: follow(context, secrets, tokens),
            cluster_info: follow(context, Api::namespaced(context.client.clone(), "kube-public"), info),
        }
    }
}

fn everywhere<K>(context: &Context, selection: Selection) -> Informer<K>
where
    K: Object + kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    follow(context, Api::all(context.client.clone()), selection)
}

fn follow<K: Object>(context: &Context, api: Api<K>, selection: Selection) -> Informer<K> {
    Informer::start(&context.tasks, context.shutdown.clone(), api, selection)
}
