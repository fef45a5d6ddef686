//! Affinity between pods and topology spread: cases by hand, and small random clusters against a reading of the
//! documentation that looks at every pod for every node.

use api_machinery::entropy::Entropy;
use scheduler::decide::{Decision, decide, refusals};
use serde_json::{Value, json};

use crate::{columns, demand, place};

/// The reasons of each node in order, `` for those that fit.
fn reasons(nodes: &[(&str, Value)], there: &[(&str, Value)], pod: &Value) -> Vec<String> {
    let mut columns = columns(nodes);
    for (namespace, team) in [("default", "a"), ("other", "b")] {
        let labels = [("team".to_owned(), team.to_owned())].into();
        columns.crowd_mut().set_namespace(namespace, Some(labels));
    }
    for (position, (on, over)) in there.iter().enumerate() {
        place(&mut columns, &format!("there-{position}"), on, over);
    }
    let demand = demand(pod);
    columns.learn(&demand);
    let refused = refusals(&columns, &demand);
    let fits = matches!(decide(&columns, &demand), Decision::Assign(_));
    assert_eq!(fits, refused.len() < nodes.len());
    let told = |slot: usize| {
        let found = refused.iter().find(|(refused, _)| *refused == slot);
        found.map_or_else(String::new, |(_, reject)| reject.reasons(&demand).join(", "))
    };
    (0..nodes.len()).map(told).collect()
}

fn zoned(zone: &str) -> Value {
    json!({"metadata": {"labels": {"zone": zone}}})
}

fn labelled(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}})
}

fn term(app: &str, topology: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": topology})
}

fn with(kind: &str, terms: Value, app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"affinity": {kind: {
        "requiredDuringSchedulingIgnoredDuringExecution": terms}}}})
}

const NEAR: &str = "node(s) didn't match pod affinity rules";
const APART: &str = "node(s) didn't match pod anti-affinity rules";
const OTHERS: &str = "node(s) didn't satisfy existing pods anti-affinity rules";
const SPREAD: &str = "node(s) didn't match pod topology spread constraints";
const LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

#[test]
fn pods_attract_and_repel() {
    let nodes = [("a", zoned("1")), ("b", zoned("1")), ("c", zoned("2")), ("d", json!({}))];
    let near = |app: &str, topology: &str| with("podAffinity", json!([term(app, topology)]), "new");
    let apart = |app: &str, topology: &str| with("podAntiAffinity", json!([term(app, topology)]), "new");
    let elsewhere = |selector: Value| {
        let mut term = term("db", "zone");
        term["namespaceSelector"] = selector;
        with("podAffinity", json!([term]), "new")
    };
    let mut other = labelled("db");
    other["metadata"]["namespace"] = "other".into();
    let shy = with("podAntiAffinity", json!([term("new", "zone")]), "db");
    let cases = [
        (vec![("a", labelled("db"))], near("db", "zone"), ["", "", NEAR, NEAR]),
        (vec![("a", labelled("db"))], near("db", "kubernetes.io/hostname"), ["", NEAR, NEAR, NEAR]),
        (vec![], near("db", "zone"), [NEAR, NEAR, NEAR, NEAR]),
        // The first of a kind that wants to be near to its own; the label is needed nevertheless.
        (vec![], near("new", "zone"), ["", "", "", NEAR]),
        (vec![("c", labelled("new"))], near("new", "zone"), [NEAR, NEAR, "", NEAR]),
        (vec![("a", labelled("db"))], apart("db", "zone"), [APART, APART, "", ""]),
        (vec![("d", labelled("db"))], apart("db", "zone"), ["", "", "", ""]),
        (vec![("a", shy)], labelled("new"), [OTHERS, OTHERS, "", ""]),
        // Pods of another namespace are others, unless they are meant.
        (vec![("a", other.clone())], near("db", "zone"), [NEAR, NEAR, NEAR, NEAR]),
        (vec![("a", other.clone())], elsewhere(json!({})), ["", "", NEAR, NEAR]),
        (vec![("a", other.clone())], elsewhere(json!({"matchLabels": {"team": "b"}})), ["", "", NEAR, NEAR]),
        (vec![("a", other)], elsewhere(json!({"matchLabels": {"team": "a"}})), [NEAR, NEAR, NEAR, NEAR]),
    ];
    for (there, pod, expected) in cases {
        assert_eq!(reasons(&nodes, &there, &pod), expected, "{there:?} {pod}");
    }
}

