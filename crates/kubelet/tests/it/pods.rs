//! Pods in real containers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::machine::{IMAGE, Machine, is_ready, restarts, until, within};
use crate::sandbox::{block_on, data_dir, isolated};

/// A container that runs a script.
pub fn shell(script: &str) -> Value {
    json!({"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", script], "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File"})
}

#[test]
fn a_pod_is_run_configured_probed_healed_and_removed() {
    isolated("pods::a_pod_is_run_configured_probed_healed_and_removed", || {
        block_on(async {
            let (_guard, data) = data_dir();
            let mut machine = Machine::new(&data);
            machine.api.put(
                "namespaces/default/configmaps/page",
                json!({"data": {"index.html": "hello", "COLOR": "red"}}),
            );
            machine.start();
            assert_eq!(machine.node_ready(true).await, "kubelet is posting ready status");
            let mut container = shell("echo $COLOR $POD_IP; exec httpd -f -p 8080 -h /page");
            container["env"] = json!([
                {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "page", "key": "COLOR"}}},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ]);
            container["volumeMounts"] = json!([{"name": "page", "mountPath": "/page"}]);
            container["readinessProbe"] =
                json!({"httpGet": {"port": 8080, "path": "/index.html"}, "periodSeconds": 1});
            let room = json!({"memory": "64Mi", "cpu": "500m"});
            container["resources"] = json!({"limits": room, "requests": room});
            let path = machine.pod(
                "web",
                json!({
                    "containers": [container], "terminationGracePeriodSeconds": 1,
                    "volumes": [{"name": "page", "configMap": {"name": "page"}}],
                }),
            );
            let status = machine.status(&path, "ready", is_ready).await;
            let ip = status["podIP"].as_str().expect("an address").to_owned();
            assert!(ip.starts_with("10.42.0."), "{ip}");
            assert_eq!((restarts(&status), &status["qosClass"]), (0, &json!("Guaranteed")));

            machine.api.put(
                "namespaces/default/configmaps/page",
                json!({"data": {"index.html": "bye", "COLOR": "red"}}),
            );
            within(fetch_until(&ip, "bye"), "the new page").await;

            kill_container(&status);
            let healed =
                machine.status(&path, "healed", |status| is_ready(status) && restarts(status) == 1).await;
            assert_eq!(healed["podIP"], json!(ip), "the same sandbox");
            let ended = healed.pointer("/containerStatuses/0/lastState/terminated").expect("how it ended");
            assert_eq!(ended["exitCode"], 137);

            machine.api.delete_pod(&path, 1);
            machine.gone(&path).await;
            let left = || std::fs::read_dir(data.join("agent/pods")).expect("it is there").count();
            until("nothing is left of it", || left() == 0).await;
            for reason in ["Pulled", "Created", "Started", "Killing"] {
                assert!(
                    machine.events().iter().any(|event| event.contains(reason)),
                    "{reason}: {:#?}",
                    machine.events()
                );
            }
            machine.end().await;
        });
    });
}

/// A script that only its death ends, and quickly.
pub const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done";

#[test]
fn a_restarted_kubelet_finds_everything_again_and_ends_what_the_api_forgot() {
    isolated("pods::a_restarted_kubelet_finds_everything_again_and_ends_what_the_api_forgot", || {
        block_on(async {
            let (_guard, data) = data_dir();
            let mut machine = Machine::new(&data);
            machine.start();
            let spec = json!({"containers": [shell(FOREVER)], "terminationGracePeriodSeconds": 5});
            let (kept, lost) = (machine.pod("kept", spec.clone()), machine.pod("lost", spec));
            let before = machine.status(&kept, "ready", is_ready).await;
            kill_container(&before);
            let before =
                machine.status(&kept, "healed", |status| is_ready(status) && restarts(status) == 1).await;
            let of_lost = machine.status(&lost, "ready", is_ready).await;
            let pid = pid_of(container_id(&before));

            machine.stop().await;
            assert_eq!(pid_of(container_id(&before)), pid, "nobody noticed the end of the kubelet");
            machine.api.delete_pod(&lost, 0);
            machine.api.set_away(true);
            let writes = machine.api.history(&kept).len();
            machine.start();
            within(containerd_answers(&data), "containerd").await;
            until("the kubelet saw that nobody is there", || machine.api.refused() > 5).await;
            assert!(find_pid(container_id(&of_lost)).is_some(), "it runs while nobody says otherwise");

            machine.api.set_away(false);
            until("the forgotten pod ends", || find_pid(container_id(&of_lost)).is_none()).await;
            until("its directory is gone", || {
                std::fs::read_dir(data.join("agent/pods")).expect("it is there").count() == 1
            })
            .await;
            assert_eq!(pid_of(container_id(&before)), pid, "the same process as before");
            let after = machine.api.get(&kept).expect("it is there");
            assert_eq!((restarts(&after["status"]), is_ready(&after["status"])), (1, true));
            let unready =
                machine.api.history(&kept).into_iter().skip(writes).any(|pod| !is_ready(&pod["status"]));
            assert!(!unready, "it never left its services");
            machine.api.delete_pod(&kept, 1);
            machine.gone(&kept).await;
            machine.end().await;
        });
    });
}

