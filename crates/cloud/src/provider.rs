//! What a cloud is to Skiff: four optional services behind one trait.
//!
//! # What an implementation owes
//!
//! - **Every call is safe to repeat.** A controller may die before or after any call and make it again, with the same or
//!   newer arguments. What already is as asked is success. Creations carry a token derived from the object's UID, or look
//!   for what an earlier attempt left, so that a repeated creation makes nothing twice.
//! - **Deletion finds what there is**, by name or tag, and never relies on what was remembered: a creation that broke off
//!   half-way must leave nothing behind once `delete` has returned. What is gone already is success.
//! - **Errors say what to do**: see [`ProviderError`]. "Not found" is an answer and not an error where a method can say
//!   it. A cloud that cannot be reached is never "not found": nodes would be deleted.
//! - **Answers are bounded and followed to their last page**: half a list is a lie about the other half.
//! - **Retries inside are few and jittered**; a cloud that throttles is told to the controller, which waits.
//! - Calls end: every request has a deadline of its own.
//! - What it makes is tagged with the cluster's name; what carries no such tag is never changed or deleted.
//!
//! Implemented are bare metal ([`crate::bare_metal`]) and AWS ([`crate::aws`]). Azure and GCP are not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use component::ObjectKey;

/// Why a cloud did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// What the call needs does not exist.
    #[error("not found: {0}")]
    NotFound(String),
    /// The cloud wants fewer requests: come back after this time.
    #[error("throttled, to be tried again in {}s: {message}", retry_after.as_secs())]
    Throttled {
        /// How long to wait.
        retry_after: Duration,
        /// The cloud's words.
        message: String,
    },
    /// It may work in a while: the network, a server's fault, something still in progress.
    #[error("{0}")]
    Transient(String),
    /// It will not work until somebody changes something.
    #[error("{0}")]
    Permanent(String),
}

/// What a provider answers.
pub type Answer<T> = Result<T, ProviderError>;

/// A cloud. A service that it does not have is `None`, and its controllers do not run.
pub trait Provider: Send + Sync + 'static {
    /// Its name, as in `--cloud-provider`.
    fn name(&self) -> &'static str;
    /// Machines.
    fn instances(&self) -> Option<&dyn Instances>;
    /// Load balancers for Services.
    fn load_balancers(&self) -> Option<&dyn LoadBalancers>;
    /// Routes to the pods of nodes.
    fn routes(&self) -> Option<&dyn Routes>;
    /// Volumes for claims.
    fn volumes(&self) -> Option<&dyn Volumes>;
}

/// A node, as far as a cloud needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRef {
    /// Its name.
    pub name: String,
    /// `spec.providerID`, once it has one.
    pub provider_id: Option<String>,
    /// The addresses in its status: type and address.
    pub addresses: Vec<(String, String)>,
}

/// What a cloud says about a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceMetadata {
    /// Becomes `spec.providerID`.
    pub provider_id: String,
    /// Type (`InternalIP`, `Hostname`, ...) and address, the preferred one of a type first.
    pub addresses: Vec<(String, String)>,
    /// Empty if there are no types.
    pub instance_type: String,
    /// Empty if there are no zones.
    pub zone: String,
    /// Empty if there are no regions.
    pub region: String,
}

/// Machines.
#[async_trait]
pub trait Instances: Send + Sync {
    /// Whether the machine exists, running or not. Only a certain no is `false`.
    async fn exists(&self, node: &NodeRef) -> Answer<bool>;
    /// Whether the machine exists and is switched off.
    async fn is_shut_down(&self, node: &NodeRef) -> Answer<bool>;
    /// What is known of it; `NotFound` if there is none (yet).
    async fn metadata(&self, node: &NodeRef) -> Answer<InstanceMetadata>;
}

/// Which Service a load balancer is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceId {
    /// Namespace and name, for people.
    pub key: ObjectKey,
    /// The UID, which names what is made: a namesake gets a load balancer of its own.
    pub uid: String,
}

/// One port of a load balancer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoadBalancerPort {
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The port that clients use.
    pub port: u16,
    /// The port on every node.
    pub node_port: u16,
}