#[test]
fn terms_go_by_the_pods_own_labels() {
    let nodes = [("a", zoned("1")), ("c", zoned("2"))];
    let mut term = term("db", "zone");
    term["matchLabelKeys"] = json!(["version"]);
    let mut pod = with("podAntiAffinity", json!([term.clone()]), "db");
    pod["metadata"]["labels"]["version"] = "2".into();
    let mut there = labelled("db");
    there["metadata"]["labels"]["version"] = "1".into();
    assert_eq!(reasons(&nodes, &[("a", there.clone())], &pod), ["", ""]);
    term["mismatchLabelKeys"] = term["matchLabelKeys"].take();
    pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!([term]);
    assert_eq!(reasons(&nodes, &[("a", there)], &pod), [APART, ""]);
}

fn spread(more: Value) -> Value {
    let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "new"}}});
    for (field, value) in more.as_object().into_iter().flatten() {
        constraint[field] = value.clone();
    }
    json!({"metadata": {"labels": {"app": "new"}}, "spec": {"topologySpreadConstraints": [constraint]}})
}

#[test]
fn pods_are_spread() {
    let nodes = [("a", zoned("1")), ("b", zoned("1")), ("c", zoned("2")), ("d", json!({}))];
    let new = || labelled("new");
    let mut leaving = new();
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let cases = [
        (vec![("a", new())], spread(json!({})), [SPREAD, SPREAD, "", LABEL]),
        (vec![("a", new()), ("c", new())], spread(json!({})), ["", "", "", LABEL]),
        (vec![("a", new()), ("b", new())], spread(json!({"maxSkew": 3})), ["", "", "", LABEL]),
        (vec![("a", leaving)], spread(json!({})), ["", "", "", LABEL]),
        (vec![("a", labelled("db"))], spread(json!({})), ["", "", "", LABEL]),
        // Two domains are fewer than three: one that is not there counts as empty.
        (vec![("a", new()), ("c", new())], spread(json!({"minDomains": 3})), [SPREAD, SPREAD, SPREAD, LABEL]),
    ];
    for (there, pod, expected) in cases {
        assert_eq!(reasons(&nodes, &there, &pod), expected, "{there:?} {pod}");
    }
}

