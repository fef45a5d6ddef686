//! Volumes of the cloud's for claims of a StorageClass that names its provisioner; for other classes nothing is done.
//!
//! - [`claim`]: a claim gets a volume and a PersistentVolume, is bound to it, and grows.
//! - [`release`]: a PersistentVolume whose claim is gone is deleted, with the cloud's volume, or kept, as its policy says.
//! - [`wanted`]: a VolumeAttachment for each node where pods use a volume.
//! - [`attachment`]: VolumeAttachments are carried out.
//!
//! Nothing leaks: a finalizer is on the claim before the cloud is asked for a volume, and on the PersistentVolume from then on;
//! volumes are found by the tag that holds the PersistentVolume's name.
//!
//! Deliberately absent: binding claims to volumes that exist already, snapshots, and what happens on nodes.

mod attachment;
mod claim;
mod plan;
mod release;
#[cfg(test)]
mod tests;
mod wanted;

use std::sync::Arc;
use std::time::Duration;

use component::controller::{self, Next};
use component::events::Recorder;
use component::freshness::Freshness;
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};

use crate::Config;
use crate::answers::{Failure, Retries, when};
use crate::informers::{Informers, follow};
use crate::provider::{Answer, Provider, ProviderError, Volumes};

const WORKERS: usize = 4;
/// How soon something that the cloud has under way is looked at again.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// What all four share.
struct Controller {
    client: kube::Client,
    clock: api_machinery::clock::Clock,
    provider: Arc<dyn Provider>,
    provisioner: &'static str,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    attachments: Informer<VolumeAttachment>,
    claim_writes: Freshness<ObjectKey>,
    volume_writes: Freshness<ObjectKey>,
    attachment_writes: Freshness<ObjectKey>,
    retries: Retries,
    events: Recorder,
}

/// The queues, by what their keys name.
#[derive(Clone, Default)]
struct Queues {
    claims: Queue<ObjectKey>,
    released: Queue<ObjectKey>,
    wanted: Queue<ObjectKey>,
    attachments: Queue<ObjectKey>,
}

/// Starts the controllers.
pub(crate) fn start(context: &Context, informers: &Informers, config: &Config) {
    let Some(volumes) = config.provider.volumes() else { return };
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        clock: context.clock.clone(),
        provisioner: volumes.provisioner(),
        provider: config.provider.clone(),
        nodes: informers.nodes.clone(),
        pods: follow(context),
        claims: follow(context),
        volumes: follow(context),
        classes: follow(context),
        attachments: follow(context),
        claim_writes: Freshness::default(),
        volume_writes: Freshness::default(),
        attachment_writes: Freshness::default(),
        retries: Retries::default(),
        events: Recorder::new(context, volumes.provisioner(), None),
    });
    let queues = Queues::default();
    controller.wake(&queues);
    let waiting = controller.clone();
    let synced = async move { waiting.synced().await };
    let (tasks, shutdown) = (context.tasks.clone(), context.shutdown.clone());
    when(context, synced, move || {
        // Each kind of key with the reconciler that understands it.
        macro_rules! run {
            ($name:literal, $queue:expr, $reconcile:ident) => {
                let it = controller.clone();
                controller::run(&tasks, shutdown.clone(), $name, $queue, WORKERS, move |key: ObjectKey| {
                    let it = it.clone();
                    async move {
                        let result: Result<Next, Failure> = it.$reconcile(&key).await;
                        it.retries.settle(&format!("{} {key}", $name), result)
                    }
                });
            };
        }
        run!("volume-claim", queues.claims, reconcile_claim);
        run!("volume-release", queues.released, reconcile_release);
        run!("volume-wanted", queues.wanted, reconcile_wanted);
        run!("volume-attachment", queues.attachments, reconcile_attachment);
    });
}

impl Controller {
    fn cloud(&self) -> Answer<&dyn Volumes> {
        let none = || ProviderError::Permanent("the provider has no volumes".to_owned());
        self.provider.volumes().ok_or_else(none)
    }

    async fn synced(&self) {
        self.nodes.synced().await;
        self.pods.synced().await;
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
        self.attachments.synced().await;
    }

    fn wake(self: &Arc<Self>, queues: &Queues) {
        let keys = queues.clone();
        self.claims.on_change(move |change: Change<'_, PersistentVolumeClaim>| {
            let claim = change.latest();
            keys.claims.add(ObjectKey::of(&**claim));
            if let Some(volume) = plan::volume_of(claim) {
                keys.released.add(volume.clone());
                keys.wanted.add(volume);
            }
        });
        let (keys, provisioner) = (queues.clone(), self.provisioner);
        self.volumes.on_change(move |change: Change<'_, PersistentVolume>| {
            let volume = change.latest();
            if plan::handle(volume, provisioner).is_some() {
                keys.released.add(ObjectKey::of(&**volume));
                keys.wanted.add(ObjectKey::of(&**volume));
                keys.claims.add(plan::claim_of(volume));
            }
        });
        let (keys, it) = (queues.clone(), Arc::downgrade(self));
        self.classes.on_change(move |_| {
            let Some(it) = it.upgrade() else { return };
            for claim in it.claims.list().iter().filter(|claim| plan::volume_of(claim).is_none()) {
                keys.claims.add(ObjectKey::of(&**claim));
            }
        });
        self.wake_attaching(queues);
    }

    fn wake_attaching(self: &Arc<Self>, queues: &Queues) {
        let (keys, provisioner) = (queues.clone(), self.provisioner);
        self.attachments.on_change(move |change: Change<'_, VolumeAttachment>| {
            let attachment = change.latest();
            if attachment.spec.attacher == provisioner {
                keys.attachments.add(ObjectKey::of(&**attachment));
                keys.wanted.add(plan::attached(attachment));
            }
        });
        let (keys, it) = (queues.clone(), Arc::downgrade(self));
        self.pods.on_change(move |change: Change<'_, Pod>| {
            let concerns = |pod: &Arc<Pod>| plan::uses(pod);
            let Some(it) = it.upgrade().filter(|_| change.old.map(concerns) != change.new.map(concerns))
            else {
                return;
            };
            for (claim, _) in [change.old, change.new].into_iter().flatten().flat_map(concerns) {
                keys.wanted
                    .add(it.claims.get(&claim).and_then(|claim| plan::volume_of(&claim)).unwrap_or_default());
                keys.claims.add(claim);
            }
        });
        let (keys, it) = (queues.clone(), Arc::downgrade(self));
        self.nodes.on_change(move |change: Change<'_, Node>| {
            let concerns = |node: &Arc<Node>| {
                (plan::in_use(node), crate::node::plan::provider_id(node).map(str::to_owned))
            };
            let Some(it) = it.upgrade().filter(|_| change.old.map(concerns) != change.new.map(concerns))
            else {
                return;
            };
            let name = change.latest().metadata.name.as_deref().unwrap_or_default();
            for attachment in
                it.attachments.list().iter().filter(|attachment| attachment.spec.node_name == name)
            {
                keys.attachments.add(ObjectKey::of(&**attachment));
                keys.wanted.add(plan::attached(attachment));
            }
        });
    }
}
