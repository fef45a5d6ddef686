//! Decisions and statuses as data: a pod, what the runtime has, what is remembered, and what follows. The small
//! languages of the columns are explained at their parsers.

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).expect("a time")
}

/// `key=value` words of a line.
fn word<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn number(words: &[&str], key: &str) -> Option<i64> {
    word(words, key).map(|text| text.parse().expect("a number"))
}

/// Lines of `sandbox ID ready|dead [ip=] [n=]` and `NAME running|created|exited|unknown [code=] [ago=] [n=] [in=] [id=]`.
fn runtime(text: &str) -> RuntimePod {
    let mut pod = RuntimePod::default();
    for line in text.split(';').map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split(' ').collect();
        let n = u32::try_from(number(&words, "n").unwrap_or(0)).expect("small");
        let ago = number(&words, "ago").unwrap_or(60);
        if words[0] == "sandbox" {
            pod.sandboxes.push(Sandbox {
                id: words[1].to_owned(),
                ready: words[2] == "ready",
                attempt: n,
                created_at: at(-100),
                ips: word(&words, "ip").map(str::to_owned).into_iter().collect(),
            });
            continue;
        }
        let state = match words[1] {
            "running" => State::Running,
            "created" => State::Created,
            "exited" => State::Exited,
            _ => State::Unknown,
        };
        let exited = state == State::Exited;
        pod.containers.push(Container {
            id: word(&words, "id").map_or_else(|| format!("{}{n}", words[0]), str::to_owned),
            name: words[0].to_owned(),
            sandbox: word(&words, "in").unwrap_or("s0").to_owned(),
            state,
            restart_count: n,
            created_at: at(-ago - 2),
            started_at: (state != State::Created).then(|| at(-ago - 1)),
            finished_at: exited.then(|| at(-ago)),
            exit_code: i32::try_from(number(&words, "code").unwrap_or(0)).expect("small"),
            reason: String::new(),
            message: String::new(),
            image: "image".to_owned(),
            image_id: String::new(),
            hash: String::new(),
            log_path: String::new(),
        });
    }
    pod.sort();
    pod
}

fn op(words: &[&str]) -> Op {
    match words {
        ["volumes", ..] => Op::Volumes,
        ["sandbox", ..] => Op::Sandbox,
        ["start", name, ..] => Op::Start((*name).to_owned()),
        ["kill", name, ..] => Op::Kill((*name).to_owned()),
        ["delete", ..] => Op::Delete,
        _ => panic!("no op: {words:?}"),
    }
}

/// What is remembered, beside ready volumes: `unprepared`, `torn`, `deleted`, `ending ago=`, `stopped ID`,
/// `flight OP [until=]`, `again OP in=`, `crash NAME after=SECONDS`, `waiting NAME REASON [in=]`,
/// `probed NAME [started] [ready] [failed]`.
fn memory(text: &str, seen: &RuntimePod) -> Memory {
    let mut memory = Memory { volumes_ready: true, started_at: Some(at(-100)), ..Memory::default() };
    for line in text.split(';').map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split(' ').collect();
        let rest = &words[1..];
        match words[0] {
            "unprepared" => memory.volumes_ready = false,
            "torn" => memory.torn_down = true,
            "deleted" => memory.deleted = true,
            "ending" => memory.ending_since = number(rest, "ago").map(|ago| at(-ago)),
            "stopped" => drop(memory.stopped.insert(rest[0].to_owned())),
            "flight" => drop(memory.in_flight.insert(op(rest), number(rest, "until").map(at))),
            "again" => drop(memory.retry_at.insert(op(rest), at(number(rest, "in").expect("when")))),
            "crash" => {
                // As if it had been started again that often, just before its present life.
                let mut crash = Backoff::default();
                let times = number(rest, "times").expect("how often");
                for _ in 0..times {
                    crash = crash.next(at(-70), at(-65));
                }
                memory.containers.entry(rest[0].to_owned()).or_default().crash = crash;
            }
            "waiting" => {
                let found = memory.containers.entry(rest[0].to_owned()).or_default();
                found.waiting = Some(Waiting { reason: rest[1].to_owned(), message: "words".to_owned() });
                found.retry_at = number(rest, "in").map(at);
            }
            "probed" => {
                let id = seen.newest(rest[0]).expect("it is there").id.clone();
                let has = |what: &str| rest.contains(&what);
                let failed = has("failed").then_some(Probe::Liveness);
                let probed = Probed { id, started: has("started"), ready: has("ready"), failed };
                memory.containers.entry(rest[0].to_owned()).or_default().probed = Some(probed);
            }
            other => panic!("no memory of {other}"),
        }
    }
    memory
}

