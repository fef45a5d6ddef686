//! Machines: found by provider ID (`aws:///ZONE/INSTANCE`), or by private DNS name as long as a node has none.

use async_trait::async_trait;
use roxmltree::Node;

use super::Aws;
use super::client::Parameters;
use super::xml::{items, text};
use crate::provider::{Answer, InstanceMetadata, Instances, NodeRef, ProviderError};

/// A machine, as EC2 describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Instance {
    pub id: String,
    pub state: String,
    pub zone: String,
    pub kind: String,
    /// Names of devices that are taken.
    pub devices: Vec<String>,
    addresses: Vec<(String, String)>,
}

/// The instance in a provider ID.
pub(super) fn instance_id(provider_id: &str) -> Answer<&str> {
    let id = provider_id.strip_prefix("aws://").and_then(|path| path.rsplit('/').next());
    id.filter(|id| id.starts_with("i-")).ok_or_else(|| {
        ProviderError::Permanent(format!("{provider_id:?} is not the provider ID of an AWS instance"))
    })
}

fn read(node: Node<'_, '_>) -> Instance {
    let mut addresses = Vec::new();
    let mut add = |kind: &str, address: &str| {
        let new = (kind.to_owned(), address.to_owned());
        if !address.is_empty() && !addresses.contains(&new) {
            addresses.push(new);
        }
    };
    add("InternalIP", text(node, &["privateIpAddress"]));
    for interface in items(node, &["networkInterfaceSet"]) {
        for address in items(interface, &["privateIpAddressesSet"]) {
            add("InternalIP", text(address, &["privateIpAddress"]));
        }
    }
    add("ExternalIP", text(node, &["ipAddress"]));
    add("InternalDNS", text(node, &["privateDnsName"]));
    add("Hostname", text(node, &["privateDnsName"]));
    add("ExternalDNS", text(node, &["dnsName"]));
    let devices = items(node, &["blockDeviceMapping"]);
    Instance {
        id: text(node, &["instanceId"]).to_owned(),
        state: text(node, &["instanceState", "name"]).to_owned(),
        zone: text(node, &["placement", "availabilityZone"]).to_owned(),
        kind: text(node, &["instanceType"]).to_owned(),
        devices: devices.into_iter().map(|device| text(device, &["deviceName"]).to_owned()).collect(),
        addresses,
    }
}

impl Aws {
    /// The machine of a node; `None` if it certainly has none.
    pub(super) async fn instance(&self, node: &NodeRef) -> Answer<Option<Instance>> {
        let parameters = match &node.provider_id {
            Some(provider_id) => Parameters::default().with("InstanceId.1", instance_id(provider_id)?),
            None => Parameters::default()
                .filter(1, "private-dns-name", &[&node.name])
                .filter(2, "vpc-id", &[&self.config.vpc])
                .filter(
                    3,
                    "instance-state-name",
                    &["pending", "running", "stopping", "stopped", "shutting-down"],
                ),
        };
        let found = self.client.pages(
            &self.ec2,
            "DescribeInstances",
            parameters,
            ("NextToken", &["nextToken"]),
            |page| {
                let reservations = items(page, &["reservationSet"]);
                reservations.into_iter().flat_map(|one| items(one, &["instancesSet"])).map(read).collect()
            },
        );
        let found = match found.await {
            Ok(found) => found,
            Err(refusal) if refusal.code == "InvalidInstanceID.NotFound" => return Ok(None),
            Err(refusal) => return Err(refusal.into()),
        };
        match (found.len(), &node.provider_id) {
            (0 | 1, None) | (1, Some(_)) => Ok(found.into_iter().next()),
            // Asked by its name, EC2 either describes an instance or says that there is none.
            (0, Some(id)) => Err(ProviderError::Transient(format!("EC2 said nothing about {id}"))),
            (several, _) => {
                let what =
                    format!("{several} instances are called {}: the node needs a provider ID", node.name);
                Err(ProviderError::Permanent(what))
            }
        }
    }
}

#[async_trait]
impl Instances for Aws {
    async fn exists(&self, node: &NodeRef) -> Answer<bool> {
        Ok(self.instance(node).await?.is_some_and(|instance| instance.state != "terminated"))
    }

    async fn is_shut_down(&self, node: &NodeRef) -> Answer<bool> {
        Ok(self.instance(node).await?.is_some_and(|instance| instance.state == "stopped"))
    }

    async fn metadata(&self, node: &NodeRef) -> Answer<InstanceMetadata> {
        let instance = self.instance(node).await?.filter(|instance| instance.state != "terminated");
        let Some(instance) = instance else {
            return Err(ProviderError::NotFound(format!("no EC2 instance for node {}", node.name)));
        };
        Ok(InstanceMetadata {
            provider_id: format!("aws:///{}/{}", instance.zone, instance.id),
            addresses: instance.addresses,
            instance_type: instance.kind,
            zone: instance.zone,
            region: self.config.region.clone(),
        })
    }
}
