//! The cluster's names: a pure function of Services and EndpointSlices. Knows nothing of packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Deref;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// An address.
    A(Ipv4Addr),
    /// Another name (ExternalName).
    Cname(String),
    /// The name of an address.
    Ptr(String),
    /// A named port: port and the name that answers there.
    Srv(u16, String),
    /// Text.
    Txt(String),
}

/// What a zone says of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// The name exists; it may have no record of the type asked for.
    Found(&'a BTreeSet<Data>),
    /// The name of a pod, which follows from its own text.
    Pod(Ipv4Addr),
    /// The name exists only as the parent of others.
    Parent,
    /// Ours to know, and there is none.
    Missing,
    /// Ours to know, and not known yet: the API has not been read.
    NotYet,
    /// Somebody else's.
    Outside,
}

/// All names of the cluster, in lower case without the final dot.
#[derive(Debug)]
pub struct Zone {
    domain: String,
    known: bool,
    names: BTreeMap<String, BTreeSet<Data>>,
    parents: BTreeSet<String>,
}

impl Zone {
    /// The zone before anything is known: to say that a name does not exist would be a guess, and clients keep it.
    pub fn not_yet(domain: &str) -> Self {
        Self { domain: domain.to_owned(), known: false, names: BTreeMap::new(), parents: BTreeSet::new() }
    }

    /// The zone of all Services and their slices.
    pub fn build(
        domain: &str,
        services: &[impl Deref<Target = Service>],
        slices: &[impl Deref<Target = EndpointSlice>],
    ) -> Self {
        let mut zone = Self { known: true, ..Self::not_yet(domain) };
        zone.add(format!("dns-version.{domain}"), Data::Txt("1.1.0".to_owned()));
        zone.add_parents(&format!("x.svc.{domain}"));
        zone.add_parents(&format!("x.pod.{domain}"));
        let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices {
            let labels = slice.metadata.labels.as_ref();
            let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
            if let (Some(namespace), Some(service)) = (&slice.metadata.namespace, service) {
                by_service.entry((namespace, service)).or_default().push(slice);
            }
        }
        for service in services {
            let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else {
                continue;
            };
            let slices = by_service.remove(&(namespace.as_str(), name.as_str())).unwrap_or_default();
            zone.add_service(&format!("{name}.{namespace}.svc.{domain}"), service, &slices);
        }
        zone
    }

    /// The domain that this zone is the authority for.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Looks a name up; `name` in lower case without the final dot.
    pub fn look_up(&self, name: &str) -> Lookup<'_> {
        if let Some(data) = self.names.get(name) {
            return Lookup::Found(data);
        }
        if self.parents.contains(name) {
            return Lookup::Parent;
        }
        let Some(below) = name.strip_suffix(&self.domain) else { return Lookup::Outside };
        if !below.is_empty() && !below.ends_with('.') {
            return Lookup::Outside;
        }
        match pod_address(below) {
            Some(address) => Lookup::Pod(address),
            None if self.known => Lookup::Missing,
            None => Lookup::NotYet,
        }
    }

    fn add(&mut self, name: String, data: Data) {
        let name = name.to_ascii_lowercase();
        self.add_parents(&name);
        self.names.entry(name).or_default().insert(data);
    }

    /// Names above a name exist too, though they have no records: NODATA, not NXDOMAIN (RFC 8020).
    fn add_parents(&mut self, name: &str) {
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if !parent.ends_with(&self.domain) {
                return;
            }
            if !self.parents.insert(parent.to_owned()) {
                return;
            }
            rest = parent;
        }
    }

    fn add_service(&mut self, name: &str, service: &Service, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(target) = &spec.external_name {
                self.add(name.to_owned(), Data::Cname(target.trim_end_matches('.').to_ascii_lowercase()));
            }
            return;
        }
        match spec.cluster_ip.as_deref() {
            None | Some("") => {}
            Some("None") => self.add_headless(name, slices),
            Some(address) => {
                let Ok(address) = address.parse() else { return };
                self.add(name.to_owned(), Data::A(address));
                self.names.insert(reverse(address), BTreeSet::from([Data::Ptr(name.to_owned())]));
                for port in spec.ports.as_deref().unwrap_or_default() {
                    let Ok(number) = u16::try_from(port.port) else { continue };
                    self.add_port(name, port.name.as_deref(), port.protocol.as_deref(), number, name);
                }
            }
        }
    }

    /// Every ready endpoint by its own name, and all of them under the Service's.
    fn add_headless(&mut self, name: &str, slices: &[&EndpointSlice]) {
        for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
            for endpoint in slice.endpoints.as_deref().unwrap_or_default() {
                let ready =
                    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
                let address: Option<Ipv4Addr> =
                    endpoint.addresses.first().and_then(|address| address.parse().ok());
                let (true, Some(address)) = (ready, address) else { continue };
                let host = endpoint.hostname.clone().unwrap_or_else(|| address.to_string().replace('.', "-"));
                let host = format!("{host}.{name}");
                self.add(name.to_owned(), Data::A(address));
                self.add(host.clone(), Data::A(address));
                self.names.insert(reverse(address), BTreeSet::from([Data::Ptr(host.clone())]));
                for port in slice.ports.as_deref().unwrap_or_default() {
                    let Some(number) = port.port.and_then(|port| u16::try_from(port).ok()) else { continue };
                    self.add_port(name, port.name.as_deref(), port.protocol.as_deref(), number, &host);
                }
            }
        }
    }

    fn add_port(
        &mut self,
        service: &str,
        name: Option<&str>,
        protocol: Option<&str>,
        port: u16,
        target: &str,
    ) {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
            self.add(format!("_{name}._{protocol}.{service}"), Data::Srv(port, target.to_owned()));
        }
    }
}

