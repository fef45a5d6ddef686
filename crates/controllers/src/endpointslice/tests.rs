//! Which slices a Service gets, as tables, and that nothing is written without need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api_machinery::entropy::Entropy;
use api_machinery::patch::merge;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::plan::{self, CAPACITY, Plan};

fn service(changes: Value) -> Service {
    let service = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"team": "a"}},
        "spec": {
            "selector": {"app": "web"}, "clusterIP": "10.43.0.9", "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    });
    serde_json::from_value(merge::apply(&service, &changes)).expect("a Service")
}

fn pod(name: &str, address: &str, changes: Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [
            {"name": "c", "ports": [{"name": "web", "containerPort": 9090, "protocol": "TCP"}]}
        ]},
        "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    Arc::new(serde_json::from_value(merge::apply(&pod, &changes)).expect("a pod"))
}

fn many(range: std::ops::Range<u8>) -> Vec<Arc<Pod>> {
    range.map(|number| pod(&format!("p{number:03}"), &format!("10.42.0.{number}"), json!({}))).collect()
}

/// The API: plans are carried out here.
#[derive(Default)]
struct Store {
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    made: u32,
}

impl Store {
    fn plan(&self, service: &Service, pods: &[Arc<Pod>]) -> Plan {
        let slices: Vec<_> = self.slices.values().cloned().collect();
        let zone_of = |node: &str| match node {
            "n1" => Some(Some("east".to_owned())),
            "n2" => Some(None),
            _ => None,
        };
        let pods = crate::services::pods_of(service, pods);
        plan::plan(service, &pods, &slices, &zone_of)
    }

    /// Carries a plan out; returns how many slices were made, changed and removed.
    fn follow(&mut self, service: &Service, pods: &[Arc<Pod>]) -> (usize, usize, usize) {
        let plan = self.plan(service, pods);
        let counts = (plan.create.len(), plan.update.len(), plan.delete.len());
        for mut slice in plan.create {
            self.made += 1;
            let name =
                format!("{}{:03}", slice.metadata.generate_name.as_deref().unwrap_or_default(), self.made);
            slice.metadata.uid = Some(name.clone());
            slice.metadata.name = Some(name.clone());
            self.slices.insert(name, Arc::new(slice));
        }
        for slice in plan.update {
            self.slices.insert(slice.metadata.name.clone().expect("named"), Arc::new(slice));
        }
        for slice in plan.delete {
            self.slices.remove(slice.metadata.name.as_deref().expect("named"));
        }
        let again = self.plan(service, pods);
        assert_eq!(again, Plan::default(), "a plan that was carried out leaves nothing to do");
        counts
    }

    fn names(&self) -> Vec<String> {
        let endpoints = self.slices.values().flat_map(|slice| slice.endpoints.iter().flatten());
        let mut names: Vec<_> = endpoints
            .filter_map(|endpoint| endpoint.target_ref.as_ref().and_then(|target| target.name.clone()))
            .collect();
        names.sort();
        names
    }

    fn only(&self) -> Value {
        assert_eq!(self.slices.len(), 1);
        serde_json::to_value(&**self.slices.values().next().expect("one")).expect("JSON")
    }
}

#[test]
fn a_slice_says_all_about_its_pods() {
    let mut store = Store::default();
    assert_eq!(store.follow(&service(json!({})), &[pod("a", "10.42.0.1", json!({}))]), (1, 0, 0));
    let slice = store.only();
    let labels = json!({
        "team": "a", "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
    });
    assert_eq!(slice["metadata"]["labels"], labels);
    assert_eq!(slice["metadata"]["generateName"], "web-");
    let owner = json!({
        "apiVersion": "v1", "kind": "Service", "name": "web", "uid": "s", "controller": true,
        "blockOwnerDeletion": true,
    });
    assert_eq!(slice["metadata"]["ownerReferences"], json!([owner]));
    assert_eq!(slice["addressType"], "IPv4");
    assert_eq!(slice["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    let endpoint = json!({
        "addresses": ["10.42.0.1"],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": "n1", "zone": "east",
        "targetRef": {"kind": "Pod", "namespace": "n", "name": "a", "uid": "a"},
    });
    assert_eq!(slice["endpoints"], json!([endpoint]));
}