/// A pod with `main` alone unless the spec says otherwise. `meta`: `deleted grace=`, `phase= [initialized]`, `gone`.
fn pod(spec: &Value, meta: &str) -> Pod {
    let words: Vec<_> = meta.split(' ').collect();
    let mut whole = json!({"containers": [{"name": "main", "image": "image"}], "restartPolicy": "Always"});
    for (field, value) in spec.as_object().expect("a spec") {
        whole[field] = value.clone();
    }
    let mut pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": whole});
    if words.contains(&"deleted") {
        pod["metadata"]["deletionTimestamp"] = json!("1970-01-12T13:46:40Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(number(&words, "grace").unwrap_or(30));
    }
    if let Some(phase) = word(&words, "phase") {
        pod["status"] = json!({"phase": phase});
    }
    if words.contains(&"initialized") {
        pod["status"]["conditions"] = json!([{"type": "Initialized", "status": "True"}]);
    }
    serde_json::from_value(pod).expect("a pod")
}

fn action(action: &Action) -> String {
    match action {
        Action::PrepareVolumes => "volumes".to_owned(),
        Action::CreateSandbox { attempt } => format!("sandbox {attempt}"),
        Action::StopSandboxes { ids } => format!("stop {}", ids.join(",")),
        Action::Start { name, restart_count, crash, .. } => {
            format!("start {name} {restart_count} then {}s", crash.delay().as_secs())
        }
        Action::Kill { id, grace, .. } => format!("kill {id} {}s", grace.as_secs()),
        Action::Cancel(op) => format!("cancel {op:?}"),
        Action::Collect { containers, sandboxes } => {
            let all: Vec<_> = containers.iter().chain(sandboxes).map(String::as_str).collect();
            format!("collect {}", all.join(","))
        }
        Action::Teardown => "teardown".to_owned(),
        Action::Delete => "delete".to_owned(),
        Action::Finish => "finish".to_owned(),
    }
}

fn state(status: &ContainerStatus) -> String {
    let state = status.state.clone().unwrap_or_default();
    let text = |reason: Option<String>| reason.unwrap_or_default();
    let words = if state.running.is_some() {
        "running".to_owned()
    } else if let Some(waiting) = state.waiting {
        text(waiting.reason)
    } else {
        let ended = state.terminated.unwrap_or_default();
        format!("{}:{}", text(ended.reason), ended.exit_code)
    };
    let ready = if status.ready { "+" } else { "" };
    format!("{} {words}{ready}", status.name)
}

fn summary(status: &PodStatus) -> String {
    let init = status.init_container_statuses.iter().flatten();
    let all: Vec<_> = init.chain(status.container_statuses.iter().flatten()).map(state).collect();
    let conditions = status.conditions.iter().flatten();
    let yes: Vec<_> =
        conditions.filter(|found| found.status == "True").map(|found| found.type_.as_str()).collect();
    let ready = if yes.contains(&"Ready") { " Ready" } else { "" };
    format!("{}{ready}; {}", status.phase.as_deref().unwrap_or_default(), all.join(", "))
}

struct Case {
    name: &'static str,
    spec: Value,
    meta: &'static str,
    runtime: &'static str,
    memory: &'static str,
    actions: &'static str,
    status: &'static str,
}

fn check(cases: Vec<Case>) {
    let node = NodeFacts { addresses: vec!["192.0.2.1".to_owned()], runtime_name: "fake".to_owned() };
    let mut wrong = Vec::new();
    for case in cases {
        let seen = runtime(case.runtime);
        let memory = memory(case.memory, &seen);
        let pod = pod(&case.spec, case.meta);
        let gone = case.meta.contains("gone");
        let inputs = Inputs { pod: &pod, gone, runtime: &seen, memory: &memory, node: &node, now: at(0) };
        let decision = decide(&inputs);
        let mut found: Vec<_> = decision.actions.iter().map(action).collect();
        if let Some(wake) = decision.wake {
            found.push(format!("wake +{}s", wake.duration_since(at(0)).as_secs()));
        }
        let (found, status) = (found.join("; "), summary(&pod_status(&inputs)));
        if found != case.actions || status != case.status {
            wrong.push(format!(
                "{}\n  actions {found:?}\n  not     {:?}\n  status {status:?}\n  not    {:?}",
                case.name, case.actions, case.status
            ));
        }
        // The same inputs give the same answer.
        assert_eq!(decide(&inputs), decision);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

macro_rules! cases {
    ($($name:literal: $spec:tt $meta:literal, $runtime:literal, $memory:literal => $actions:literal, $status:literal;)*) => {
        vec![$(Case { name: $name, spec: json!($spec), meta: $meta, runtime: $runtime, memory: $memory,
            actions: $actions, status: $status }),*]
    };
}

#[test]
fn a_pod_comes_up_step_by_step() {
    check(cases! {
        "new": {} "", "", "unprepared" => "volumes; sandbox 0", "Pending; main ContainerCreating";
        "both under way": {} "", "", "unprepared; flight volumes; flight sandbox" => "", "Pending; main ContainerCreating";
        "the sandbox failed": {} "", "", "again sandbox in=2" => "wake +2s", "Pending; main ContainerCreating";
        "no address yet": {} "", "sandbox s0 ready", "" => "stop s0", "Pending; main ContainerCreating";
        "volumes are late": {} "", "sandbox s0 ready ip=1", "unprepared; flight volumes" => "", "Pending; main ContainerCreating";
        "all is there": {} "", "sandbox s0 ready ip=1", "" => "start main 0 then 0s", "Pending; main ContainerCreating";
        "on the node's network": {"hostNetwork": true} "", "sandbox s0 ready", "" => "start main 0 then 0s", "Pending; main ContainerCreating";
        "being started": {} "", "sandbox s0 ready ip=1; main created", "flight start main" => "", "Pending; main ContainerCreating";
        "made, and then we died": {} "", "sandbox s0 ready ip=1; main created", "" => "collect main0", "Pending; main ContainerCreating";
        "runs": {} "", "sandbox s0 ready ip=1; main running", "" => "", "Running Ready; main running+";
        "image missing": {} "", "sandbox s0 ready ip=1", "waiting main ErrImagePull in=3" => "wake +3s", "Pending; main ErrImagePull";
        "image tried again": {} "", "sandbox s0 ready ip=1", "waiting main ImagePullBackOff in=-1" => "start main 0 then 0s", "Pending; main ImagePullBackOff";
    });
}

#[test]
fn what_ends_is_started_again_as_its_policy_says() {
    check(cases! {
        "always, first time": {} "", "sandbox s0 ready ip=1; main exited code=0 ago=0", "" => "start main 1 then 10s", "Running; main Completed:0";
        "held back": {} "", "sandbox s0 ready ip=1; main exited code=1 ago=4 n=1", "crash main times=1" => "wake +6s", "Running; main CrashLoopBackOff";
        "held back longer": {} "", "sandbox s0 ready ip=1; main exited code=1 ago=4 n=3", "crash main times=3" => "wake +36s", "Running; main CrashLoopBackOff";
        "five minutes at most": {} "", "sandbox s0 ready ip=1; main exited code=1 ago=0 n=9", "crash main times=9" => "wake +300s", "Running; main CrashLoopBackOff";
        "the time is over": {} "", "sandbox s0 ready ip=1; main exited code=1 ago=20 n=2", "crash main times=2" => "start main 3 then 40s", "Running; main Error:1";
        "being started again": {} "", "sandbox s0 ready ip=1; main exited code=1 ago=20 n=2", "crash main times=2; flight start main" => "", "Running; main CrashLoopBackOff";
        "on failure, failed": {"restartPolicy": "OnFailure"} "", "sandbox s0 ready ip=1; main exited code=1 ago=0", "" => "start main 1 then 10s", "Running; main Error:1";
        "on failure, done": {"restartPolicy": "OnFailure"} "", "sandbox s0 ready ip=1; main exited code=0 ago=0", "" => "stop s0", "Succeeded; main Completed:0";
        "never": {"restartPolicy": "Never"} "", "sandbox s0 ready ip=1; main exited code=7 ago=0", "" => "stop s0", "Failed; main Error:7";
        "over, stopped": {"restartPolicy": "Never"} "phase=Failed", "sandbox s0 dead; main exited code=7", "stopped s0" => "teardown", "Failed; main Error:7";
        "over, torn down": {"restartPolicy": "Never"} "phase=Failed", "sandbox s0 dead; main exited code=7", "stopped s0; torn" => "", "Failed; main Error:7";
        "over is over": {} "phase=Succeeded", "", "torn" => "", "Succeeded; ";
        "one of two runs": {"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]} "", "sandbox s0 ready ip=1; a exited code=1; b running", "" => "", "Running; a Error:1, b running+";
        "one of two failed": {"restartPolicy": "Never", "containers": [{"name": "a"}, {"name": "b"}]} "", "sandbox s0 ready ip=1; a exited code=1; b exited code=0", "" => "stop s0", "Failed; a Error:1, b Completed:0";
        "the deadline": {"activeDeadlineSeconds": 100} "", "sandbox s0 ready ip=1; main running", "" => "kill main0 30s", "Failed; main running+";
        "before the deadline": {"activeDeadlineSeconds": 130} "", "sandbox s0 ready ip=1; main running", "" => "wake +30s", "Running Ready; main running+";
    });
}

#[test]
fn init_containers_go_one_by_one_and_sidecars_stay() {
    check(cases! {
        "first": {"initContainers": [{"name": "a"}, {"name": "b"}]} "", "sandbox s0 ready ip=1", "" => "start a 0 then 0s", "Pending; a PodInitializing, b PodInitializing, main PodInitializing";
        "first runs": {"initContainers": [{"name": "a"}, {"name": "b"}]} "", "sandbox s0 ready ip=1; a running", "" => "", "Pending; a running, b PodInitializing, main PodInitializing";
        "second": {"initContainers": [{"name": "a"}, {"name": "b"}]} "", "sandbox s0 ready ip=1; a exited code=0", "" => "start b 0 then 0s", "Pending; a Completed:0+, b PodInitializing, main PodInitializing";
        "through": {"initContainers": [{"name": "a"}]} "", "sandbox s0 ready ip=1; a exited code=0", "" => "start main 0 then 0s", "Pending; a Completed:0+, main PodInitializing";
        "failed, again": {"initContainers": [{"name": "a"}]} "", "sandbox s0 ready ip=1; a exited code=1 ago=0", "" => "start a 1 then 10s", "Pending; a Error:1, main PodInitializing";
        "failed for good": {"restartPolicy": "Never", "initContainers": [{"name": "a"}]} "", "sandbox s0 ready ip=1; a exited code=1", "" => "stop s0", "Failed; a Error:1, main PodInitializing";
        "and over": {"restartPolicy": "Never", "initContainers": [{"name": "a"}, {"name": "b"}]} "phase=Failed", "sandbox s0 dead; a exited code=1", "stopped s0; torn" => "", "Failed; a Error:1, b PodInitializing, main PodInitializing";
        "over, and what had begun is lost": {"restartPolicy": "Never", "initContainers": [{"name": "a"}]} "phase=Failed initialized", "sandbox s0 dead; a exited code=0", "stopped s0; torn" => "", "Failed; a Completed:0+, main ContainerStatusUnknown:137";
        "a sidecar first": {"initContainers": [{"name": "a", "restartPolicy": "Always"}]} "", "sandbox s0 ready ip=1", "" => "start a 0 then 0s", "Pending; a PodInitializing, main PodInitializing";
        "beside a sidecar": {"initContainers": [{"name": "a", "restartPolicy": "Always"}]} "", "sandbox s0 ready ip=1; a running", "" => "start main 0 then 0s", "Pending; a running+, main PodInitializing";
        "a sidecar ended": {"initContainers": [{"name": "a", "restartPolicy": "Always"}]} "", "sandbox s0 ready ip=1; a exited code=0 ago=0; main running", "" => "start a 1 then 10s", "Running; a Completed:0, main running+";
        "its pod ended": {"restartPolicy": "Never", "initContainers": [{"name": "a", "restartPolicy": "Always"}]} "", "sandbox s0 ready ip=1; a running; main exited code=0", "" => "kill a0 30s", "Succeeded; a running+, main Completed:0";
        "sidecars last": {"initContainers": [{"name": "a", "restartPolicy": "Always"}, {"name": "b", "restartPolicy": "Always"}]} "deleted", "sandbox s0 ready ip=1; a running; b running; main running", "" => "kill main0 30s", "Running Ready; a running+, b running+, main running+";
        "in reverse": {"initContainers": [{"name": "a", "restartPolicy": "Always"}, {"name": "b", "restartPolicy": "Always"}]} "deleted", "sandbox s0 ready ip=1; a running; b running; main exited", "" => "kill b0 30s", "Running; a running+, b running+, main Completed:0";
    });
}

#[test]
fn an_ending_is_orderly() {
    check(cases! {
        "deleted": {} "deleted grace=7", "sandbox s0 ready ip=1; main running", "ending ago=2" => "kill main0 5s", "Running Ready; main running+";
        "being ended": {} "deleted grace=7", "sandbox s0 ready ip=1; main running", "ending ago=2; flight kill main until=5" => "", "Running Ready; main running+";
        "sooner after all": {} "deleted grace=3", "sandbox s0 ready ip=1; main running", "ending ago=0; flight kill main until=20" => "kill main0 3s", "Running Ready; main running+";
        "late": {} "deleted grace=1", "sandbox s0 ready ip=1; main running", "ending ago=9" => "kill main0 2s", "Running Ready; main running+";
        "late, and being ended": {} "deleted grace=1", "sandbox s0 ready ip=1; main running", "ending ago=9; flight kill main until=1" => "", "Running Ready; main running+";
        "while starting": {} "deleted", "sandbox s0 ready ip=1", "unprepared; flight start main; flight volumes" => "cancel Volumes; cancel Start(\"main\")", "Pending; main ContainerCreating";
        "ended": {} "deleted", "sandbox s0 ready ip=1; main exited code=137", "" => "stop s0", "Failed; main Error:137";
        "stopped": {} "deleted", "sandbox s0 dead; main exited code=0", "stopped s0" => "teardown", "Succeeded; main Completed:0";
        "torn down": {} "deleted", "sandbox s0 dead; main exited code=0", "stopped s0; torn" => "delete", "Succeeded; main Completed:0";
        "deleted in the API": {} "deleted", "sandbox s0 dead; main exited code=0", "stopped s0; torn; deleted" => "collect main0,s0", "Succeeded; main Completed:0";
        "nothing is left": {} "deleted", "", "torn; deleted" => "finish", "Failed; main ContainerStatusUnknown:137";
        "gone without a word": {} "gone", "sandbox s0 ready ip=1; main running", "deleted; ending ago=0" => "kill main0 30s", "Running Ready; main running+";
        "gone, nothing left": {} "gone", "", "deleted; torn" => "finish", "Pending; main ContainerCreating";
    });
}

#[test]
fn sandboxes_and_probes() {
    check(cases! {
        "the sandbox died": {} "", "sandbox s0 dead; main running", "" => "kill main0 30s", "Running Ready; main running+";
        "its network is taken first": {} "", "sandbox s0 dead; main exited code=137 ago=0", "" => "stop s0", "Running; main Error:137";
        "a new one": {} "", "sandbox s0 dead; main exited code=137 ago=0", "stopped s0" => "sandbox 1", "Running; main Error:137";
        "and the container in it": {} "", "sandbox s1 ready n=1 ip=1; sandbox s0 dead; main exited code=137 ago=0", "stopped s0" => "start main 1 then 10s", "Running; main Error:137";
        "init containers start over": {"initContainers": [{"name": "a"}]} "", "sandbox s1 ready n=1 ip=1; sandbox s0 dead; a exited code=0; main exited code=1", "stopped s0" => "start a 1 then 10s", "Running; a Completed:0+, main Error:1";
        "a stray": {} "", "sandbox s1 ready n=1 ip=1; sandbox s0 dead; main running in=s0", "stopped s0" => "kill main0 30s", "Running Ready; main running+";
        "not ready": {"containers": [{"name": "main", "image": "image", "readinessProbe": {}}]} "", "sandbox s0 ready ip=1; main running", "probed main started" => "", "Running; main running";
        "ready": {"containers": [{"name": "main", "image": "image", "readinessProbe": {}}]} "", "sandbox s0 ready ip=1; main running", "probed main started ready" => "", "Running Ready; main running+";
        "not started": {"containers": [{"name": "main", "image": "image", "startupProbe": {}}]} "", "sandbox s0 ready ip=1; main running", "probed main ready" => "", "Running; main running";
        "not alive": {"containers": [{"name": "main", "image": "image", "livenessProbe": {"terminationGracePeriodSeconds": 4}}]} "", "sandbox s0 ready ip=1; main running", "probed main started ready failed" => "kill main0 4s", "Running Ready; main running+";
        "old ones go": {} "", "sandbox s0 ready ip=1; main running n=3; main exited n=2; main exited n=1; main exited n=0", "" => "collect main1,main0", "Running Ready; main running+";
        "old sandboxes go": {} "", "sandbox s1 ready n=1 ip=1; sandbox s0 dead; main running in=s1 n=1", "" => "collect s0", "Running Ready; main running+";
    });
}

#[test]
fn restart_counts_survive_a_runtime_that_forgot() {
    let node = NodeFacts::default();
    let mut pod = pod(&json!({}), "");
    let known = json!({"containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": true, "restartCount": 4,
        "containerID": "fake://x"}]});
    pod.status = serde_json::from_value(known).expect("a status");
    let seen = runtime("sandbox s0 ready ip=1");
    let memory = memory("", &seen);
    let inputs = Inputs { pod: &pod, gone: false, runtime: &seen, memory: &memory, node: &node, now: at(0) };
    let actions: Vec<_> = decide(&inputs).actions.iter().map(action).collect();
    assert_eq!(actions, ["start main 5 then 0s"]);
}

#[test]
fn a_status_keeps_what_is_others_and_what_did_not_change() {
    let node = NodeFacts { addresses: vec!["192.0.2.1".to_owned()], runtime_name: "fake".to_owned() };
    let mut pod = pod(&json!({"readinessGates": [{"conditionType": "x/gate"}]}), "");
    let old = json!({"conditions": [
        {"type": "x/gate", "status": "False", "lastTransitionTime": "1970-01-01T00:00:01Z"},
        {"type": "Initialized", "status": "True", "lastTransitionTime": "1970-01-01T00:00:02Z"},
    ], "startTime": "1970-01-01T00:00:03Z"});
    pod.status = serde_json::from_value(old).expect("a status");
    let seen = runtime("sandbox s0 ready ip=10.0.0.9; main running");
    let memory = memory("", &seen);
    let inputs = Inputs { pod: &pod, gone: false, runtime: &seen, memory: &memory, node: &node, now: at(0) };
    let status = serde_json::to_value(pod_status(&inputs)).expect("a value");
    let condition = |kind: &str| {
        let all = status["conditions"].as_array().expect("a list");
        all.iter().find(|found| found["type"] == kind).cloned().expect("it is there")
    };
    assert_eq!(condition("x/gate")["status"], "False");
    assert_eq!(condition("Initialized")["lastTransitionTime"], "1970-01-01T00:00:02Z");
    assert_eq!(condition("ContainersReady")["status"], "True");
    let ready = condition("Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ReadinessGatesNotReady")));
    assert_eq!(ready["message"], "the status of pod readiness gate \"x/gate\" is not \"True\", but False");
    assert_eq!(status["startTime"], "1970-01-01T00:00:03Z");
    assert_eq!((&status["podIP"], &status["hostIP"]), (&json!("10.0.0.9"), &json!("192.0.2.1")));
    assert_eq!(status.pointer("/containerStatuses/0/containerID"), Some(&json!("fake://main0")));
}

#[test]
fn back_off_doubles_and_is_forgotten() {
    let mut crash = Backoff::default();
    let mut now = at(0);
    let mut delays = Vec::new();
    for _ in 0..7 {
        now = crash.until(now).unwrap_or(now);
        crash = crash.next(now, now);
        delays.push(crash.delay().as_secs());
    }
    assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
    let well = now + Duration::from_secs(601);
    assert_eq!(crash.until(well), None, "it ran for ten minutes");
    assert_eq!(crash.next(well, well).delay(), CRASH_INITIAL);
}
