//! Which EndpointSlices a Service needs, with as few writes as possible: slices keep their endpoints, new ones go where
//! there is room, and a slice that is no longer needed becomes one that is missing. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod_rules::status;

use crate::{claim, services};

/// Most endpoints in one slice.
pub(crate) const CAPACITY: usize = 100;
/// Names the Service of a slice.
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Names who keeps a slice.
pub(crate) const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Our name in that label.
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";

/// What to write, in this order: an endpoint that moves is never missing meanwhile.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

/// The ports of a slice in comparable form: name, protocol, number, application protocol.
type Ports = Vec<(String, String, Option<i32>, Option<String>)>;
/// Endpoints by the name and uid of their pods.
type Endpoints = BTreeMap<(String, String), Endpoint>;

/// Whether a slice is this controller's, and which Service's.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<&str> {
    let labels = slice.metadata.labels.as_ref()?;
    let ours = labels.get(MANAGER_LABEL).is_some_and(|manager| manager == MANAGER);
    labels.get(SERVICE_LABEL).filter(|_| ours).map(String::as_str)
}

/// Selects this controller's slices of a Service.
pub(crate) fn selector(service: &str) -> String {
    format!("{SERVICE_LABEL}={service},{MANAGER_LABEL}={MANAGER}")
}

/// Compares the Service's slices with its pods. `zone_of` says in which zone a node is: `None` if there is no such node,
/// `Some(None)` if it does not say.
pub(crate) fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    zone_of: &dyn Fn(&str) -> Option<Option<String>>,
) -> Plan {
    let families = services::families(service);
    let mut plan = Plan::default();
    let (mine, foreign) = slices.iter().cloned().partition::<Vec<_>, _>(|slice| {
        slice.metadata.deletion_timestamp.is_none() && families.contains(&slice.address_type.as_str())
    });
    plan.delete = foreign.into_iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
    for family in families {
        let groups = desired(service, pods, family, zone_of);
        let own = mine.iter().filter(|slice| slice.address_type == family).cloned().collect();
        let mut part = Family { service, family }.plan(groups, own);
        plan.create.append(&mut part.create);
        plan.update.append(&mut part.update);
        plan.delete.append(&mut part.delete);
    }
    plan
}

/// The endpoints of one address family, grouped by their ports: pods may disagree on the number behind a name.
fn desired(
    service: &Service,
    pods: &[Arc<Pod>],
    family: &str,
    zone_of: &dyn Fn(&str) -> Option<Option<String>>,
) -> BTreeMap<Ports, Endpoints> {
    let mut groups: BTreeMap<Ports, Endpoints> = BTreeMap::new();
    for pod in pods {
        let node = status::node_name(pod);
        let zone = match node {
            "" => None,
            // Its node is not known (any more): nor is whether packets reach it.
            node => match zone_of(node) {
                Some(zone) => zone,
                None => continue,
            },
        };
        if let Some(endpoint) = endpoint(service, pod, family, zone) {
            groups.entry(ports_of(service, pod)).or_default().insert(identity(&endpoint), endpoint);
        }
    }
    if groups.is_empty() {
        // One slice without endpoints says that there are none, as against: not known yet.
        groups.insert(Ports::new(), Endpoints::new());
    }
    groups
}

fn ports_of(service: &Service, pod: &Pod) -> Ports {
    let mut ports: Ports = services::ports(service)
        .iter()
        .filter_map(|port| {
            let number = services::target_port(pod, port)?;
            let protocol = services::protocol(port.protocol.as_ref()).to_owned();
            Some((port.name.clone().unwrap_or_default(), protocol, Some(number), port.app_protocol.clone()))
        })
        .collect();
    ports.sort();
    ports
}

fn endpoint(service: &Service, pod: &Pod, family: &str, zone: Option<String>) -> Option<Endpoint> {
    let of_family =
        services::addresses(pod).into_iter().filter(|address| services::family_of(address) == family);
    let addresses: Vec<String> = of_family.map(str::to_owned).collect();
    let (serving, terminating) = (status::is_ready(pod), status::is_deleting(pod));
    let ready = services::publishes_not_ready(service) || (serving && !terminating);
    (!addresses.is_empty()).then(|| Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: services::hostname(service, pod),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(services::reference(pod)),
        zone,
        ..Endpoint::default()
    })
}

fn identity(endpoint: &Endpoint) -> (String, String) {
    let target = endpoint.target_ref.as_ref();
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    (
        text(target.and_then(|target| target.name.as_ref())),
        text(target.and_then(|target| target.uid.as_ref())),
    )
}

fn comparable(ports: Option<&Vec<EndpointPort>>) -> Ports {
    let mut ports: Ports = ports
        .into_iter()
        .flatten()
        .map(|port| {
            let protocol = services::protocol(port.protocol.as_ref()).to_owned();
            (port.name.clone().unwrap_or_default(), protocol, port.port, port.app_protocol.clone())
        })
        .collect();
    ports.sort();
    ports
}

fn written(ports: &Ports) -> Option<Vec<EndpointPort>> {
    let port =
        |(name, protocol, port, app_protocol): &(String, String, Option<i32>, Option<String>)| EndpointPort {
            name: Some(name.clone()),
            protocol: Some(protocol.clone()),
            port: *port,
            app_protocol: app_protocol.clone(),
        };
    (!ports.is_empty()).then(|| ports.iter().map(port).collect())
}

/// The slices of one address family.
struct Family<'a> {
    service: &'a Service,
    family: &'a str,
}

