//! What a node's status says. Pure: the machine's facts are passed in.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cri::messages::RuntimeStatus;
use host::system::Machine;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::{Facts, cloud};
use crate::config::Config;
use crate::podspec::NodeResources;

/// Memory that is kept from pods, and below which the node is short of it.
const MEMORY_RESERVE: u64 = 100 << 20;
/// Below one part in this many left of what may be used of its disk, the node is short of it.
const DISK_RESERVE: u64 = 20;
/// Images that a status lists; the largest ones.
const IMAGES: usize = 50;
/// Names of one image that are listed.
const IMAGE_NAMES: usize = 5;

/// What pods may use of the machine.
pub(crate) fn resources(machine: &Machine, disk_total: u64) -> NodeResources {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    NodeResources {
        cpu_millis: signed(machine.cpus as u64 * 1000),
        memory: signed(machine.memory.saturating_sub(MEMORY_RESERVE)),
        memory_capacity: signed(machine.memory),
        ephemeral_storage: signed(disk_total - disk_total / DISK_RESERVE),
    }
}

/// The labels that every node has, and the configured ones.
pub(super) fn labels(config: &Config, machine: &Machine) -> BTreeMap<String, String> {
    let mut labels = config.labels.clone();
    let usual = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", &machine.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", &machine.architecture),
    ];
    labels.extend(usual.map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels
}

/// The whole status.
pub(super) fn node_status(
    config: &Config,
    addresses: &[IpAddr],
    port: Option<u16>,
    facts: &Facts,
    old: &NodeStatus,
    now: Timestamp,
) -> NodeStatus {
    let (capacity, allocatable) = room(config, facts);
    NodeStatus {
        addresses: cloud::addresses(config, addresses, old),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions(facts, old, now)),
        daemon_endpoints: port.map(|port| NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(port) }),
        }),
        images: Some(images(facts)),
        node_info: Some(node_info(config, facts, old)),
        ..NodeStatus::default()
    }
}

type Amounts = BTreeMap<String, Quantity>;

fn room(config: &Config, facts: &Facts) -> (Amounts, Amounts) {
    let kibi = |bytes: u64| format!("{}Ki", bytes / 1024);
    let disk = facts.disk.total;
    let pods = config.max_pods.to_string();
    let cpus = facts.machine.cpus.to_string();
    let amounts = |memory: String, disk: String| {
        let list =
            [("cpu", cpus.clone()), ("memory", memory), ("ephemeral-storage", disk), ("pods", pods.clone())];
        list.into_iter().map(|(name, amount)| (name.to_owned(), Quantity(amount))).collect::<Amounts>()
    };
    let usable = resources(&facts.machine, disk);
    let capacity = amounts(kibi(facts.machine.memory), kibi(disk));
    let memory = facts.machine.memory.saturating_sub(MEMORY_RESERVE);
    (capacity, amounts(kibi(memory), usable.ephemeral_storage.to_string()))
}

fn node_info(config: &Config, facts: &Facts, old: &NodeStatus) -> NodeSystemInfo {
    let machine = &facts.machine;
    let known = old.node_info.as_ref().map(|info| info.container_runtime_version.clone());
    let runtime = match &facts.runtime {
        Ok((version, _)) => format!("{}://{}", version.runtime_name, version.runtime_version),
        Err(_) => {
            known.filter(|known| !known.is_empty()).unwrap_or_else(|| "containerd://Unknown".to_owned())
        }
    };
    NodeSystemInfo {
        architecture: machine.architecture.clone(),
        boot_id: machine.boot_id.clone(),
        container_runtime_version: runtime,
        kernel_version: machine.kernel.clone(),
        // Deprecated and without meaning here, but required: empty, as upstream has it.
        kube_proxy_version: String::new(),
        kubelet_version: config.version.clone(),
        machine_id: machine.machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: machine.os_image.clone(),
        system_uuid: machine.system_uuid.clone(),
        ..NodeSystemInfo::default()
    }
}

fn images(facts: &Facts) -> Vec<ContainerImage> {
    let mut images: Vec<_> = facts.images.iter().collect();
    images.sort_by(|a, b| (b.size, &a.id).cmp(&(a.size, &b.id)));
    images.truncate(IMAGES);
    let listed = images.into_iter().map(|image| ContainerImage {
        names: Some(image.repo_digests.iter().chain(&image.repo_tags).take(IMAGE_NAMES).cloned().collect()),
        size_bytes: i64::try_from(image.size).ok(),
    });
    listed.collect()
}

struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