#[test]
fn conditions_follow_the_pod() {
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let ending = json!({"metadata": {"deletionTimestamp": "2026-03-01T12:00:00Z"}});
    let table = [
        // pod, publishNotReadyAddresses, ready, serving, terminating
        (json!({}), false, true, true, false),
        (unready.clone(), false, false, false, false),
        (unready, true, true, false, false),
        (ending.clone(), false, false, true, true),
        (ending, true, true, true, true),
    ];
    for (changes, anyhow, ready, serving, terminating) in table {
        let service = service(json!({"spec": {"publishNotReadyAddresses": anyhow}}));
        let mut store = Store::default();
        store.follow(&service, &[pod("a", "10.42.0.1", changes.clone())]);
        let expected = json!({"ready": ready, "serving": serving, "terminating": terminating});
        assert_eq!(store.only()["endpoints"][0]["conditions"], expected, "{changes} {anyhow}");
    }
}

#[test]
fn who_is_an_endpoint_at_all() {
    let table = [
        ("running", json!({}), true),
        ("other labels", json!({"metadata": {"labels": {"app": "db"}}}), false),
        ("without an address", json!({"status": {"podIP": null, "podIPs": null}}), false),
        ("ended", json!({"status": {"phase": "Succeeded"}}), false),
        ("on a node without a zone", json!({"spec": {"nodeName": "n2"}}), true),
        ("on a node that is unknown", json!({"spec": {"nodeName": "n3"}}), false),
        ("of another family", json!({"status": {"podIP": "fd00::1", "podIPs": [{"ip": "fd00::1"}]}}), false),
    ];
    for (why, changes, expected) in table {
        let mut store = Store::default();
        store.follow(&service(json!({})), &[pod("a", "10.42.0.1", changes)]);
        assert_eq!(store.names().len() == 1, expected, "{why}");
        assert_eq!(
            store.slices.len(),
            1,
            "{why}: there is always a slice, if only to say that there is nothing"
        );
    }
}

#[test]
fn ports_may_be_named_and_pods_may_disagree() {
    let by_name = |protocol: &str| json!({"spec": {"ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": protocol}]}});
    let other =
        json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 7070}]}]}});
    let pods = [pod("a", "10.42.0.1", json!({})), pod("b", "10.42.0.2", other)];
    let mut store = Store::default();
    assert_eq!(store.follow(&service(by_name("TCP")), &pods), (2, 0, 0));
    let ports: BTreeSet<_> =
        store.slices.values().map(|slice| slice.ports.as_ref().expect("ports")[0].port).collect();
    assert_eq!(ports, BTreeSet::from([Some(7070), Some(9090)]));
    // No pod has a UDP port of that name: one slice without ports holds both.
    store.follow(&service(by_name("UDP")), &pods);
    assert_eq!((store.slices.len(), store.names().len()), (1, 2));
    assert_eq!(store.only()["ports"], Value::Null);
}

#[test]
fn headless_services_name_their_pods() {
    let headless = service(json!({"spec": {"clusterIP": "None", "ports": null}}));
    let named = json!({"spec": {"hostname": "db-0", "subdomain": "web"}});
    let elsewhere = json!({"spec": {"hostname": "db-1", "subdomain": "other"}});
    let mut store = Store::default();
    store.follow(&headless, &[pod("a", "10.42.0.1", named), pod("b", "10.42.0.2", elsewhere)]);
    let slice = store.only();
    assert_eq!(slice["metadata"]["labels"]["service.kubernetes.io/headless"], "");
    assert_eq!(slice["endpoints"][0]["hostname"], "db-0");
    assert_eq!(slice["endpoints"][1]["hostname"], Value::Null);
}

