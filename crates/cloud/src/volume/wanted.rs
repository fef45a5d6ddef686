//! VolumeAttachments: there is one for the node whose pods use a volume.

use std::collections::BTreeSet;

use component::Api;
use component::ObjectKey;
use component::api::Decode;
use component::controller::Next;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{DeleteParams, PostParams};
use serde_json::json;

use super::{Controller, plan};
use crate::answers::{Failure, is_already_exists, is_not_found};

impl Controller {
    /// The key is a PersistentVolume's; the empty one stands for claims without.
    pub(super) async fn reconcile_wanted(&self, key: &ObjectKey) -> Result<Next, Failure> {
        if !self.attachment_writes.ready(key, self.attachments.revision()) {
            return Ok(Next::Done);
        }
        let Some(volume) = self.volumes.get(key) else { return Ok(Next::Done) };
        let Some(handle) = plan::handle(&volume, self.provisioner) else { return Ok(Next::Done) };
        let claim = plan::claim_of(&volume);
        let bound =
            self.claims.get(&claim).is_some_and(|claim| plan::volume_of(&claim).as_ref() == Some(key));
        let pods = self.pods.in_namespace(&claim.namespace);
        let used = pods.iter().flat_map(plan::uses).filter(|(used, _)| bound && *used == claim);
        let nodes: BTreeSet<String> = used.map(|(_, node)| node).collect();
        let mut there = self.attachments.list();
        there.retain(|one| one.spec.attacher == self.provisioner && plan::attached(one) == *key);
        let name = plan::unique_name(self.provisioner, handle);
        let is_mounted = |node: &&String| {
            let node = self.nodes.get(&ObjectKey::new("", node.as_str()));
            node.is_some_and(|node| plan::in_use(&node).contains(&name))
        };
        let mounted = there.iter().map(|one| &one.spec.node_name).filter(is_mounted).cloned().collect();
        let wanted = plan::wanted(&nodes, &there, &mounted);
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        for attachment in wanted.delete {
            match api.delete(&attachment.name, &DeleteParams::default()).await {
                Err(error) if !is_not_found(&error) => return Err(error.into()),
                Ok(_) | Err(_) => {}
            }
        }
        if let Some(node) = wanted.create {
            self.attach_to(&api, key, handle, &node).await?;
        }
        Ok(Next::Done)
    }

    async fn attach_to(
        &self,
        api: &Api<VolumeAttachment>,
        key: &ObjectKey,
        handle: &str,
        node: &str,
    ) -> Result<(), Failure> {
        let attachment = json!({
            "metadata": {
                "name": plan::attachment_name(handle, self.provisioner, node), "finalizers": [self.provisioner],
            },
            "spec": {
                "attacher": self.provisioner, "nodeName": node, "source": {"persistentVolumeName": key.name},
            },
        });
        let attachment =
            VolumeAttachment::decode(&attachment.to_string()).map_err(kube::Error::SerdeError)?;
        match api.create(&PostParams::default(), &attachment).await {
            Ok(made) => self.attachment_writes.note(key.clone(), made.metadata.resource_version.as_deref()),
            Err(error) if is_already_exists(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