/// `10.42.0.7` -> `7.0.42.10.in-addr.arpa`.
fn reverse(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("{d}.{c}.{b}.{a}.in-addr.arpa")
}

/// The address in `10-42-0-7.NAMESPACE.pod.`
fn pod_address(below: &str) -> Option<Ipv4Addr> {
    let (address, namespace) = below.strip_suffix(".pod.")?.split_once('.')?;
    if namespace.is_empty() || namespace.contains('.') {
        return None;
    }
    address.replace('-', ".").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::serde_json::{Value, from_value, json};

    fn zone(services: &[Value], slices: &[Value]) -> Zone {
        let services: Vec<Box<Service>> =
            services.iter().map(|value| from_value(value.clone()).unwrap()).collect();
        let slices: Vec<Box<EndpointSlice>> =
            slices.iter().map(|value| from_value(value.clone()).unwrap()).collect();
        Zone::build("cluster.local", &services, &slices)
    }

    fn found(zone: &Zone, name: &str) -> Vec<Data> {
        match zone.look_up(name) {
            Lookup::Found(data) => data.iter().cloned().collect(),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn a_service_has_an_address_a_reverse_name_and_its_named_ports() {
        let zone = zone(
            &[json!({"metadata": {"name": "web", "namespace": "shop"},
                     "spec": {"clusterIP": "10.43.0.9", "ports": [{"name": "http", "port": 80}, {"port": 81}]}})],
            &[],
        );
        let name = "web.shop.svc.cluster.local";
        assert_eq!(found(&zone, name), [Data::A(Ipv4Addr::new(10, 43, 0, 9))]);
        assert_eq!(found(&zone, "9.0.43.10.in-addr.arpa"), [Data::Ptr(name.to_owned())]);
        assert_eq!(found(&zone, &format!("_http._tcp.{name}")), [Data::Srv(80, name.to_owned())]);
        assert_eq!(zone.look_up("shop.svc.cluster.local"), Lookup::Parent);
        assert_eq!(zone.look_up("other.shop.svc.cluster.local"), Lookup::Missing);
        assert_eq!(zone.look_up("example.org"), Lookup::Outside);
        assert_eq!(zone.look_up("notcluster.local"), Lookup::Outside);
    }

    #[test]
    fn a_headless_service_names_each_ready_endpoint() {
        let zone = zone(
            &[json!({"metadata": {"name": "db", "namespace": "shop"},
                     "spec": {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}})],
            &[
                json!({"metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}},
                     "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
                     "endpoints": [{"addresses": ["10.42.0.7"], "hostname": "db-0", "conditions": {"ready": true}},
                                   {"addresses": ["10.42.0.8"], "conditions": {"ready": true}},
                                   {"addresses": ["10.42.0.9"], "conditions": {"ready": false}}]}),
            ],
        );
        let [first, second] = [Ipv4Addr::new(10, 42, 0, 7), Ipv4Addr::new(10, 42, 0, 8)].map(Data::A);
        assert_eq!(found(&zone, "db.shop.svc.cluster.local"), [first.clone(), second.clone()]);
        assert_eq!(found(&zone, "db-0.db.shop.svc.cluster.local"), [first]);
        assert_eq!(found(&zone, "10-42-0-8.db.shop.svc.cluster.local"), [second]);
        assert_eq!(found(&zone, "_sql._tcp.db.shop.svc.cluster.local").len(), 2);
    }

    #[test]
    fn external_names_and_pods() {
        let zone = zone(
            &[json!({"metadata": {"name": "mail", "namespace": "shop"},
                     "spec": {"type": "ExternalName", "externalName": "mx.example.org"}})],
            &[],
        );
        assert_eq!(found(&zone, "mail.shop.svc.cluster.local"), [Data::Cname("mx.example.org".to_owned())]);
        assert_eq!(
            zone.look_up("10-42-0-7.shop.pod.cluster.local"),
            Lookup::Pod(Ipv4Addr::new(10, 42, 0, 7))
        );
        assert_eq!(zone.look_up("10-42-0.shop.pod.cluster.local"), Lookup::Missing);
    }
}
