//! What holds in every scenario, whatever it is about: no node has more than it can hold, and no pod changes its node.
//! Judged change by change on the stored bytes, with arithmetic of its own.

use std::collections::BTreeMap;

use serde_json::Value;

/// What one pod takes of its node, or what a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Room {
    milli_cpu: i128,
    memory: i128,
    pods: i128,
}

#[derive(Debug)]
struct Placed {
    uid: String,
    node: String,
    takes: Room,
}

/// The books.
#[derive(Debug, Default)]
pub(crate) struct Laws {
    /// Pods on nodes, by key.
    placed: BTreeMap<String, Placed>,
    taken: BTreeMap<String, Room>,
    allocatable: BTreeMap<String, Room>,
    broken: Option<String>,
}

impl Laws {
    /// Takes in one change.
    pub(crate) fn see(&mut self, key: &str, object: Option<&Value>) {
        if let Some(name) = key.strip_prefix("/registry/nodes/") {
            let room = object.map(|node| &node["status"]["allocatable"]).filter(|room| room.is_object());
            self.allocatable.remove(name);
            self.allocatable
                .extend(room.map(|room| (name.to_owned(), Room::of(room, amount(&room["pods"])))));
        } else if key.starts_with("/registry/pods/") {
            self.pod(key, object);
        }
    }

    /// The first law that was broken, in words.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    fn pod(&mut self, key: &str, pod: Option<&Value>) {
        let before = self.placed.remove(key);
        if let Some(before) = &before {
            let taken = self.taken.entry(before.node.clone()).or_default();
            *taken = taken.plus(before.takes, -1);
        }
        let Some(pod) = pod else { return };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (uid, node) = (text(&pod["metadata"]["uid"]), text(&pod["spec"]["nodeName"]));
        if let Some(before) = before.filter(|before| before.uid == uid && before.node != node) {
            self.tell(format!("{key} went from {} to {node:?}", before.node));
        }
        let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if node.is_empty() || ended {
            return;
        }
        let takes = takes(&pod["spec"]);
        let taken = self.taken.entry(node.clone()).or_default();
        *taken = taken.plus(takes, 1);
        let (taken, has) = (*taken, self.allocatable.get(&node).copied());
        if let Some(has) = has.filter(|has| !taken.fits(*has)) {
            self.tell(format!("{node} has {has:?} and its pods take {taken:?} with {key}"));
        }
        self.placed.insert(key.to_owned(), Placed { uid, node, takes });
    }

    fn tell(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }
}

impl Room {
    fn of(amounts: &Value, pods: i128) -> Self {
        Self { milli_cpu: amount(&amounts["cpu"]) / 1_000_000, memory: amount(&amounts["memory"]), pods }
            .whole()
    }

    /// Memory and pods in whole units.
    fn whole(self) -> Self {
        Self { memory: self.memory / NANO, pods: self.pods / NANO, ..self }
    }

    fn plus(self, other: Self, times: i128) -> Self {
        Self {
            milli_cpu: self.milli_cpu + times * other.milli_cpu,
            memory: self.memory + times * other.memory,
            pods: self.pods + times * other.pods,
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            milli_cpu: self.milli_cpu.max(other.milli_cpu),
            memory: self.memory.max(other.memory),
            pods: self.pods.max(other.pods),
        }
    }

    fn fits(self, has: Self) -> bool {
        self.milli_cpu <= has.milli_cpu && self.memory <= has.memory && self.pods <= has.pods
    }
}

/// The sum of the containers, or the largest init container if that is more.
fn takes(spec: &Value) -> Room {
    let of = |containers: &Value| -> Vec<Room> {
        let all = containers.as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().map(|container| Room::of(&container["resources"]["requests"], 0)).collect()
    };
    let sum = of(&spec["containers"]).into_iter().fold(Room::default(), |sum, one| sum.plus(one, 1));
    let most = of(&spec["initContainers"]).into_iter().fold(sum, Room::most);
    Room { pods: 1, ..most }
}

const NANO: i128 = 1_000_000_000;

/// A quantity in billionths: `500m`, `1.5`, `8Gi`, `100M`.
fn amount(value: &Value) -> i128 {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let split = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
    let unit = match &text[split..] {
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "k" => 1_000 * NANO,
        "M" => 1_000_000 * NANO,
        "G" => 1_000_000_000 * NANO,
        "Ki" => NANO << 10,
        "Mi" => NANO << 20,
        "Gi" => NANO << 30,
        _ => NANO,
    };
    let (whole, part) = text[..split].split_once('.').unwrap_or((&text[..split], ""));
    let digits: i128 = format!("{whole}{part}").parse().unwrap_or(0);
    let scale = 10_i128.pow(u32::try_from(part.len()).unwrap_or(0));
    digits * unit / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, node: &str, cpu: &str) -> Value {
        let requests = json!({"cpu": cpu, "memory": "1Gi"});
        json!({"metadata": {"uid": uid}, "spec": {"nodeName": node, "containers": [{"resources": {"requests": requests}}]}})
    }

    fn books() -> Laws {
        let mut laws = Laws::default();
        let room = json!({"cpu": "1.5", "memory": "8Gi", "pods": "2"});
        laws.see("/registry/nodes/n1", Some(&json!({"status": {"allocatable": room}})));
        laws
    }

    #[test]
    fn a_node_holds_what_it_can_and_no_more() {
        let mut laws = books();
        laws.see("/registry/pods/default/a", Some(&pod("a", "n1", "1")));
        laws.see("/registry/pods/default/b", Some(&pod("b", "n1", "500m")));
        assert_eq!(laws.broken(), None);
        laws.see("/registry/pods/default/a", None);
        laws.see("/registry/pods/default/c", Some(&pod("c", "n1", "1001m")));
        assert!(laws.broken().is_some_and(|what| what.contains("n1 has")), "{:?}", laws.broken());
    }

    #[test]
    fn a_pod_stays_where_it_is() {
        let mut laws = books();
        laws.see("/registry/pods/default/a", Some(&pod("a", "n1", "1")));
        laws.see("/registry/pods/default/a", Some(&pod("z", "n2", "1")));
        assert_eq!(laws.broken(), None, "another pod of that name may be elsewhere");
        laws.see("/registry/pods/default/a", Some(&pod("z", "n1", "1")));
        assert!(laws.broken().is_some());
    }

    #[test]
    fn too_many_pods_are_too_many() {
        let mut laws = books();
        for name in ["a", "b", "c"] {
            laws.see(&format!("/registry/pods/default/{name}"), Some(&pod(name, "n1", "1m")));
        }
        assert!(laws.broken().is_some());
    }
}
