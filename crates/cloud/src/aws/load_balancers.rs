//! Network load balancers: one for a Service, with a listener and a target group for each port.
//!
//! Everything is found by names that derive from the cluster and the Service's UID; nothing is remembered. What is there is
//! compared with what should be, and only the difference is sent.
//!
//! Annotation: `service.beta.kubernetes.io/aws-load-balancer-scheme: internal` keeps a load balancer inside the VPC.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use roxmltree::Node;
use sha2::{Digest, Sha256};

use super::Aws;
use super::client::Parameters;
use super::sign::hexadecimal;
use super::targets::{TargetGroup, target_group_name};
use super::xml::{items, text};
use crate::provider::{
    Answer, Ingress, LoadBalancerPort, LoadBalancerSpec, LoadBalancers, ProviderError, ServiceId,
};

const SCHEME: &str = "service.beta.kubernetes.io/aws-load-balancer-scheme";

/// A load balancer, as ELB describes it.
#[derive(Debug)]
struct Balancer {
    arn: String,
    hostname: String,
    scheme: String,
    state: String,
}

/// A listener, as ELB describes it.
#[derive(Debug)]
struct Listener {
    arn: String,
    protocol: String,
    port: u16,
    target_group: String,
}

fn read_balancer(node: Node<'_, '_>) -> Balancer {
    Balancer {
        arn: text(node, &["LoadBalancerArn"]).to_owned(),
        hostname: text(node, &["DNSName"]).to_owned(),
        scheme: text(node, &["Scheme"]).to_owned(),
        state: text(node, &["State", "Code"]).to_owned(),
    }
}

fn read_listener(node: Node<'_, '_>) -> Listener {
    let action = items(node, &["DefaultActions"]).into_iter().next();
    Listener {
        arn: text(node, &["ListenerArn"]).to_owned(),
        protocol: text(node, &["Protocol"]).to_owned(),
        port: text(node, &["Port"]).parse().unwrap_or(0),
        target_group: action.map(|action| text(action, &["TargetGroupArn"]).to_owned()).unwrap_or_default(),
    }
}

/// The name of a Service's load balancer, and what the names of its target groups begin with.
pub(super) fn base_name(cluster: &str, service: &ServiceId) -> String {
    let digest = hexadecimal(&Sha256::digest(format!("{cluster}/{}", service.uid)));
    format!("k8s-{}", &digest[..20])
}

/// One load balancer cannot listen on one port twice.
fn check_ports(ports: &[LoadBalancerPort]) -> Answer<()> {
    let mut seen = BTreeSet::new();
    for port in ports {
        if !matches!(port.protocol.as_str(), "TCP" | "UDP") {
            return Err(ProviderError::Permanent(format!(
                "protocol {} is not one of TCP, UDP",
                port.protocol
            )));
        }
        if !seen.insert(port.port) {
            let what = format!("port {} is used twice: a network load balancer takes TCP or UDP", port.port);
            return Err(ProviderError::Permanent(what));
        }
    }
    Ok(())
}

fn scheme(spec: &LoadBalancerSpec) -> &'static str {
    match spec.annotations.get(SCHEME).map(String::as_str) {
        Some("internal") => "internal",
        _ => "internet-facing",
    }
}

impl Aws {
    /// Where the next page of ELB's lists is named depends on the action.
    pub(super) async fn elb_pages<T>(
        &self,
        action: &str,
        parameters: Parameters,
        mut each: impl FnMut(roxmltree::Node<'_, '_>) -> T,
        list: &'static str,
    ) -> Result<Vec<T>, super::client::Refusal> {
        let result = format!("{action}Result");
        let marker = [result.as_str(), "NextMarker"];
        self.client
            .pages(&self.elb, action, parameters, ("Marker", &marker), |page| {
                items(page, &[&result, list]).into_iter().map(&mut each).collect()
            })
            .await
    }

