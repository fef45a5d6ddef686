//! A VolumeAttributesClass stays while a volume has its attributes, or a claim wants them for its own. Woken by classes, and
//! by volumes and claims that let go of one.

use std::collections::BTreeSet;

use component::Api;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::PostParams;

use super::plan::{self, Step};
use super::{WORKERS, written};
use crate::Informers;
use crate::wiring::{self, Cache};

#[derive(Clone)]
struct Controller {
    client: kube::Client,
    classes: Informer<VolumeAttributesClass>,
    volumes: Informer<PersistentVolume>,
    claims: Informer<PersistentVolumeClaim>,
}

/// Starts the controller.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    wiring::wake_by(&queue, &informers.volume_attributes_classes);
    let keys = queue.clone();
    informers.persistent_volumes.on_change(move |change| {
        let [old, new] = [change.old, change.new].map(|one| one.map(|one| plan::attributes_of_volume(one)));
        wake(&keys, old, new);
    });
    let keys = queue.clone();
    informers.persistent_volume_claims.on_change(move |change| {
        let [old, new] = [change.old, change.new].map(|one| one.map(|one| plan::attributes_of_claim(one)));
        wake(&keys, old, new);
    });
    let controller = Controller {
        client: context.client.clone(),
        classes: informers.volume_attributes_classes.clone(),
        volumes: informers.persistent_volumes.clone(),
        claims: informers.persistent_volume_claims.clone(),
    };
    let caches: [&dyn Cache; 3] = [
        &informers.volume_attributes_classes,
        &informers.persistent_volumes,
        &informers.persistent_volume_claims,
    ];
    wiring::run(
        context,
        ("class-protection", queue, WORKERS),
        &caches,
        controller,
        |controller, key| async move { controller.reconcile(&key).await },
    );
}

/// Wakes the classes that were named and are not any more.
fn wake(queue: &Queue<ObjectKey>, old: Option<BTreeSet<String>>, new: Option<BTreeSet<String>>) {
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    old.difference(&new).for_each(|name| queue.add(ObjectKey::new("", name.clone())));
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Next> {
        let Some(class) = self.classes.get(key) else { return Ok(Next::Done) };
        let step = plan::step(&class.metadata, plan::CLASS);
        if step == Step::Nothing || (step == Step::Remove && self.is_used(&key.name)) {
            return Ok(Next::Done);
        }
        let metadata = plan::changed(&class.metadata, plan::CLASS, step);
        let wanted = VolumeAttributesClass { metadata, ..(*class).clone() };
        let api: Api<VolumeAttributesClass> = Api::all(self.client.clone());
        written(api.replace(&key.name, &PostParams::default(), &wanted).await)
    }

    fn is_used(&self, name: &str) -> bool {
        self.volumes.list().iter().any(|volume| plan::attributes_of_volume(volume).contains(name))
            || self.claims.list().iter().any(|claim| plan::attributes_of_claim(claim).contains(name))
    }
}
