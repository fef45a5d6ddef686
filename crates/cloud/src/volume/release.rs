//! PersistentVolumes that were made for claims: bound as long as the claim is there, then deleted or kept.

use component::Api;
use component::ObjectKey;
use component::controller::Next;
use component::events::{EventType, reference};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, Preconditions};
use serde_json::json;

use super::{Controller, plan};
use crate::answers::{Failure, is_not_found};

impl Controller {
    pub(super) async fn reconcile_release(&self, key: &ObjectKey) -> Result<Next, Failure> {
        if !self.volume_writes.ready(key, self.volumes.revision()) {
            return Ok(Next::Done);
        }
        let Some(volume) = self.volumes.get(key) else {
            self.volume_writes.forget(key);
            return Ok(Next::Done);
        };
        let Some(handle) = plan::handle(&volume, self.provisioner) else { return Ok(Next::Done) };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        if self.is_claimed(&volume).await? {
            if phase != "Bound" {
                self.patch_volume(key, &json!({"status": {"phase": "Bound"}}), true).await?;
            }
            return Ok(Next::Done);
        }
        if phase != "Released" && phase != "Failed" {
            self.patch_volume(key, &json!({"status": {"phase": "Released"}}), true).await?;
            return Ok(Next::Done);
        }
        let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        match policy {
            Some("Delete") => self.delete(key, &volume, handle).await,
            // Kept: whoever deletes the object keeps the cloud's volume.
            _ if volume.metadata.deletion_timestamp.is_some() => self.let_go(key, &volume).await,
            _ => Ok(Next::Done),
        }
    }

    /// Asks the API, and not a cache that may be older than the volume, before a volume is given up.
    async fn is_claimed(&self, volume: &PersistentVolume) -> Result<bool, Failure> {
        let uid = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()?.uid.clone());
        let key = plan::claim_of(volume);
        if self.claims.get(&key).is_some_and(|claim| claim.metadata.uid == uid) {
            return Ok(true);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        Ok(api.get_opt(&key.name).await?.is_some_and(|claim| claim.metadata.uid == uid))
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        volume: &PersistentVolume,
        handle: &str,
    ) -> Result<Next, Failure> {
        if let Err(error) = self.cloud()?.delete(handle).await {
            let note = error.to_string();
            self.events.event(&reference(volume), EventType::Warning, "VolumeFailedDelete", note);
            return Err(error.into());
        }
        if volume.metadata.deletion_timestamp.is_none() {
            let only = Preconditions { uid: volume.metadata.uid.clone(), resource_version: None };
            let api: Api<PersistentVolume> = Api::all(self.client.clone());
            match api.delete(&key.name, &DeleteParams::default().preconditions(only)).await {
                Err(error) if !is_not_found(&error) => return Err(error.into()),
                // The finalizer still holds it: the change queues the key again.
                Ok(_) | Err(_) => return Ok(Next::Done),
            }
        }
        self.let_go(key, volume).await
    }

    async fn let_go(&self, key: &ObjectKey, volume: &PersistentVolume) -> Result<Next, Failure> {
        let change = json!({"metadata": plan::finalizers(&volume.metadata, self.provisioner, false)});
        self.patch_volume(key, &change, false).await?;
        Ok(Next::Done)
    }
}
