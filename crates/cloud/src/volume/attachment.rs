//! VolumeAttachments are carried out: attached while they are there, detached when they go.

use component::Api;
use component::ObjectKey;
use component::controller::Next;
use component::events::{EventType, reference};
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Controller, UNDER_WAY, plan};
use crate::answers::{Failure, is_not_found};
use crate::node::plan::node_ref;
use crate::provider::{NodeRef, Progress, ProviderError};

/// Where a volume was attached, for when the node is gone.
const MACHINE: &str = "skiff.dev/provider-id";

impl Controller {
    pub(super) async fn reconcile_attachment(&self, key: &ObjectKey) -> Result<Next, Failure> {
        let Some(attachment) = self.attachments.get(key) else { return Ok(Next::Done) };
        let held = plan::has_finalizer(&attachment.metadata, self.provisioner);
        if attachment.spec.attacher != self.provisioner || !held {
            return Ok(Next::Done);
        }
        let leaves = attachment.metadata.deletion_timestamp.is_some();
        let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
        let done = match leaves {
            true => self.detach(key, &attachment).await,
            false if attached => return Ok(Next::Done),
            false => self.attach(key, &attachment).await,
        };
        if let Err(Failure::Cloud(error)) = &done {
            let what = if leaves { "detachError" } else { "attachError" };
            let said = json!({"time": self.clock.now_rfc3339(), "message": error.to_string()});
            self.patch_attachment(key, &json!({"status": {"attached": attached, what: said}}), true).await?;
            let reason = if leaves { "FailedDetachVolume" } else { "FailedAttachVolume" };
            self.events.event(&reference(&*attachment), EventType::Warning, reason, error.to_string());
        }
        done
    }

    /// The machine: as the node says, or as was noted when the volume was attached.
    fn machine(&self, attachment: &VolumeAttachment) -> NodeRef {
        let name = &attachment.spec.node_name;
        let node = self.nodes.get(&ObjectKey::new("", name.as_str()));
        let mut node =
            node.map_or_else(|| NodeRef { name: name.clone(), ..NodeRef::default() }, |node| node_ref(&node));
        if let Some(noted) = attachment.metadata.annotations.as_ref().and_then(|all| all.get(MACHINE)) {
            node.provider_id = Some(noted.clone());
        }
        node
    }

    fn handle(&self, attachment: &VolumeAttachment) -> Option<String> {
        let volume = self.volumes.get(&plan::attached(attachment))?;
        plan::handle(&volume, self.provisioner).map(str::to_owned)
    }

    async fn attach(&self, key: &ObjectKey, attachment: &VolumeAttachment) -> Result<Next, Failure> {
        let Some(handle) = self.handle(attachment) else {
            let volume = plan::attached(attachment);
            return Err(ProviderError::NotFound(format!("PersistentVolume {volume}")).into());
        };
        let machine = self.machine(attachment);
        let noted = attachment.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MACHINE));
        if let Some(provider_id) = machine.provider_id.as_ref().filter(|_| !noted) {
            self.patch_attachment(key, &json!({"metadata": {"annotations": {MACHINE: provider_id}}}), false)
                .await?;
        }
        match self.cloud()?.attach(&handle, &machine).await? {
            Progress::Pending => Ok(Next::After(UNDER_WAY)),
            Progress::Done(device) => {
                let status = json!({
                    "attached": true, "attachError": null, "attachmentMetadata": {"devicePath": device},
                });
                self.patch_attachment(key, &json!({"status": status}), true).await?;
                Ok(Next::Done)
            }
        }
    }

    async fn detach(&self, key: &ObjectKey, attachment: &VolumeAttachment) -> Result<Next, Failure> {
        // A PersistentVolume that is gone was deleted with its volume, which is attached nowhere.
        if let Some(handle) = self.handle(attachment) {
            match self.cloud()?.detach(&handle, &self.machine(attachment)).await? {
                Progress::Pending => return Ok(Next::After(UNDER_WAY)),
                Progress::Done(()) => {}
            }
        }
        let change = json!({"metadata": plan::finalizers(&attachment.metadata, self.provisioner, false)});
        self.patch_attachment(key, &change, false).await?;
        Ok(Next::Done)
    }

    async fn patch_attachment(&self, key: &ObjectKey, change: &Value, status: bool) -> Result<(), Failure> {
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        let (parameters, change) = (PatchParams::default(), Patch::Merge(change));
        let written = match status {
            true => api.patch_status(&key.name, &parameters, &change).await,
            false => api.patch(&key.name, &parameters, &change).await,
        };
        match written {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