    /// Those with this name: one at most, where names are unique.
    async fn balancers(&self, name: &str) -> Answer<Vec<Balancer>> {
        let parameters = Parameters::default().with("Names.member.1", name);
        match self.elb_pages("DescribeLoadBalancers", parameters, read_balancer, "LoadBalancers").await {
            Ok(found) => Ok(found),
            Err(refusal) if refusal.code == "LoadBalancerNotFound" => Ok(Vec::new()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn listeners(&self, balancer: &str) -> Answer<Vec<Listener>> {
        let parameters = Parameters::default().with("LoadBalancerArn", balancer);
        Ok(self.elb_pages("DescribeListeners", parameters, read_listener, "Listeners").await?)
    }

    /// A subnet for each zone: those of the configuration, or those that are tagged for load balancers.
    async fn subnets(&self, scheme: &str) -> Answer<Vec<String>> {
        if !self.config.subnets.is_empty() {
            return Ok(self.config.subnets.clone());
        }
        let role = if scheme == "internal" { "internal-elb" } else { "elb" };
        let role = format!("kubernetes.io/role/{role}");
        let parameters =
            Parameters::default().filter(1, "vpc-id", &[&self.config.vpc]).filter(2, "tag-key", &[&role]);
        let token = ("NextToken", &["nextToken"][..]);
        let found = self.client.pages(&self.ec2, "DescribeSubnets", parameters, token, |page| {
            let subnets = items(page, &["subnetSet"]);
            let pair = |subnet| {
                (text(subnet, &["availabilityZone"]).to_owned(), text(subnet, &["subnetId"]).to_owned())
            };
            subnets.into_iter().map(pair).collect()
        });
        let mut by_zone: BTreeMap<String, String> = BTreeMap::new();
        for (zone, subnet) in found.await? {
            let chosen = by_zone.entry(zone).or_insert_with(|| subnet.clone());
            *chosen = subnet.min(chosen.clone());
        }
        match by_zone.is_empty() {
            true => {
                Err(ProviderError::Permanent(format!("no subnet of {} is tagged {role}", self.config.vpc)))
            }
            false => Ok(by_zone.into_values().collect()),
        }
    }

    /// Tags of something new of ELB's.
    pub(super) fn elb_tags(&self, parameters: Parameters, service: &ServiceId) -> Parameters {
        let (owned, name) = (self.cluster_tag(), service.key.to_string());
        let tags = [
            (owned.as_str(), "owned"),
            ("kubernetes.io/service-name", &name),
            ("skiff.dev/service-uid", &service.uid),
        ];
        tags.iter().enumerate().fold(parameters, |parameters, (index, (key, value))| {
            let at = format!("Tags.member.{}", index + 1);
            parameters.with(format!("{at}.Key"), *key).with(format!("{at}.Value"), *value)
        })
    }

    async fn create_balancer(&self, name: &str, spec: &LoadBalancerSpec) -> Answer<Balancer> {
        let scheme = scheme(spec);
        let subnets = self.subnets(scheme).await?;
        let mut parameters =
            Parameters::default().with("Name", name).with("Type", "network").with("Scheme", scheme);
        for (index, subnet) in subnets.iter().enumerate() {
            parameters = parameters.with(format!("Subnets.member.{}", index + 1), subnet);
        }
        let parameters = self.elb_tags(parameters, &spec.service);
        self.client.create(&self.elb, "CreateLoadBalancer", &parameters).await?;
        let made = self.balancers(name).await?.into_iter().next();
        made.ok_or_else(|| {
            ProviderError::Transient(format!("load balancer {name} was made and is not there yet"))
        })
    }

    async fn ensure_balancer(&self, name: &str, spec: &LoadBalancerSpec) -> Answer<Balancer> {
        match self.balancers(name).await?.into_iter().next() {
            Some(found) if found.state == "failed" || found.scheme != scheme(spec) => {
                self.delete_balancer(&found.arn).await?;
                self.create_balancer(name, spec).await
            }
            Some(found) => Ok(found),
            None => self.create_balancer(name, spec).await,
        }
    }

    async fn delete_balancer(&self, arn: &str) -> Answer<()> {
        let parameters = Parameters::default().with("LoadBalancerArn", arn);
        match self.client.call(&self.elb, "DeleteLoadBalancer", &parameters).await {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.code == "LoadBalancerNotFound" => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// A listener for each port, none for others. Listeners that go make room for those that come.
    async fn ensure_listeners(
        &self,
        balancer: &Balancer,
        ports: &[LoadBalancerPort],
        groups: &BTreeMap<LoadBalancerPort, TargetGroup>,
    ) -> Answer<()> {
        let there = self.listeners(&balancer.arn).await?;
        for listener in there.iter().filter(|listener| !ports.iter().any(|port| port.port == listener.port)) {
            let parameters = Parameters::default().with("ListenerArn", &listener.arn);
            match self.client.call(&self.elb, "DeleteListener", &parameters).await {
                Err(refusal) if refusal.code != "ListenerNotFound" => return Err(refusal.into()),
                Ok(_) | Err(_) => {}
            }
        }
        for port in ports {
            let group = &groups[port].arn;
            let wanted = Parameters::default()
                .with("Protocol", &port.protocol)
                .with("Port", port.port.to_string())
                .with("DefaultActions.member.1.Type", "forward")
                .with("DefaultActions.member.1.TargetGroupArn", group);
            match there.iter().find(|listener| listener.port == port.port) {
                Some(same) if same.protocol == port.protocol && same.target_group == *group => {}
                Some(other) => {
                    let parameters = wanted.with("ListenerArn", &other.arn);
                    self.client.call(&self.elb, "ModifyListener", &parameters).await?;
                }
                None => self.create_listener(&wanted.with("LoadBalancerArn", &balancer.arn)).await?,
            }
        }
        Ok(())
    }

    async fn create_listener(&self, parameters: &Parameters) -> Answer<()> {
        let answer = self.client.create(&self.elb, "CreateListener", parameters).await?;
        let document = super::xml::parse(&answer)?;
        match items(document.root_element(), &["CreateListenerResult", "Listeners"]).is_empty() {
            true => Err(ProviderError::Transient("CreateListener: the answer names no listener".to_owned())),
            false => Ok(()),
        }
    }

    /// Target groups and their targets, as they should be.
    async fn ensure_groups(
        &self,
        name: &str,
        spec: &LoadBalancerSpec,
    ) -> Answer<BTreeMap<LoadBalancerPort, TargetGroup>> {
        let mut there = self.target_groups(name).await?;
        let mut groups = BTreeMap::new();
        for port in &spec.ports {
            let group =
                self.ensure_target_group(&target_group_name(name, port), spec, port, &mut there).await?;
            self.ensure_targets(&group.arn, port, &spec.nodes).await?;
            groups.insert(port.clone(), group);
        }
        Ok(groups)
    }
}

#[async_trait]
impl LoadBalancers for Aws {
    fn restore(&self, _: &[(ServiceId, Vec<Ingress>)]) {
        // The cloud remembers.
    }

    async fn ensure(&self, spec: &LoadBalancerSpec) -> Answer<Vec<Ingress>> {
        check_ports(&spec.ports)?;
        let name = base_name(&self.cluster, &spec.service);
        let balancer = self.ensure_balancer(&name, spec).await?;
        let groups = self.ensure_groups(&name, spec).await?;
        self.ensure_listeners(&balancer, &spec.ports, &groups).await?;
        for old in self.target_groups(&name).await? {
            if !groups.values().any(|group| group.arn == old.arn) {
                self.delete_target_group(&old.arn).await?;
            }
        }
        match balancer.hostname.as_str() {
            "" => Err(ProviderError::Transient(format!("load balancer {name} has no name yet"))),
            hostname => Ok(vec![Ingress { ip: None, hostname: Some(hostname.to_owned()) }]),
        }
    }

    async fn update(&self, spec: &LoadBalancerSpec) -> Answer<()> {
        let name = base_name(&self.cluster, &spec.service);
        let there = self.target_groups(&name).await?;
        for port in &spec.ports {
            let wanted = target_group_name(&name, port);
            let Some(group) = there.iter().find(|group| group.name == wanted) else {
                return Err(ProviderError::NotFound(format!("target group {wanted}")));
            };
            self.ensure_targets(&group.arn, port, &spec.nodes).await?;
        }
        Ok(())
    }

    async fn delete(&self, service: &ServiceId) -> Answer<()> {
        let name = base_name(&self.cluster, service);
        for balancer in self.balancers(&name).await? {
            self.delete_balancer(&balancer.arn).await?;
        }
        for group in self.target_groups(&name).await? {
            self.delete_target_group(&group.arn).await?;
        }
        // What was answered is checked: the Service is let go after this, and nobody would look again.
        match self.balancers(&name).await?.is_empty() {
            false => Err(ProviderError::Transient(format!("load balancer {name} is still there"))),
            true => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use component::ObjectKey;

    fn port(protocol: &str, port: u16) -> LoadBalancerPort {
        LoadBalancerPort { protocol: protocol.to_owned(), port, node_port: 30080 }
    }

    #[test]
    fn names_fit_and_differ_by_cluster_and_uid() {
        let service = |uid: &str| ServiceId { key: ObjectKey::new("a", "b"), uid: uid.to_owned() };
        let names =
            [("c", "1"), ("c", "2"), ("d", "1")].map(|(cluster, uid)| base_name(cluster, &service(uid)));
        assert_eq!(BTreeSet::from(names.clone()).len(), 3);
        for name in names {
            assert!(target_group_name(&name, &port("UDP", 65535)).len() <= 32);
        }
    }

    #[test]
    fn what_a_network_load_balancer_cannot_do_is_said() {
        assert_eq!(check_ports(&[port("TCP", 53), port("UDP", 54)]), Ok(()));
        for (ports, words) in
            [(vec![port("TCP", 53), port("UDP", 53)], "port 53"), (vec![port("SCTP", 1)], "SCTP")]
        {
            let error = check_ports(&ports).expect_err("refused");
            assert!(matches!(&error, ProviderError::Permanent(what) if what.contains(words)), "{error}");
        }
    }
}
