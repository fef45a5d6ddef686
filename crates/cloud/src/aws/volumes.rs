//! EBS volumes. A volume is found by the tag that holds its PersistentVolume's name, so that a creation whose answer was
//! lost is found again even after its token has expired.
//!
//! Parameters of a StorageClass: `type` (gp3 if absent), `iops`, `throughput`, `encrypted`, `kmsKeyId`, `zone`. How volumes are
//! formatted and mounted is the node's business.

use async_trait::async_trait;
use roxmltree::Node;

use super::client::{Parameters, call_and_read};
use super::instances::instance_id;
use super::xml::{items, tag, text};
use super::{Aws, PROVISIONER};
use crate::provider::{Answer, NodeRef, Progress, ProviderError, Volume, VolumeSpec, Volumes};

/// The tag that holds the PersistentVolume's name.
const NAME: &str = "skiff.dev/persistent-volume";

/// A volume, as EC2 describes it.
#[derive(Debug)]
struct Described {
    volume: Volume,
    state: String,
    owned: bool,
    /// Instance, device and state.
    attachments: Vec<(String, String, String)>,
}

fn read(node: Node<'_, '_>, cluster_tag: &str) -> Described {
    let attachment = |node| {
        let field = |name: &str| text(node, &[name]).to_owned();
        (field("instanceId"), field("device"), field("status"))
    };
    Described {
        volume: Volume {
            handle: text(node, &["volumeId"]).to_owned(),
            gibibytes: text(node, &["size"]).parse().unwrap_or(0),
            zone: text(node, &["availabilityZone"]).to_owned(),
        },
        state: text(node, &["status"]).to_owned(),
        owned: tag(node, cluster_tag).is_some(),
        attachments: items(node, &["attachmentSet"]).into_iter().map(attachment).collect(),
    }
}

/// The first free one of the names that EC2 recommends for data volumes.
fn free_device(taken: &[String]) -> Option<String> {
    let short = ('f'..='p').map(|letter| format!("/dev/sd{letter}"));
    let long =
        ('b'..='c').flat_map(|first| ('a'..='z').map(move |second| format!("/dev/xvd{first}{second}")));
    // `/dev/sdf` and `/dev/xvdf` are one device to a machine.
    let plain = |name: &str| {
        name.trim_start_matches("/dev/").trim_start_matches("sd").trim_start_matches("xvd").to_owned()
    };
    let taken: Vec<String> = taken.iter().map(|name| plain(name)).collect();
    short.chain(long).find(|name| !taken.contains(&plain(name)))
}