/// A slice while it is worked on.
struct Draft {
    before: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

impl Draft {
    /// Keeps what is still wanted, as it is wanted now, and takes it out of `wanted`.
    fn of(before: &Arc<EndpointSlice>, wanted: &mut Endpoints) -> Self {
        let had = before.endpoints.as_deref().unwrap_or_default();
        let endpoints: Vec<Endpoint> =
            had.iter().filter_map(|endpoint| wanted.remove(&identity(endpoint))).collect();
        Self { before: before.clone(), changed: endpoints != had, endpoints }
    }

    fn room(&self) -> usize {
        CAPACITY.saturating_sub(self.endpoints.len())
    }
}

impl Family<'_> {
    fn plan(&self, groups: BTreeMap<Ports, Endpoints>, slices: Vec<Arc<EndpointSlice>>) -> Plan {
        let mut by_ports: BTreeMap<Ports, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
        for slice in slices {
            by_ports.entry(comparable(slice.ports.as_ref())).or_default().push(slice);
        }
        let (mut keep, mut missing) = (Vec::new(), Vec::new());
        let mut spare = Vec::new();
        for (ports, wanted) in groups {
            let existing = by_ports.remove(&ports).unwrap_or_default();
            let (drafts, new) = fill(&existing, wanted);
            missing.extend(new.into_iter().map(|endpoints| (ports.clone(), endpoints)));
            for draft in drafts {
                if draft.endpoints.is_empty() {
                    spare.push(draft.before);
                } else {
                    keep.push((draft.before, ports.clone(), draft.endpoints));
                }
            }
        }
        spare.extend(by_ports.into_values().flatten());
        if keep.is_empty() && missing.is_empty() {
            missing.push((Ports::new(), Vec::new()));
        }
        // What is missing takes the place of what is spare; a slice that is empty already first.
        spare.sort_by_key(|slice| slice.endpoints.as_ref().is_some_and(|endpoints| !endpoints.is_empty()));
        let mut spare = spare.into_iter();
        let mut plan = Plan::default();
        for (ports, endpoints) in missing {
            match spare.next() {
                Some(slice) => keep.push((slice, ports, endpoints)),
                None => plan.create.push(self.slice(ObjectMeta::default(), &ports, endpoints)),
            }
        }
        plan.delete = spare.collect();
        for (before, ports, endpoints) in keep {
            let wanted = self.slice(before.metadata.clone(), &ports, endpoints);
            if !same(&before, &wanted) {
                plan.update.push(wanted);
            }
        }
        plan
    }

    /// A slice as it is to be; `metadata` is that of the slice whose place it takes, if any.
    fn slice(&self, mut metadata: ObjectMeta, ports: &Ports, endpoints: Vec<Endpoint>) -> EndpointSlice {
        let service = &self.service.metadata;
        let name = service.name.clone().unwrap_or_default();
        if metadata.name.is_none() {
            metadata.generate_name = Some(format!("{name}-"));
            metadata.namespace = service.namespace.clone();
        }
        let mut labels = service.labels.clone().unwrap_or_default();
        labels.remove(services::HEADLESS_LABEL);
        if services::is_headless(self.service) {
            labels.insert(services::HEADLESS_LABEL.to_owned(), String::new());
        }
        labels.insert(SERVICE_LABEL.to_owned(), name);
        labels.insert(MANAGER_LABEL.to_owned(), MANAGER.to_owned());
        metadata.labels = Some(labels);
        metadata.owner_references = Some(vec![claim::owner_reference(self.service)]);
        let (endpoints, ports) = ((!endpoints.is_empty()).then_some(endpoints), written(ports));
        EndpointSlice { address_type: self.family.to_owned(), endpoints, metadata, ports }
    }
}

/// Puts the wanted endpoints into slices that have the right ports; returns them, and the contents of slices that must be
/// made for what does not fit.
fn fill(existing: &[Arc<EndpointSlice>], mut wanted: Endpoints) -> (Vec<Draft>, Vec<Vec<Endpoint>>) {
    let mut drafts: Vec<Draft> = existing.iter().map(|slice| Draft::of(slice, &mut wanted)).collect();
    let mut rest: Vec<Endpoint> = wanted.into_values().collect();
    // Slices that are written anyway come first, and the fullest of them.
    let mut written: Vec<&mut Draft> = drafts.iter_mut().filter(|draft| draft.changed).collect();
    written.sort_by_key(|draft| draft.room());
    for draft in written {
        let fits = rest.len().min(draft.room());
        draft.endpoints.extend(rest.drain(..fits));
    }
    let mut new = Vec::new();
    while rest.len() >= CAPACITY {
        new.push(rest.drain(..CAPACITY).collect());
    }
    if !rest.is_empty() {
        let fitting = drafts.iter_mut().filter(|draft| !draft.changed && draft.room() >= rest.len());
        match fitting.min_by_key(|draft| draft.room()) {
            Some(draft) => draft.endpoints.append(&mut rest),
            None => new.push(rest),
        }
    }
    (drafts, new)
}

/// Whether nothing needs to be written.
fn same(before: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    before.metadata.labels == wanted.metadata.labels
        && before.metadata.owner_references == wanted.metadata.owner_references
        && before.endpoints.as_deref().unwrap_or_default() == wanted.endpoints.as_deref().unwrap_or_default()
        && comparable(before.ports.as_ref()) == comparable(wanted.ports.as_ref())
}
