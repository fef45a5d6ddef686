//! Claims: a volume is made, a PersistentVolume for it, the claim is bound to it; and it grows when more is asked for.

use std::sync::Arc;

use component::Api;
use component::ObjectKey;
use component::api::Decode;
use component::controller::Next;
use component::events::{EventType, reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::plan::{self, ClaimStep};
use super::{Controller, UNDER_WAY};
use crate::answers::{Failure, is_already_exists, is_not_found};
use crate::provider::{Progress, ProviderError, VolumeSpec};

impl Controller {
    pub(super) async fn reconcile_claim(&self, key: &ObjectKey) -> Result<Next, Failure> {
        if !self.claim_writes.ready(key, self.claims.revision()) {
            return Ok(Next::Done);
        }
        let Some(claim) = self.claims.get(key) else {
            self.claim_writes.forget(key);
            return Ok(Next::Done);
        };
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
        let class = class.and_then(|class| self.classes.get(&ObjectKey::new("", class)));
        let zone_of = |node: &str| {
            let node = self.nodes.get(&ObjectKey::new("", node))?;
            node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned()
        };
        let step = plan::claim(
            &claim,
            class.as_deref(),
            self.provisioner,
            self.first_node(key).as_deref(),
            &zone_of,
        );
        let done = match (step, class) {
            (Ok(ClaimStep::Provision(spec)), Some(class)) => self.provision(key, &claim, &class, spec).await,
            (Ok(ClaimStep::CleanUp), _) => self.clean_up(key, &claim).await,
            (Ok(ClaimStep::Bound), class) => self.bound(key, &claim, class).await,
            (Ok(ClaimStep::Wait), _) => {
                let note = "waiting for first consumer to be created before binding";
                self.events.event(&reference(&*claim), EventType::Normal, "WaitForFirstConsumer", note);
                Ok(Next::Done)
            }
            (Ok(ClaimStep::Nothing | ClaimStep::Provision(_)), _) => Ok(Next::Done),
            (Err(error), _) => Err(error.into()),
        };
        if let Err(Failure::Cloud(error)) = &done {
            let bound = plan::volume_of(&claim).is_some();
            let reason = if bound { "VolumeResizeFailed" } else { "ProvisioningFailed" };
            let what = if bound { "failed to resize volume" } else { "failed to provision volume" };
            self.events.event(&reference(&*claim), EventType::Warning, reason, format!("{what}: {error}"));
        }
        done
    }

    /// Where a pod runs that uses the claim.
    fn first_node(&self, key: &ObjectKey) -> Option<String> {
        let pods = self.pods.in_namespace(&key.namespace);
        pods.iter().flat_map(plan::uses).find(|(claim, _)| claim == key).map(|(_, node)| node)
    }

    async fn provision(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        spec: VolumeSpec,
    ) -> Result<Next, Failure> {
        if !plan::has_finalizer(&claim.metadata, self.provisioner) {
            let note = format!("External provisioner is provisioning volume for claim \"{key}\"");
            self.events.event(&reference(claim), EventType::Normal, "Provisioning", note);
            let change = json!({"metadata": plan::finalizers(&claim.metadata, self.provisioner, true)});
            // The change queues the key again.
            return self.patch_claim(key, &change, false).await.map(|_| Next::Done);
        }
        let Progress::Done(made) = self.cloud()?.create(&spec).await? else {
            return Ok(Next::After(UNDER_WAY));
        };
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = plan::persistent_volume(claim, class, self.provisioner, &made);
        let volume = PersistentVolume::decode(&volume.to_string()).map_err(kube::Error::SerdeError)?;
        match volumes.create(&PostParams::default(), &volume).await {
            Err(error) if !is_already_exists(&error) => return Err(error.into()),
            Ok(_) | Err(_) => {}
        }
        // From here on the PersistentVolume holds the cloud's volume.
        let mut metadata = plan::finalizers(&claim.metadata, self.provisioner, false);
        metadata["annotations"] =
            json!({"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"});
        let change = json!({"metadata": metadata, "spec": {"volumeName": spec.name}});
        self.patch_claim(key, &change, false).await?;
        let note = format!("Successfully provisioned volume {}", spec.name);
        self.events.event(&reference(claim), EventType::Normal, "ProvisioningSucceeded", note);
        Ok(Next::Done)
    }

    /// The claim goes before it was bound.
    async fn clean_up(&self, key: &ObjectKey, claim: &PersistentVolumeClaim) -> Result<Next, Failure> {
        let name = plan::volume_name(claim);
        // Not the cache: it may not show yet what was created a moment ago.
        if Api::<PersistentVolume>::all(self.client.clone()).get_opt(&name).await?.is_none() {
            self.cloud()?.delete_by_name(&name).await?;
        }
        let change = json!({"metadata": plan::finalizers(&claim.metadata, self.provisioner, false)});
        self.patch_claim(key, &change, false).await?;
        Ok(Next::Done)
    }

    async fn bound(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        class: Option<Arc<StorageClass>>,
    ) -> Result<Next, Failure> {
        let Some(name) = plan::volume_of(claim) else { return Ok(Next::Done) };
        // A volume that is not in the cache yet queues its claim when it is.
        let Some(volume) = self.volumes.get(&name) else { return Ok(Next::Done) };
        let Some(handle) = plan::handle(&volume, self.provisioner) else { return Ok(Next::Done) };
        let status = claim.status.clone().unwrap_or_default();
        if status.phase.as_deref() != Some("Bound") {
            let spec = volume.spec.clone().unwrap_or_default();
            let status =
                json!({"phase": "Bound", "accessModes": spec.access_modes, "capacity": spec.capacity});
            self.patch_claim(key, &json!({"status": status}), true).await?;
            return Ok(Next::Done);
        }
        let wanted = plan::gibibytes(claim)?;
        if wanted <= plan::capacity(&volume) {
            return Ok(Next::Done);
        }
        if class.is_none_or(|class| class.allow_volume_expansion != Some(true)) {
            return Err(ProviderError::Permanent(
                "the StorageClass does not allow volume expansion".to_owned(),
            )
            .into());
        }
        self.grow(key, claim, (&name, handle), wanted).await
    }

    async fn grow(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        (name, handle): (&ObjectKey, &str),
        wanted: i64,
    ) -> Result<Next, Failure> {
        let Progress::Done(size) = self.cloud()?.resize(handle, wanted).await? else {
            return Ok(Next::After(UNDER_WAY));
        };
        let capacity = json!({"storage": format!("{size}Gi")});
        self.patch_volume(name, &json!({"spec": {"capacity": capacity}}), false).await?;
        let block = claim.spec.as_ref().is_some_and(|spec| spec.volume_mode.as_deref() == Some("Block"));
        let status = if block {
            json!({"capacity": capacity})
        } else {
            // The node still has to grow the file system; the claim's capacity is what is usable.
            let now = self.clock.now_rfc3339();
            let message =
                "Waiting for user to (re-)start a pod to finish file system resize of volume on node.";
            json!({"conditions": [{
                "type": "FileSystemResizePending", "status": "True", "lastTransitionTime": now, "message": message,
            }]})
        };
        self.patch_claim(key, &json!({"status": status}), true).await?;
        Ok(Next::Done)
    }

    async fn patch_claim(&self, key: &ObjectKey, change: &Value, status: bool) -> Result<(), Failure> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let (parameters, change) = (PatchParams::default(), Patch::Merge(change));
        let written = match status {
            true => api.patch_status(&key.name, &parameters, &change).await,
            false => api.patch(&key.name, &parameters, &change).await,
        };
        match written {
            Ok(claim) => self.claim_writes.note(key.clone(), claim.metadata.resource_version.as_deref()),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    pub(super) async fn patch_volume(
        &self,
        key: &ObjectKey,
        change: &Value,
        status: bool,
    ) -> Result<(), Failure> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let (parameters, change) = (PatchParams::default(), Patch::Merge(change));
        let written = match status {
            true => api.patch_status(&key.name, &parameters, &change).await,
            false => api.patch(&key.name, &parameters, &change).await,
        };
        match written {
            Ok(volume) => self.volume_writes.note(key.clone(), volume.metadata.resource_version.as_deref()),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
