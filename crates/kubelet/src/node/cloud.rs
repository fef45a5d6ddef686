//! What a node says of itself while a cloud is to say the rest: the taint that keeps pods away until then, the address that the
//! kubelet was told to use, and the node's addresses, which the kubelet leaves alone once there are any. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{NodeAddress, NodeStatus, Taint};

use crate::config::Config;

/// Keeps pods away until the cloud has said what the node is.
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// The address that the kubelet was told to use, which the cloud must know too.
const PROVIDED: &str = "alpha.kubernetes.io/provided-node-ip";

/// The taints that the node registers with.
pub(super) fn taints(config: &Config) -> Vec<Taint> {
    let mut taints = config.taints.clone();
    if config.external_cloud && !taints.iter().any(|taint| taint.key == UNINITIALIZED) {
        taints.push(Taint {
            key: UNINITIALIZED.to_owned(),
            value: Some("true".to_owned()),
            effect: "NoSchedule".to_owned(),
            time_added: None,
        });
    }
    taints
}

/// The annotations that the node registers with.
pub(super) fn annotations(config: &Config) -> Option<BTreeMap<String, String>> {
    let address = config.node_ips.first().filter(|_| config.external_cloud)?;
    Some([(PROVIDED.to_owned(), address.to_string())].into())
}

/// The addresses to write; `None` if they are the cloud's to say. Before it did, those that the kubelet was told, since
/// whoever told it knows that the cloud will say the same.
pub(super) fn addresses(config: &Config, own: &[IpAddr], old: &NodeStatus) -> Option<Vec<NodeAddress>> {
    if config.external_cloud && old.addresses.as_ref().is_some_and(|addresses| !addresses.is_empty()) {
        return None;
    }
    let own = if config.external_cloud { config.node_ips.as_slice() } else { own };
    let internal = own.iter().map(|address| ("InternalIP", address.to_string()));
    let host_name = std::iter::once(("Hostname", config.node_name.clone()));
    let named = internal.chain(host_name);
    Some(named.map(|(kind, address)| NodeAddress { type_: kind.to_owned(), address }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn external() -> Config {
        Config { external_cloud: true, ..Config::new("n", "/d") }
    }

    fn kinds(addresses: Option<Vec<NodeAddress>>) -> Vec<String> {
        addresses.into_iter().flatten().map(|one| one.type_).collect()
    }

    #[test]
    fn a_node_of_a_cloud_waits_for_it() {
        assert!(taints(&Config::new("n", "/d")).is_empty());
        let wanted = taints(&external());
        assert_eq!(
            (wanted[0].key.as_str(), wanted[0].value.as_deref(), wanted[0].effect.as_str()),
            (UNINITIALIZED, Some("true"), "NoSchedule")
        );
        let told = Config { taints: wanted.clone(), ..external() };
        assert_eq!(taints(&told), wanted, "once is enough");
    }

    #[test]
    fn addresses_are_the_clouds_once_it_said_them() {
        let own: Vec<IpAddr> = vec![[192, 0, 2, 1].into()];
        let none = NodeStatus::default();
        let usual = Config::new("n", "/d");
        let said = NodeStatus { addresses: addresses(&usual, &own, &none), ..NodeStatus::default() };
        assert_eq!(kinds(said.addresses.clone()), ["InternalIP", "Hostname"]);
        assert_eq!(kinds(addresses(&usual, &own, &said)), ["InternalIP", "Hostname"]);
        assert_eq!(
            kinds(addresses(&external(), &own, &none)),
            ["Hostname"],
            "what was not told is not known"
        );
        assert_eq!(addresses(&external(), &own, &said), None);
        let told = Config { node_ips: own.clone(), ..external() };
        assert_eq!(kinds(addresses(&told, &own, &none)), ["InternalIP", "Hostname"]);
        assert_eq!(annotations(&told).expect("a hint").get(PROVIDED).map(String::as_str), Some("192.0.2.1"));
        assert_eq!(annotations(&external()), None);
    }
}
