//! The columns of pods, and the word that sums up a pod's state.

use api_machinery::clock;
use api_machinery::resource::{Cell, Column};
use jiff::Timestamp;
use serde_json::Value;

use crate::entry::{columns, computed};
use crate::fill::{get, text};
use crate::print::{NONE, number, or_none, since};

pub(crate) fn table() -> Vec<Column> {
    columns(&[
        ("Ready", "string", 0, computed(|pod, now| Summary::of(pod, now).ready())),
        ("Status", "string", 0, computed(|pod, now| Value::from(Summary::of(pod, now).reason))),
        ("Restarts", "string", 0, computed(|pod, now| Summary::of(pod, now).restarts(now))),
        ("Age", "string", 0, Cell::Age),
        ("IP", "string", 1, computed(ip)),
        ("Node", "string", 1, computed(|pod, _| or_none(text(&pod["spec"], "nodeName")))),
        (
            "Nominated Node",
            "string",
            1,
            computed(|pod, _| or_none(text(&pod["status"], "nominatedNodeName"))),
        ),
        ("Readiness Gates", "string", 1, computed(readiness_gates)),
    ])
}

fn ip(pod: &Value, _: Timestamp) -> Value {
    let status = &pod["status"];
    or_none(text(&status["podIPs"][0], "ip"))
}

fn readiness_gates(pod: &Value, _: Timestamp) -> Value {
    let gates = pod["spec"]["readinessGates"].as_array().map(Vec::as_slice).unwrap_or(&[]);
    if gates.is_empty() {
        return Value::from(NONE);
    }
    let met = gates.iter().filter(|gate| condition(pod, text(gate, "conditionType")).is_some_and(is_true));
    Value::from(format!("{}/{}", met.count(), gates.len()))
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    pod["status"]["conditions"].as_array().into_iter().flatten().find(|c| text(c, "type") == kind)
}

fn is_true(condition: &Value) -> bool {
    text(condition, "status") == "True"
}

/// What a line about a pod says.
#[derive(Default)]
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value, _: Timestamp) -> Summary {
        let spec = &pod["spec"];
        let mut summary =
            Summary { reason: phase(pod), total: list(spec, "containers").len(), ..Summary::default() };
        let mut sidecars = Restarts::default();
        let initializing = summary.init_containers(pod, &mut sidecars);
        if !initializing || condition(pod, "Initialized").is_some_and(is_true) {
            summary.containers(pod, sidecars);
        }
        if get(&pod["metadata"], "deletionTimestamp").is_some() {
            summary.deleting(pod);
        }
        summary
    }

    /// Counts what init containers say; true while some have not finished.
    fn init_containers(&mut self, pod: &Value, sidecars: &mut Restarts) -> bool {
        let declared = list(&pod["spec"], "initContainers");
        let is_sidecar = |name: &str| {
            declared.iter().any(|c| text(c, "name") == name && text(c, "restartPolicy") == "Always")
        };
        self.total += declared.iter().filter(|c| text(c, "restartPolicy") == "Always").count();
        let mut total = Restarts::default();
        let mut initializing = false;
        for (index, container) in list(&pod["status"], "initContainerStatuses").iter().enumerate() {
            total.add(container);
            let sidecar = is_sidecar(text(container, "name"));
            if sidecar {
                sidecars.add(container);
            }
            let state = &container["state"];
            let terminated = get(state, "terminated");
            if terminated.is_some_and(|t| number(&t["exitCode"]) == 0) {
                continue;
            }
            if sidecar && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            let waiting = get(state, "waiting").map(|w| text(w, "reason")).unwrap_or("");
            self.reason = match terminated {
                Some(ended) => format!("Init:{}", ended_reason(ended)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{index}/{}", declared.len()),
            };
            initializing = true;
            break;
        }
        self.count(total);
        initializing
    }

    fn containers(&mut self, pod: &Value, sidecars: Restarts) {
        let mut total = sidecars;
        let mut running = false;
        for container in list(&pod["status"], "containerStatuses").iter().rev() {
            total.add(container);
            let state = &container["state"];
            let waiting = get(state, "waiting").map(|w| text(w, "reason")).unwrap_or("");
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(ended) = get(state, "terminated") {
                self.reason = ended_reason(ended);
            } else if container["ready"] == true && get(state, "running").is_some() {
                running = true;
                self.ready += 1;
            }
        }
        self.count(total);
        if self.reason == "Completed" && running {
            let ready = condition(pod, "Ready").is_some_and(is_true);
            self.reason = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn deleting(&mut self, pod: &Value) {
        let phase = text(&pod["status"], "phase");
        if text(&pod["status"], "reason") == "NodeLost" {
            self.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Failed" | "Succeeded") {
            self.reason = "Terminating".to_owned();
        }
    }

    fn count(&mut self, restarts: Restarts) {
        self.restarts = restarts.count;
        self.last_restart = restarts.last;
    }

    fn ready(&self) -> Value {
        Value::from(format!("{}/{}", self.ready, self.total))
    }

    fn restarts(&self, now: Timestamp) -> Value {
        match self.last_restart {
            Some(last) if self.restarts > 0 => {
                let ago = since(&Value::from(clock::rfc3339(last)), now);
                Value::from(format!("{} ({ago} ago)", self.restarts))
            }
            _ => Value::from(self.restarts.to_string()),
        }
    }
}

/// Restarts of several containers, and when the last was.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count = self.count.saturating_add(number(&container["restartCount"]));
        let ended = container["lastState"]["terminated"]["finishedAt"].as_str().and_then(clock::parse);
        self.last = self.last.max(ended);
    }
}

fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or(&[])
}

fn phase(pod: &Value) -> String {
    let reason = text(&pod["status"], "reason");
    let gated = condition(pod, "PodScheduled").is_some_and(|c| text(c, "reason") == "SchedulingGated");
    match reason {
        _ if gated => "SchedulingGated",
        "" => text(&pod["status"], "phase"),
        reason => reason,
    }
    .to_owned()
}

fn ended_reason(ended: &Value) -> String {
    match (text(ended, "reason"), number(&ended["signal"]), number(&ended["exitCode"])) {
        ("", 0, code) => format!("ExitCode:{code}"),
        ("", signal, _) => format!("Signal:{signal}"),
        (reason, _, _) => reason.to_owned(),
    }
}