/// A load balancer as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancerSpec {
    /// Whose it is.
    pub service: ServiceId,
    /// What it listens on.
    pub ports: Vec<LoadBalancerPort>,
    /// Where it sends connections.
    pub nodes: Vec<NodeRef>,
    /// The node port where nodes with endpoints answer 200, for `externalTrafficPolicy: Local`.
    pub health_check_port: Option<u16>,
    /// `spec.loadBalancerIP`.
    pub requested_address: Option<String>,
    /// The Service's annotations: a provider documents its own.
    pub annotations: BTreeMap<String, String>,
}

/// An address of a load balancer: one of both is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingress {
    /// An address.
    pub ip: Option<IpAddr>,
    /// A name.
    pub hostname: Option<String>,
}

/// Load balancers for Services of type LoadBalancer.
#[async_trait]
pub trait LoadBalancers: Send + Sync {
    /// Tells, once and before all other calls, what Services had according to their statuses. For providers whose only
    /// memory that is.
    fn restore(&self, held: &[(ServiceId, Vec<Ingress>)]);
    /// Makes, or changes, the load balancer to be as described. Returns its addresses.
    async fn ensure(&self, spec: &LoadBalancerSpec) -> Answer<Vec<Ingress>>;
    /// The nodes are others; all else is as it was.
    async fn update(&self, spec: &LoadBalancerSpec) -> Answer<()>;
    /// Removes all that there is for the Service.
    async fn delete(&self, service: &ServiceId) -> Answer<()>;
}

/// A route in the cloud's network: the pods of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The machine, as its node's `spec.providerID` names it.
    pub provider_id: String,
    /// The range, as `10.42.1.0/24`.
    pub cidr: String,
    /// The cloud says that it leads nowhere: its machine is gone.
    pub blackhole: bool,
}

/// Routes to the pods of nodes.
#[async_trait]
pub trait Routes: Send + Sync {
    /// All routes to machines, whoever made them.
    async fn list(&self) -> Answer<Vec<Route>>;
    /// Makes one, or moves the range to this machine.
    async fn create(&self, route: &Route) -> Answer<()>;
    /// Removes the route of a range.
    async fn delete(&self, route: &Route) -> Answer<()>;
}

/// A volume as it should be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// The PersistentVolume's name, unique in the cluster and derived from the claim's UID.
    pub name: String,
    /// The claim, for people.
    pub claim: ObjectKey,
    /// At least so many GiB.
    pub gibibytes: i64,
    /// Where its pod will run; the provider chooses if nobody said.
    pub zone: Option<String>,
    /// Parameters of the StorageClass.
    pub parameters: BTreeMap<String, String>,
}

/// A volume that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The cloud's name for it.
    pub handle: String,
    /// Its size.
    pub gibibytes: i64,
    /// Where it can be attached.
    pub zone: String,
}

/// How far an attachment is. What is in progress is asked again after a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<T> {
    /// Done.
    Done(T),
    /// Under way.
    Pending,
}

/// Volumes for claims.
#[async_trait]
pub trait Volumes: Send + Sync {
    /// The provisioner that StorageClasses name.
    fn provisioner(&self) -> &'static str;
    /// Makes a volume, or finds the one that was made for this name before.
    async fn create(&self, spec: &VolumeSpec) -> Answer<Progress<Volume>>;
    /// Removes a volume; `Transient` while it is in use.
    async fn delete(&self, handle: &str) -> Answer<()>;
    /// Removes whatever a creation under this name left.
    async fn delete_by_name(&self, name: &str) -> Answer<()>;
    /// Attaches a volume; returns the device's name as the machine was told.
    async fn attach(&self, handle: &str, node: &NodeRef) -> Answer<Progress<String>>;
    /// Detaches a volume from this machine; gone volumes and machines are detached.
    async fn detach(&self, handle: &str, node: &NodeRef) -> Answer<Progress<()>>;
    /// Makes a volume larger; returns its size.
    async fn resize(&self, handle: &str, gibibytes: i64) -> Answer<Progress<i64>>;
}
