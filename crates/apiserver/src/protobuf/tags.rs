//! The table of field numbers, read once from text.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use api_machinery::schema::{Kind, NodeId, View};

const TEXT: &str = include_str!("tags.txt");

/// What a field number stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A field by its JSON name.
    Field(&'static str),
    /// A message whose fields are the parent's own in JSON.
    Inline(String),
}

/// The numbers of one message.
pub type Message = BTreeMap<u32, Entry>;

/// All messages by the name of their definition.
pub static MESSAGES: LazyLock<BTreeMap<String, Message>> = LazyLock::new(|| {
    let mut messages = BTreeMap::new();
    let mut package = "";
    for line in TEXT.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            package = name;
            continue;
        }
        let (name, fields) = line.split_once(':').expect("the tests read the whole table");
        messages.insert(format!("{package}.{name}"), message(package, fields));
    }
    messages
});

fn message(package: &str, fields: &'static str) -> Message {
    let mut message = Message::new();
    let mut number = 0;
    for field in fields.split_whitespace() {
        let (name, said) = field.split_once('=').unwrap_or((field, ""));
        number = said.parse().unwrap_or(number + 1);
        let entry = match name.strip_prefix('+') {
            Some(inner) if inner.contains('.') => Entry::Inline(inner.to_owned()),
            Some(inner) => Entry::Inline(format!("{package}.{inner}")),
            None => Entry::Field(name),
        };
        message.insert(number, entry);
    }
    message
}

/// The names of the built-in definitions by their nodes.
static NAMES: LazyLock<BTreeMap<NodeId, String>> = LazyLock::new(|| {
    let arena = api_catalog::catalog().arena();
    arena.definitions().map(|(name, id)| (id, name.to_owned())).collect()
});

/// The name of the definition that a schema is, or refers to.
pub fn definition(schema: View<'_>) -> Option<&'static str> {
    let mut id = schema.id;
    loop {
        if let Some(name) = NAMES.get(&id) {
            return Some(name);
        }
        match schema.arena.node(id).kind {
            Kind::Ref(next) => id = next,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Fields that are newer than the published numbers. A body that sets one is refused, so nothing is dropped silently.
    const WITHOUT_NUMBER: &str = "\
        authentication.v1.TokenRequestSpec.attestations \
        autoscaling.v2.HorizontalPodAutoscalerCondition.observedGeneration batch.v1.JobSpec.scheduling \
        core.v1.ClusterTrustBundleProjection.user core.v1.ConfigMapVolumeSource.defaultUser \
        core.v1.DownwardAPIVolumeFile.user core.v1.DownwardAPIVolumeSource.defaultUser core.v1.EmptyDirVolumeSource.mode \
        core.v1.GRPCAction.mode core.v1.HTTPGetAction.protocol core.v1.KeyToPath.user \
        core.v1.NodeSpec.podPreemptionPolicy core.v1.NodeSystemInfo.runningInUserNamespace \
        core.v1.PersistentVolumeClaimStatus.healthStatus core.v1.PodCertificateProjection.user \
        core.v1.PodSpec.evictionResponders core.v1.PodSpec.schedulingGroup \
        core.v1.PodStatus.nodeAllocatableResourceClaimStatuses core.v1.PodStatus.volumeHealth \
        core.v1.ProjectedVolumeSource.defaultUser core.v1.ResourceHealth.message core.v1.SecretVolumeSource.defaultUser \
        core.v1.ServiceAccountTokenProjection.user core.v1.VolumeMount.bindMountOptions \
        core.v1.VolumeMountStatus.volumeStatus resource.v1.Device.nodeAllocatableResources \
        resource.v1.DeviceAttribute.bools resource.v1.DeviceAttribute.ints resource.v1.DeviceAttribute.strings \
        resource.v1.DeviceAttribute.versions resource.v1.DeviceCounterConsumption.compatibilityGroups \
        resource.v1.DeviceRequestAllocationResult.skipNodeOperations resource.v1.DeviceSubRequest.derivedAttributes \
        resource.v1.ExactDeviceRequest.derivedAttributes resource.v1.ResourceSliceSpec.partitionTypeAttribute \
        resource.v1.ResourceSliceSpec.skipNodeOperations storage.v1.CSIDriverSpec.preventPodSchedulingIfMissing \
        storage.v1.CSINode.status";

    fn fields(name: &str, into: &mut BTreeSet<String>) {
        for entry in MESSAGES.get(name).into_iter().flat_map(Message::values) {
            match entry {
                Entry::Field(field) => drop(into.insert((*field).to_owned())),
                Entry::Inline(inner) => fields(inner, into),
            }
        }
    }

    #[test]
    fn every_field_has_its_number() {
        let catalog = api_catalog::catalog();
        for resource in catalog.iter() {
            assert!(MESSAGES.contains_key(&*resource.definition), "{}", resource.definition);
        }
        let mut missing = BTreeSet::new();
        for name in MESSAGES.keys() {
            // What is not a definition is inlined in one.
            let Some(id) = catalog.arena().definition(name) else { continue };
            let mut known = BTreeSet::new();
            fields(name, &mut known);
            for field in catalog.arena().view(id).fields() {
                if !known.contains(&field.name) && !matches!(field.name.as_str(), "apiVersion" | "kind") {
                    let short = name.strip_prefix("io.k8s.api.").unwrap_or(name);
                    missing.insert(format!("{short}.{}", field.name));
                }
                let inner = catalog.arena().view(field.node);
                let inner = definition(inner.items().unwrap_or(inner));
                let messages = inner.is_none_or(|inner| MESSAGES.contains_key(inner) || !is_message(inner));
                assert!(
                    messages || missing.contains(&format!("{}.{}", &name[11..], field.name)),
                    "{inner:?}"
                );
            }
        }
        let expected: BTreeSet<String> = WITHOUT_NUMBER.split_whitespace().map(str::to_owned).collect();
        assert_eq!(missing, expected);
    }

    fn is_message(name: &str) -> bool {
        let arena = api_catalog::catalog().arena();
        arena.definition(name).is_some_and(|id| !arena.view(id).fields().is_empty())
    }

    #[test]
    fn numbers_count_on() {
        let message = message("p", " a b=4 +C +q.D=9");
        let expected = [
            (1, Entry::Field("a")),
            (4, Entry::Field("b")),
            (5, Entry::Inline("p.C".to_owned())),
            (9, Entry::Inline("q.D".to_owned())),
        ];
        assert_eq!(message, expected.into());
    }
}
