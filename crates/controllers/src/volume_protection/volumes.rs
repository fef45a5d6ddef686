//! A PersistentVolume stays while a claim is bound to it, as its status says. Woken by PersistentVolumes.

use component::Api;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::api::PostParams;

use super::plan::{self, Step};
use super::{WORKERS, written};
use crate::Informers;
use crate::wiring;

#[derive(Clone)]
struct Controller {
    client: kube::Client,
    volumes: Informer<PersistentVolume>,
}

/// Starts the controller.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    wiring::wake_by(&queue, &informers.persistent_volumes);
    let controller =
        Controller { client: context.client.clone(), volumes: informers.persistent_volumes.clone() };
    wiring::run(
        context,
        ("volume-protection", queue, WORKERS),
        &[&informers.persistent_volumes],
        controller,
        |controller, key| async move { controller.reconcile(&key).await },
    );
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Next> {
        let Some(volume) = self.volumes.get(key) else { return Ok(Next::Done) };
        let step = plan::step(&volume.metadata, plan::VOLUME);
        if step == Step::Nothing || (step == Step::Remove && plan::is_bound(&volume)) {
            return Ok(Next::Done);
        }
        let metadata = plan::changed(&volume.metadata, plan::VOLUME, step);
        let wanted = PersistentVolume { metadata, ..(*volume).clone() };
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        written(api.replace(&key.name, &PostParams::default(), &wanted).await)
    }
}