#[test]
fn which_nodes_count_for_spreading() {
    let tainted = |zone: &str| json!({"metadata": {"labels": {"zone": zone}}, "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let taint = "node(s) had untolerated taint(s)";
    let nodes = [("a", zoned("1")), ("c", zoned("2")), ("e", tainted("3"))];
    let there = [("a", labelled("new")), ("c", labelled("new"))];
    assert_eq!(
        reasons(&nodes, &there, &spread(json!({}))),
        [SPREAD, SPREAD, taint],
        "the third zone is empty"
    );
    assert_eq!(reasons(&nodes, &there, &spread(json!({"nodeTaintsPolicy": "Honor"}))), ["", "", taint]);
    let selector = "node(s) didn't match Pod's node affinity/selector";
    let mut chosen = spread(json!({}));
    chosen["spec"]["nodeSelector"] = json!({"zone": "1"});
    assert_eq!(reasons(&nodes[..2], &there[..1], &chosen), ["", selector], "only what it may use counts");
    chosen["spec"]["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = "Ignore".into();
    assert_eq!(reasons(&nodes[..2], &there[..1], &chosen), [SPREAD, selector]);
}

/// One pod of a random cluster.
#[derive(Debug)]
struct Random {
    node: usize,
    app: &'static str,
    near: Option<(&'static str, &'static str)>,
    apart: Option<(&'static str, &'static str)>,
    spread: Option<(&'static str, i64)>,
}

const APPS: [&str; 3] = ["x", "y", "z"];
const TOPOLOGIES: [&str; 2] = ["zone", "kubernetes.io/hostname"];

impl Random {
    fn new(chance: &Entropy, nodes: usize) -> Random {
        let below = |bound: usize| usize::try_from(chance.below(bound as u64)).expect("small");
        let term = || (below(3) == 0).then(|| (APPS[below(3)], TOPOLOGIES[below(2)]));
        Random {
            node: below(nodes),
            app: APPS[below(3)],
            near: term(),
            apart: term(),
            spread: (below(2) == 0).then(|| (TOPOLOGIES[below(2)], 1 + below(2) as i64)),
        }
    }

    fn manifest(&self) -> Value {
        let mut pod = labelled(self.app);
        let required = |(app, topology): (&str, &str)| json!({"requiredDuringSchedulingIgnoredDuringExecution": [term(app, topology)]});
        pod["spec"]["affinity"] =
            json!({"podAffinity": self.near.map(required), "podAntiAffinity": self.apart.map(required)});
        if let Some((topology, skew)) = self.spread {
            pod["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": skew, "topologyKey": topology,
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": self.app}}}]);
        }
        pod
    }
}

/// What the documentation says of a node, pod by pod.
fn read(nodes: &[Option<usize>], there: &[Random], new: &Random, node: usize) -> &'static str {
    let domain = |topology: &str, node: usize| match topology {
        "zone" => nodes[node],
        _ => Some(node),
    };
    let near_to = |other: &Random, topology: &str| {
        domain(topology, node).is_some() && domain(topology, other.node) == domain(topology, node)
    };
    if let Some((topology, skew)) = new.spread {
        let Some(own) = domain(topology, node) else { return LABEL };
        let pods = |wanted: usize| {
            let inside = there.iter().filter(|pod| domain(topology, pod.node) == Some(wanted));
            inside.filter(|pod| pod.app == new.app).count() as i64
        };
        let domains = (0..nodes.len()).filter_map(|node| domain(topology, node));
        if pods(own) + 1 - domains.map(pods).min().expect("one") > skew {
            return SPREAD;
        }
    }
    if let Some((app, topology)) = new.near {
        let somewhere = there.iter().any(|pod| pod.app == app && domain(topology, pod.node).is_some());
        let here = there.iter().any(|pod| pod.app == app && near_to(pod, topology));
        let first = !somewhere && app == new.app && domain(topology, node).is_some();
        if !here && !first {
            return NEAR;
        }
    }
    if new
        .apart
        .is_some_and(|(app, topology)| there.iter().any(|pod| pod.app == app && near_to(pod, topology)))
    {
        return APART;
    }
    let repelled =
        |pod: &Random| pod.apart.is_some_and(|(app, topology)| app == new.app && near_to(pod, topology));
    if there.iter().any(repelled) { OTHERS } else { "" }
}

#[test]
fn random_clusters_are_read_alike() {
    const NAMES: [&str; 6] = ["n0", "n1", "n2", "n3", "n4", "n5"];
    let mut told = std::collections::BTreeMap::<String, usize>::new();
    for seed in 0..2000 {
        let chance = Entropy::seeded(seed);
        let below = |bound: usize| usize::try_from(chance.below(bound as u64)).expect("small");
        let nodes: Vec<Option<usize>> =
            (0..2 + below(4)).map(|_| Some(below(4)).filter(|zone| *zone < 3)).collect();
        let there: Vec<Random> = (0..below(7)).map(|_| Random::new(&chance, nodes.len())).collect();
        let new = Random::new(&chance, nodes.len());
        let expected: Vec<&str> = (0..nodes.len()).map(|node| read(&nodes, &there, &new, node)).collect();
        let manifests: Vec<(&str, Value)> = nodes
            .iter()
            .zip(NAMES)
            .map(|(zone, name)| (name, zone.map_or(json!({}), |zone| zoned(&zone.to_string()))))
            .collect();
        let pods: Vec<(&str, Value)> = there.iter().map(|pod| (NAMES[pod.node], pod.manifest())).collect();
        let found = reasons(&manifests, &pods, &new.manifest());
        assert_eq!(found, expected, "seed {seed}: {nodes:?} {there:?} {new:?}");
        found.into_iter().for_each(|reason| *told.entry(reason).or_default() += 1);
    }
    assert!(told.values().all(|times| *times > 100) && told.len() == 6, "everything occurs: {told:?}");
}