fn conditions(facts: &Facts, old: &NodeStatus, now: Timestamp) -> Vec<NodeCondition> {
    let pressure = |kind, short: bool, yes: (&'static str, &str), no: (&'static str, &str)| {
        let (reason, message) = if short { yes } else { no };
        Verdict { kind, holds: short, reason, message: message.to_owned() }
    };
    let (used, most) = facts.processes;
    let disk = &facts.disk;
    // What is reserved is never available: counted in, it would make a disk short that is nearly empty.
    let usable = disk.total.saturating_sub(disk.reserved);
    let verdicts = [
        pressure(
            "MemoryPressure",
            facts.memory_available < MEMORY_RESERVE,
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        pressure(
            "DiskPressure",
            disk.available < usable / DISK_RESERVE || disk.inodes_free < disk.inodes / DISK_RESERVE,
            ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        pressure(
            "PIDPressure",
            most.saturating_sub(used) < most / DISK_RESERVE,
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        ready(facts),
    ];
    let old = old.conditions.as_deref().unwrap_or_default();
    verdicts.into_iter().map(|verdict| condition(verdict, old, now)).collect()
}

fn ready(facts: &Facts) -> Verdict {
    let no = |message: String| Verdict { kind: "Ready", holds: false, reason: "KubeletNotReady", message };
    match &facts.runtime {
        Err(words) => no(format!("container runtime is down: {words}")),
        Ok((_, status)) => match trouble(status) {
            Some(message) => no(message),
            None => Verdict {
                kind: "Ready",
                holds: true,
                reason: "KubeletReady",
                message: "kubelet is posting ready status".to_owned(),
            },
        },
    }
}

/// What the runtime says is wrong with it.
fn trouble(status: &RuntimeStatus) -> Option<String> {
    let failed = |kind: &str| {
        let found = status.conditions.iter().find(|condition| condition.r#type == kind);
        match found {
            Some(found) if found.status => None,
            Some(found) => Some(format!("{kind}=false reason:{} message:{}", found.reason, found.message)),
            None => Some(format!("missing {kind} condition")),
        }
    };
    let runtime = failed("RuntimeReady").map(|words| format!("container runtime not ready: {words}"));
    runtime.or_else(|| {
        failed("NetworkReady").map(|words| format!("container runtime network not ready: {words}"))
    })
}

fn condition(verdict: Verdict, old: &[NodeCondition], now: Timestamp) -> NodeCondition {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let status = if verdict.holds { "True" } else { "False" };
    let before = old.iter().find(|condition| condition.type_ == verdict.kind && condition.status == status);
    NodeCondition {
        type_: verdict.kind.to_owned(),
        status: status.to_owned(),
        reason: Some(verdict.reason.to_owned()),
        message: Some(verdict.message),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: before
            .and_then(|before| before.last_transition_time.clone())
            .or(Some(Time(now))),
    }
}

/// Whether the status calls the node ready.
pub(super) fn is_ready(status: &NodeStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Reasons of the events that say which of the kubelet's conditions began or ended between two states of a node.
pub(super) fn turns(before: &NodeStatus, after: &NodeStatus) -> Vec<String> {
    let holds = |status: &NodeStatus, kind: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|condition| condition.type_ == kind && condition.status == "True")
    };
    let turned = after
        .conditions
        .iter()
        .flatten()
        .filter(|condition| holds(before, &condition.type_) != holds(after, &condition.type_));
    let reasons = turned.filter_map(|condition| condition.reason.as_deref()?.strip_prefix("Kubelet"));
    reasons.map(|reason| format!("Node{reason}")).collect()
}

/// Whether the API does not show the wanted status; heartbeats do not count.
pub(super) fn differs(shown: Option<&NodeStatus>, wanted: &NodeStatus) -> bool {
    let Some(shown) = shown else { return true };
    let settled =
        |condition: &NodeCondition| NodeCondition { last_heartbeat_time: None, ..condition.clone() };
    let conditions_differ = wanted.conditions.iter().flatten().any(|wanted| {
        let mut all = shown.conditions.iter().flatten();
        all.find(|condition| condition.type_ == wanted.type_).map(settled) != Some(settled(wanted))
    });
    let rest = |status: &NodeStatus| {
        let amounts = |list: &Option<Amounts>| list.clone().unwrap_or_default();
        let runtime = status.node_info.clone();
        let images = status.images.clone().unwrap_or_default();
        // None that are wanted are the cloud's to say.
        let addresses = wanted.addresses.as_ref().and(status.addresses.clone()).unwrap_or_default();
        (
            amounts(&status.capacity),
            amounts(&status.allocatable),
            runtime,
            images,
            addresses,
            status.daemon_endpoints.clone(),
        )
    };
    conditions_differ || rest(shown) != rest(wanted)
}

/// The strategic merge patch that brings the status about, other writers' conditions aside.
pub(super) fn patch(wanted: &NodeStatus) -> Value {
    let mut status = serde_json::to_value(wanted).unwrap_or_default();
    // Addresses are merged by their kind, of which there may be two: replace the list.
    if let Some(addresses) = status.get_mut("addresses").and_then(Value::as_array_mut) {
        addresses.push(json!({"$patch": "replace"}));
    }
    json!({"status": status})
}

#[cfg(test)]
mod tests {
    use cri::messages::{RuntimeCondition, VersionResponse};
    use host::system::Disk;

    use super::*;

    fn facts() -> Facts {
        let condition =
            |kind: &str| RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() };
        let status = RuntimeStatus { conditions: vec![condition("RuntimeReady"), condition("NetworkReady")] };
        let version = VersionResponse {
            runtime_name: "containerd".into(),
            runtime_version: "1.6".into(),
            ..Default::default()
        };
        let machine =
            Machine { cpus: 2, memory: 4 << 30, architecture: "amd64".into(), ..Machine::default() };
        let disk =
            Disk { total: 100 << 30, available: 50 << 30, reserved: 0, inodes: 1000, inodes_free: 900 };
        Facts {
            machine,
            disk,
            memory_available: 2 << 30,
            processes: (100, 32768),
            runtime: Ok((version, status)),
            images: Vec::new(),
        }
    }

    fn status(facts: &Facts, old: &NodeStatus, second: i64) -> NodeStatus {
        let config = Config::new("n", "/d");
        let now = Timestamp::from_second(second).expect("a time");
        node_status(&config, &["192.0.2.1".parse().expect("an address")], Some(10250), facts, old, now)
    }

    fn condition(status: &NodeStatus, kind: &str) -> (String, String, String, i64) {
        let found = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind)
            .expect("it is there");
        let since = found.last_transition_time.as_ref().expect("a time").0.as_second();
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        (found.status.clone(), text(&found.reason), text(&found.message), since)
    }

    #[test]
    fn each_trouble_is_told_in_its_condition() {
        type Break = fn(&mut Facts);
        let cases: [(&str, &str, &str, Break); 6] = [
            ("Ready", "False", "container runtime is down: gone", |facts| facts.runtime = Err("gone".into())),
            (
                "Ready",
                "False",
                "container runtime network not ready: NetworkReady=false reason:R message:M",
                |facts| {
                    let (_, status) = facts.runtime.as_mut().expect("it runs");
                    status.conditions[1] = RuntimeCondition {
                        r#type: "NetworkReady".into(),
                        status: false,
                        reason: "R".into(),
                        message: "M".into(),
                    };
                },
            ),
            ("MemoryPressure", "True", "kubelet has insufficient memory available", |facts| {
                facts.memory_available = 1
            }),
            ("DiskPressure", "True", "kubelet has disk pressure", |facts| facts.disk.available = 1),
            ("DiskPressure", "True", "kubelet has disk pressure", |facts| facts.disk.inodes_free = 1),
            ("PIDPressure", "True", "kubelet has insufficient PID available", |facts| {
                facts.processes.0 = 32000
            }),
        ];
        let good = status(&facts(), &NodeStatus::default(), 1);
        assert!(is_ready(&good));
        for (kind, value, message, damage) in cases {
            let mut broken = facts();
            damage(&mut broken);
            let bad = status(&broken, &good, 2);
            let (found, _, words, since) = condition(&bad, kind);
            assert_eq!((found.as_str(), words.as_str(), since), (value, message, 2), "{kind}");
            assert!(differs(Some(&good), &bad));
            let same = status(&broken, &bad, 3);
            assert_eq!(condition(&same, kind).3, 2, "nothing changed since");
            assert!(!differs(Some(&bad), &same), "a heartbeat is no change");
        }
    }

    #[test]
    fn what_is_reserved_of_a_disk_makes_it_no_shorter() {
        // Nine tenths are reserved, and most of the rest is used or not.
        for (available, short) in [(1, "False"), (0, "True")] {
            let mut facts = facts();
            facts.disk =
                Disk { total: 100 << 30, reserved: 90 << 30, available: available << 30, ..facts.disk };
            let status = status(&facts, &NodeStatus::default(), 1);
            assert_eq!(condition(&status, "DiskPressure").0, short, "{available} GiB left of 10");
        }
    }

    #[test]
    fn events_tell_which_conditions_began_and_ended() {
        let good = status(&facts(), &NodeStatus::default(), 1);
        let mut broken = facts();
        broken.disk.available = 1;
        broken.runtime = Err("gone".into());
        let bad = status(&broken, &good, 2);
        assert_eq!(turns(&NodeStatus::default(), &good), ["NodeReady"]);
        assert_eq!(turns(&good, &bad), ["NodeHasDiskPressure", "NodeNotReady"]);
        assert_eq!(turns(&bad, &good), ["NodeHasNoDiskPressure", "NodeReady"]);
        assert!(turns(&good, &good).is_empty());
    }

    #[test]
    fn pods_get_what_is_not_reserved() {
        let status = status(&facts(), &NodeStatus::default(), 1);
        let amount = |list: &Option<Amounts>, name: &str| list.as_ref().expect("amounts")[name].0.clone();
        assert_eq!(amount(&status.capacity, "memory"), "4194304Ki");
        assert_eq!(amount(&status.allocatable, "memory"), "4091904Ki");
        assert_eq!(amount(&status.allocatable, "cpu"), "2");
        assert_eq!(amount(&status.allocatable, "pods"), "110");
        assert_eq!(
            status.daemon_endpoints.and_then(|all| all.kubelet_endpoint).map(|found| found.port),
            Some(10250)
        );
    }
}
