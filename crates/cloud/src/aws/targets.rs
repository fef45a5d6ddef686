//! Target groups: for each port of a Service, the nodes that take its connections.

use std::collections::BTreeSet;

use super::Aws;
use super::client::{Parameters, call_and_read};
use super::instances::instance_id;
use super::xml::{items, text};
use crate::provider::{Answer, LoadBalancerPort, LoadBalancerSpec, NodeRef, ProviderError};

/// Targets named in one request.
const BATCH: usize = 100;

/// A target group, as ELB describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TargetGroup {
    pub arn: String,
    pub name: String,
    /// Protocol and port of health checks.
    health: (String, String),
}

/// The name of a port's target group.
pub(super) fn target_group_name(base: &str, port: &LoadBalancerPort) -> String {
    let letter = if port.protocol == "UDP" { 'u' } else { 't' };
    format!("{base}-{letter}{}", port.port)
}

/// How nodes are checked: by the Service's own health check, or by connecting to the node port. Health is not checked by
/// UDP: the port of the kubelet stands for the node.
fn health(spec: &LoadBalancerSpec, port: &LoadBalancerPort) -> (String, String) {
    match (spec.health_check_port, port.protocol.as_str()) {
        (Some(check), _) => ("HTTP".to_owned(), check.to_string()),
        (None, "UDP") => ("TCP".to_owned(), "10250".to_owned()),
        (None, _) => ("TCP".to_owned(), "traffic-port".to_owned()),
    }
}

fn read(node: roxmltree::Node<'_, '_>) -> TargetGroup {
    let field = |name: &str| text(node, &[name]).to_owned();
    TargetGroup {
        arn: field("TargetGroupArn"),
        name: field("TargetGroupName"),
        health: (field("HealthCheckProtocol"), field("HealthCheckPort")),
    }
}

impl Aws {
    /// The target groups of a Service, whichever ports they are for.
    pub(super) async fn target_groups(&self, base: &str) -> Answer<Vec<TargetGroup>> {
        let prefix = format!("{base}-");
        let all = self.elb_pages("DescribeTargetGroups", Parameters::default(), read, "TargetGroups").await?;
        Ok(all.into_iter().filter(|group| group.name.starts_with(&prefix)).collect())
    }

    pub(super) async fn ensure_target_group(
        &self,
        name: &str,
        spec: &LoadBalancerSpec,
        port: &LoadBalancerPort,
        there: &mut [TargetGroup],
    ) -> Answer<TargetGroup> {
        let (protocol, check) = health(spec, port);
        let checks = |parameters: Parameters| {
            let parameters =
                parameters.with("HealthCheckProtocol", &protocol).with("HealthCheckPort", &check);
            if protocol == "HTTP" { parameters.with("HealthCheckPath", "/healthz") } else { parameters }
        };
        if let Some(found) = there.iter_mut().find(|group| group.name == name) {
            if found.health != (protocol.clone(), check.clone()) {
                let parameters = checks(Parameters::default().with("TargetGroupArn", &found.arn));
                self.client.call(&self.elb, "ModifyTargetGroup", &parameters).await?;
            }
            return Ok(found.clone());
        }
        let parameters = Parameters::default()
            .with("Name", name)
            .with("Protocol", &port.protocol)
            .with("Port", port.node_port.to_string())
            .with("VpcId", &self.config.vpc)
            .with("TargetType", "instance");
        let parameters = self.elb_tags(checks(parameters), &spec.service);
        let answer = self.client.create(&self.elb, "CreateTargetGroup", &parameters).await?;
        let document = super::xml::parse(&answer)?;
        let made = items(document.root_element(), &["CreateTargetGroupResult", "TargetGroups"]);
        made.into_iter().next().map(read).filter(|group| !group.arn.is_empty()).ok_or_else(|| {
            ProviderError::Transient("CreateTargetGroup: the answer names no target group".to_owned())
        })
    }

    /// Only gone is deleted: what is in use is tried again.
    pub(super) async fn delete_target_group(&self, arn: &str) -> Answer<()> {
        let parameters = Parameters::default().with("TargetGroupArn", arn);
        match self.client.call(&self.elb, "DeleteTargetGroup", &parameters).await {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.code == "TargetGroupNotFound" => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Registers and deregisters nodes. Nodes that the cloud does not know yet come with a later update.
    pub(super) async fn ensure_targets(
        &self,
        group: &str,
        port: &LoadBalancerPort,
        nodes: &[NodeRef],
    ) -> Answer<()> {
        let mut wanted = BTreeSet::new();
        for provider_id in nodes.iter().filter_map(|node| node.provider_id.as_deref()) {
            match instance_id(provider_id) {
                Ok(id) => wanted.insert((id.to_owned(), port.node_port)),
                // A node elsewhere does not keep those here from serving.
                Err(error) => {
                    tracing::debug!(%error, "not a target");
                    false
                }
            };
        }
        let parameters = Parameters::default().with("TargetGroupArn", group);
        let there: BTreeSet<(String, u16)> =
            call_and_read(&self.client, &self.elb, "DescribeTargetHealth", &parameters, |root| {
                let all = items(root, &["DescribeTargetHealthResult", "TargetHealthDescriptions"]);
                let stays =
                    |one: &roxmltree::Node<'_, '_>| text(*one, &["TargetHealth", "State"]) != "draining";
                let target = |one| {
                    let port = text(one, &["Target", "Port"]).parse().unwrap_or(0);
                    (text(one, &["Target", "Id"]).to_owned(), port)
                };
                all.into_iter().filter(stays).map(target).collect()
            })
            .await?;
        let new: Vec<_> = wanted.difference(&there).collect();
        let old: Vec<_> = there.difference(&wanted).collect();
        // New ones first: the load balancer is never without a target because of us.
        self.change_targets("RegisterTargets", group, &new).await?;
        self.change_targets("DeregisterTargets", group, &old).await
    }

    async fn change_targets(&self, action: &str, group: &str, targets: &[&(String, u16)]) -> Answer<()> {
        for batch in targets.chunks(BATCH) {
            let mut parameters = Parameters::default().with("TargetGroupArn", group);
            for (index, (id, port)) in batch.iter().enumerate() {
                let at = format!("Targets.member.{}", index + 1);
                parameters =
                    parameters.with(format!("{at}.Id"), id).with(format!("{at}.Port"), port.to_string());
            }
            self.client.call(&self.elb, action, &parameters).await?;
        }
        Ok(())
    }
}