#[test]
fn a_service_of_two_families_has_slices_of_both() {
    let dual = service(json!({"spec": {"ipFamilies": ["IPv4", "IPv6"]}}));
    let both = json!({"status": {"podIPs": [{"ip": "10.42.0.1"}, {"ip": "fd00::1"}]}});
    let mut store = Store::default();
    store.follow(&dual, &[pod("a", "10.42.0.1", both.clone())]);
    let families: BTreeSet<_> = store.slices.values().map(|slice| slice.address_type.clone()).collect();
    assert_eq!(families, BTreeSet::from(["IPv4".to_owned(), "IPv6".to_owned()]));
    assert_eq!(store.follow(&service(json!({})), &[pod("a", "10.42.0.1", both)]), (0, 0, 1));
}

#[test]
fn changes_are_as_few_as_can_be() {
    let service = service(json!({}));
    let mut store = Store::default();
    assert_eq!(store.follow(&service, &[]), (1, 0, 0), "nothing yet");
    assert_eq!(store.follow(&service, &many(0..3)), (0, 1, 0), "the empty slice is used");
    assert_eq!(store.follow(&service, &many(0..CAPACITY as u8)), (0, 1, 0), "up to a full one");
    assert_eq!(store.follow(&service, &many(0..150)), (1, 0, 0), "the full one stays");
    assert_eq!(store.follow(&service, &many(0..250)), (1, 0, 0), "a whole slice at once");
    assert_eq!(store.follow(&service, &many(0..255)), (0, 1, 0), "what fits goes where there is room");
    assert_eq!(store.follow(&service, &many(1..255)), (0, 1, 0), "one pod less, one write");
    assert_eq!(store.follow(&service, &many(0..255)), (0, 1, 0));
    assert_eq!(store.follow(&service, &[]), (0, 1, 2), "one empty slice stays");
}

#[test]
fn labels_of_the_service_are_followed() {
    let mut store = Store::default();
    let pods = many(0..2);
    store.follow(&service(json!({})), &pods);
    let reserved = json!({"team": "b", "kubernetes.io/service-name": "evil"});
    assert_eq!(store.follow(&service(json!({"metadata": {"labels": reserved}})), &pods), (0, 1, 0));
    let labels = &store.only()["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels["kubernetes.io/service-name"]), (&json!("b"), &json!("web")));
}

/// Pods come, go and change at random: every pod is in one slice, no slice is too full, and a plan that was carried out
/// leaves nothing to do.
#[test]
fn every_pod_is_in_one_slice() {
    let entropy = Entropy::seeded(11);
    let service = service(json!({"spec": {"ports": [{"name": "http", "port": 80, "targetPort": "web"}]}}));
    let mut store = Store::default();
    let mut present: BTreeSet<u8> = BTreeSet::new();
    for _ in 0..60 {
        for _ in 0..entropy.below(90) {
            let number = entropy.below(250) as u8;
            if entropy.below(3) > 0 {
                present.insert(number);
            } else {
                present.remove(&number);
            }
        }
        let port = 8000 + entropy.below(2);
        let changes = |number: u8| match number % 3 {
            0 => {
                json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": port}]}]}})
            }
            1 => json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}),
            _ => json!({}),
        };
        let name = |number: &u8| format!("p{number:03}");
        let pods: Vec<_> =
            present.iter().map(|n| pod(&name(n), &format!("10.42.0.{n}"), changes(*n))).collect();
        store.follow(&service, &pods);
        assert_eq!(store.names(), present.iter().map(name).collect::<Vec<_>>());
        assert!(store.slices.values().all(|slice| slice.endpoints.as_ref().map_or(0, Vec::len) <= CAPACITY));
        assert!(
            store.slices.len() <= 2 + present.len() / 20,
            "{} slices for {}",
            store.slices.len(),
            present.len()
        );
    }
}