#[test]
fn with_the_control_plane_away_what_crashes_is_started_again() {
    isolated("pods::with_the_control_plane_away_what_crashes_is_started_again", || {
        block_on(async {
            let (_guard, data) = data_dir();
            let mut machine = Machine::new(&data);
            machine.api.put("namespaces/default/secrets/key", json!({"data": {"word": "c2VzYW1l"}}));
            machine.start();
            let mut container = shell(&format!("echo said $WORD; {FOREVER}"));
            container["env"] =
                json!([{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "key", "key": "word"}}}]);
            let path =
                machine.pod("app", json!({"containers": [container], "terminationGracePeriodSeconds": 1}));
            let before = machine.status(&path, "ready", is_ready).await;

            machine.api.set_away(true);
            kill_container(&before);
            let uid = machine.api.get(&path).expect("it is there")["metadata"]["uid"].clone();
            let log =
                data.join(format!("agent/pod-logs/default_app_{}/main/1.log", uid.as_str().expect("text")));
            until("it was started again", || {
                std::fs::read_to_string(&log).is_ok_and(|log| log.contains("said sesame"))
            })
            .await;
            assert_eq!(
                restarts(&machine.api.get(&path).expect("it is there")["status"]),
                0,
                "nobody could be told"
            );

            // Whoever did not hear the node takes it for lost. It learns so and says that it is not, at once.
            let node = "nodes/node-1";
            let ready = |node: Option<&Value>| {
                let conditions = node?["status"]["conditions"].as_array()?;
                let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
                Some(ready["status"] == "True")
            };
            let mut lost = machine.api.get(node).expect("it is registered");
            for condition in lost["status"]["conditions"].as_array_mut().expect("conditions") {
                condition["status"] = json!("Unknown");
            }
            machine.api.put(node, lost);
            assert_eq!(ready(machine.api.get(node).as_ref()), Some(false));

            machine.api.set_away(false);
            machine.status(&path, "told", |status| restarts(status) == 1 && is_ready(status)).await;
            machine.api.until(node, "ready again", |node| ready(node).filter(|ready| *ready)).await;
            machine.api.delete_pod(&path, 1);
            machine.gone(&path).await;
            machine.end().await;
        });
    });
}

#[test]
fn a_runtime_that_goes_away_and_comes_back_costs_no_pod() {
    isolated("pods::a_runtime_that_goes_away_and_comes_back_costs_no_pod", || {
        block_on(async {
            let (_guard, data) = data_dir();
            let mut machine = Machine::new(&data);
            machine.start();
            let path = machine
                .pod("app", json!({"containers": [shell(FOREVER)], "terminationGracePeriodSeconds": 5}));
            let before = machine.status(&path, "ready", is_ready).await;
            let pid = pid_of(container_id(&before));
            machine.stop().await;

            // The same containerd, run by somebody else: nobody of us starts it again.
            let layout = kubelet::containerd::Layout::under(&data);
            machine.config.runtime_endpoint = Some(layout.socket.clone());
            machine.start();
            machine.node_ready(true).await;
            end_containerd(&layout).await;
            let words = machine.node_ready(false).await;
            assert!(words.starts_with("container runtime is down"), "{words}");
            assert_eq!(pid_of(container_id(&before)), pid);
            let config = layout.config();
            host::process::Daemon::new("containerd", layout.log())
                .args(["--config".as_ref(), config.as_os_str()])
                .spawn()
                .expect("started");
            assert_eq!(machine.node_ready(true).await, "kubelet is posting ready status");
            assert_eq!(pid_of(container_id(&before)), pid, "the same process as before");
            let after = machine.api.get(&path).expect("it is there");
            assert_eq!((restarts(&after["status"]), is_ready(&after["status"])), (0, true));
            kill_container(&before);
            machine.status(&path, "healed", |status| restarts(status) == 1 && is_ready(status)).await;
            machine.api.delete_pod(&path, 1);
            machine.gone(&path).await;
            machine.end().await;
        });
    });
}

async fn end_containerd(layout: &kubelet::containerd::Layout) {
    let identity = host::process::Identity::read(&layout.identity()).expect("it was noted");
    identity.kill().expect("killed");
    within(identity.exited(), "its end").await.expect("gone");
}

async fn containerd_answers(data: &std::path::Path) {
    let client = cri::Client::new(&kubelet::containerd::Layout::under(data).socket);
    while client.version(cri::messages::VersionRequest::default()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn container_id(status: &Value) -> &str {
    status.pointer("/containerStatuses/0/containerID").and_then(Value::as_str).expect("an id")
}

/// Ends a container's process as the kernel would for want of memory.
fn kill_container(status: &Value) {
    kill_process_of(container_id(status));
}

/// Ends the first process of a container or sandbox.
pub fn kill_process_of(id: &str) {
    signal_process_of(id, "KILL");
}

/// Signals the first process of a container or sandbox.
pub fn signal_process_of(id: &str, signal: &str) {
    crate::sandbox::run("kill", &["-s", signal, &pid_of(id).to_string()]);
}

fn pid_of(id: &str) -> i32 {
    find_pid(id).unwrap_or_else(|| panic!("no process of {id}"))
}

/// The first process of a container, by the name of its cgroup.
fn find_pid(id: &str) -> Option<i32> {
    let id = id.rsplit('/').next().expect("an id");
    let mut found: Vec<i32> = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if cgroup.contains(id) {
            found.push(pid);
        }
    }
    found.into_iter().min()
}

async fn fetch_until(ip: &str, text: &str) {
    loop {
        if fetch(ip).await.is_ok_and(|page| page.ends_with(text)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn fetch(ip: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect((ip, 8080)).await?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}