impl Aws {
    async fn describe(&self, parameters: Parameters) -> Answer<Vec<Described>> {
        let owned = self.cluster_tag();
        let token = ("NextToken", &["nextToken"][..]);
        let found = self.client.pages(&self.ec2, "DescribeVolumes", parameters, token, |page| {
            items(page, &["volumeSet"]).into_iter().map(|node| read(node, &owned)).collect()
        });
        match found.await {
            Ok(found) => Ok(found),
            Err(refusal) if refusal.code == "InvalidVolume.NotFound" => Ok(Vec::new()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn by_name(&self, name: &str) -> Answer<Vec<Described>> {
        let mut found =
            self.describe(Parameters::default().filter(1, &format!("tag:{NAME}"), &[name])).await?;
        found.retain(|one| one.owned && !matches!(one.state.as_str(), "deleting" | "deleted"));
        Ok(found)
    }

    /// That there is none is believed when it is said twice: nobody would look for the volume again.
    async fn by_handle(&self, handle: &str) -> Answer<Option<Described>> {
        for _ in 0..2 {
            let found = self.describe(Parameters::default().with("VolumeId.1", handle)).await?;
            let found = found.into_iter().find(|one| one.volume.handle == handle);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn remove(&self, handle: &str) -> Answer<()> {
        let parameters = Parameters::default().with("VolumeId", handle);
        match self.client.call(&self.ec2, "DeleteVolume", &parameters).await {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.code == "InvalidVolume.NotFound" => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// The zone that was asked for, or the one of the configuration.
    fn zone_of(&self, spec: &VolumeSpec) -> Answer<String> {
        let named = spec.parameters.get("zone").or(spec.zone.as_ref()).or(self.config.default_zone.as_ref());
        named.cloned().ok_or_else(|| {
            let what = "nobody says in which zone: no node has a zone, and neither the StorageClass (zone) nor \
                        the configuration (defaultZone) names one";
            ProviderError::Permanent(what.to_owned())
        })
    }

    fn creation(&self, spec: &VolumeSpec) -> Answer<Parameters> {
        let kind = spec.parameters.get("type").map_or("gp3", String::as_str);
        let mut parameters = Parameters::default()
            .with("AvailabilityZone", self.zone_of(spec)?)
            .with("Size", spec.gibibytes.to_string())
            .with("VolumeType", kind)
            .with("ClientToken", &spec.name);
        for (name, value) in &spec.parameters {
            parameters = match name.as_str() {
                "iops" => parameters.with("Iops", value),
                "throughput" => parameters.with("Throughput", value),
                "encrypted" => parameters.with("Encrypted", value),
                "kmsKeyId" => parameters.with("KmsKeyId", value),
                "type" | "zone" | "csi.storage.k8s.io/fstype" => parameters,
                other => {
                    return Err(ProviderError::Permanent(format!(
                        "StorageClass parameter {other:?} is unknown"
                    )));
                }
            };
        }
        let claim = spec.claim.to_string();
        let tags = [(NAME, spec.name.as_str()), ("Name", &spec.name), ("kubernetes.io/claim", &claim)];
        Ok(self.ec2_tags(parameters, "volume", &tags))
    }
}

/// What a volume's state means to who waits for it.
fn usable(found: Described) -> Answer<Progress<Volume>> {
    match found.state.as_str() {
        "creating" => Ok(Progress::Pending),
        "available" | "in-use" => Ok(Progress::Done(found.volume)),
        other => Err(ProviderError::Transient(format!("volume {} is {other}", found.volume.handle))),
    }
}

#[async_trait]
impl Volumes for Aws {
    fn provisioner(&self) -> &'static str {
        PROVISIONER
    }

    async fn create(&self, spec: &VolumeSpec) -> Answer<Progress<Volume>> {
        let creation = self.creation(spec)?;
        let mut found = self.by_name(&spec.name).await?;
        if let Some(found) = found.pop() {
            if found.volume.gibibytes < spec.gibibytes {
                let (handle, size) = (&found.volume.handle, found.volume.gibibytes);
                let what = format!("volume {handle}, made for this claim before, has only {size} GiB");
                return Err(ProviderError::Permanent(what));
            }
            return usable(found);
        }
        let owned = self.cluster_tag();
        let made =
            call_and_read(&self.client, &self.ec2, "CreateVolume", &creation, |root| read(root, &owned));
        let made = made.await?;
        match made.volume.handle.as_str() {
            "" => Err(ProviderError::Transient("CreateVolume: the answer names no volume".to_owned())),
            _ => usable(made),
        }
    }

    async fn delete(&self, handle: &str) -> Answer<()> {
        let Some(found) = self.by_handle(handle).await? else { return Ok(()) };
        if !found.owned {
            return Err(ProviderError::Permanent(format!(
                "volume {handle} has no tag {}: it is not this cluster's to delete",
                self.cluster_tag()
            )));
        }
        self.remove(handle).await
    }

    async fn delete_by_name(&self, name: &str) -> Answer<()> {
        let mut all = self.by_name(name).await?;
        if all.is_empty() {
            // Believed when it is said twice.
            all = self.by_name(name).await?;
        }
        for found in all {
            self.remove(&found.volume.handle).await?;
        }
        Ok(())
    }

    async fn attach(&self, handle: &str, node: &NodeRef) -> Answer<Progress<String>> {
        let Some(found) = self.by_handle(handle).await? else {
            return Err(ProviderError::NotFound(format!("volume {handle}")));
        };
        let Some(instance) = self.instance(node).await? else {
            return Err(ProviderError::NotFound(format!("no EC2 instance for node {}", node.name)));
        };
        match found.attachments.iter().find(|(_, _, state)| state != "detached") {
            Some((on, device, state)) if *on == instance.id && state == "attached" => {
                return Ok(Progress::Done(device.clone()));
            }
            Some((on, _, state)) if *on == instance.id && state == "attaching" => {
                return Ok(Progress::Pending);
            }
            Some((on, _, state)) => {
                return Err(ProviderError::Transient(format!("volume {handle} is {state} at {on}")));
            }
            None => {}
        }
        if found.volume.zone != instance.zone {
            let what = format!(
                "volume {handle} is in {} and node {} in {}",
                found.volume.zone, node.name, instance.zone
            );
            return Err(ProviderError::Permanent(what));
        }
        let Some(device) = free_device(&instance.devices) else {
            return Err(ProviderError::Transient(format!(
                "node {} has no room for one more volume",
                node.name
            )));
        };
        let parameters = Parameters::default()
            .with("VolumeId", handle)
            .with("InstanceId", &instance.id)
            .with("Device", &device);
        let state = call_and_read(&self.client, &self.ec2, "AttachVolume", &parameters, |root| {
            text(root, &["status"]).to_owned()
        });
        // Only a description that says so is believed.
        state.await?;
        Ok(Progress::Pending)
    }

    async fn detach(&self, handle: &str, node: &NodeRef) -> Answer<Progress<()>> {
        let Some(found) = self.by_handle(handle).await? else { return Ok(Progress::Done(())) };
        let id = match &node.provider_id {
            Some(provider_id) => instance_id(provider_id)?.to_owned(),
            None => match self.instance(node).await? {
                Some(instance) => instance.id,
                None => return Ok(Progress::Done(())),
            },
        };
        match found.attachments.iter().find(|(on, _, state)| *on == id && state != "detached") {
            None => return Ok(Progress::Done(())),
            Some((_, _, state)) if state == "detaching" => return Ok(Progress::Pending),
            Some(_) => {}
        }
        let parameters = Parameters::default().with("VolumeId", handle).with("InstanceId", &id);
        match self.client.call(&self.ec2, "DetachVolume", &parameters).await {
            Ok(_) => Ok(Progress::Pending),
            Err(refusal) if refusal.code == "InvalidAttachment.NotFound" => Ok(Progress::Pending),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn resize(&self, handle: &str, gibibytes: i64) -> Answer<Progress<i64>> {
        let Some(found) = self.by_handle(handle).await? else {
            return Err(ProviderError::NotFound(format!("volume {handle}")));
        };
        if found.volume.gibibytes >= gibibytes {
            return Ok(Progress::Done(found.volume.gibibytes));
        }
        let parameters = Parameters::default().with("VolumeId", handle).with("Size", gibibytes.to_string());
        self.client.call(&self.ec2, "ModifyVolume", &parameters).await?;
        Ok(Progress::Pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_under_either_name_is_taken() {
        let taken = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(free_device(&[]).as_deref(), Some("/dev/sdf"));
        assert_eq!(free_device(&taken(&["/dev/xvdf", "/dev/sdg", "/dev/sda1"])).as_deref(), Some("/dev/sdh"));
        let short: Vec<String> = ('f'..='p').map(|letter| format!("/dev/sd{letter}")).collect();
        assert_eq!(free_device(&short).as_deref(), Some("/dev/xvdba"));
        let all: Vec<String> =
            ('b'..='c').flat_map(|a| ('a'..='z').map(move |b| format!("/dev/xvd{a}{b}"))).collect();
        assert_eq!(free_device(&[short, all].concat()), None);
    }
}
