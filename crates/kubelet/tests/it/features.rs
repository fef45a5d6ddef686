//! What pods are promised, in real containers: the order of init containers, volumes, hooks, probes, images, host ports,
//! limits, and back-off.

use serde_json::{Value, json};

use crate::machine::{IMAGE, Machine, is_ready, restarts, until, within};
use crate::pods::{FOREVER, shell};
use crate::sandbox::{block_on, data_dir, isolated};

fn waiting(status: &Value) -> &str {
    status.pointer("/containerStatuses/0/state/waiting/reason").and_then(Value::as_str).unwrap_or_default()
}

fn message(status: &Value) -> String {
    let text = status.pointer("/containerStatuses/0/state/waiting/message").and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

fn terminated(status: &Value) -> Option<&Value> {
    status.pointer("/containerStatuses/0/state/terminated")
}

#[test]
fn volumes_init_containers_and_hooks_work_together() {
    isolated("features::volumes_init_containers_and_hooks_work_together", || {
        block_on(async {
            let (_guard, data) = data_dir();
            let mut machine = Machine::new(&data);
            machine.api.put("namespaces/default/secrets/key", json!({"data": {"word": "c2VzYW1l"}}));
            machine.start();
            let outside = data.join("outside");
            std::fs::create_dir(&outside).expect("a directory");
            let mounts = json!([
                {"name": "shared", "mountPath": "/shared"}, {"name": "key", "mountPath": "/key"},
                {"name": "outside", "mountPath": "/outside"}, {"name": "api", "mountPath": "/api"},
                {"name": "memory", "mountPath": "/memory", "subPath": "below"},
            ]);
            let with = |name: &str, script: &str| {
                let mut container = shell(script);
                container["name"] = json!(name);
                container["volumeMounts"] = mounts.clone();
                container["resources"] = json!({"limits": {"memory": "32Mi"}});
                container
            };
            let mut main = with(
                "main",
                &format!(
                    "cat /shared/order /key/word /api/token > /outside/seen; echo ' '$(env | busybox grep LIMIT) >> /outside/seen; {FOREVER}"
                ),
            );
            main["env"] =
                json!([{"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}]);
            main["lifecycle"] = json!({
                "postStart": {"exec": {"command": ["sh", "-c", "echo began > /outside/began"]}},
                "preStop": {"exec": {"command": ["sh", "-c", "echo ending > /outside/ended"]}},
            });
            let path = machine.pod("all", json!({
                "terminationGracePeriodSeconds": 5, "serviceAccountName": "default",
                "initContainers": [with("one", "echo -n first. > /shared/order"), with("two", "echo -n second. >> /shared/order")],
                "containers": [main],
                "volumes": [
                    {"name": "shared", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}},
                    {"name": "key", "secret": {"secretName": "key"}},
                    {"name": "outside", "hostPath": {"path": outside, "type": "Directory"}},
                    {"name": "api", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 7200}}]}},
                ],
            }));
            machine.status(&path, "ready", is_ready).await;
            let read = |name: &str| std::fs::read_to_string(outside.join(name)).unwrap_or_default();
            until("it wrote what it saw", || read("seen").ends_with('\n')).await;
            assert_eq!(read("seen"), "first.second.sesametoken-of-7200 LIMIT=33554432\n");
            assert_eq!(read("began"), "began\n");
            let memory = machine.config.cgroup_root.clone();
            let limit = format!("/sys/fs/cgroup/memory{memory}/kubepods/burstable");
            if std::path::Path::new("/sys/fs/cgroup/memory").is_dir() {
                let mut pods = std::fs::read_dir(limit).expect("the class's group");
                let pod = pods
                    .find_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()))
                    .expect("the pod's group");
                let bytes =
                    std::fs::read_to_string(pod.path().join("memory.limit_in_bytes")).expect("a limit");
                assert_eq!(bytes.trim(), "33554432");
            }
            machine.api.delete_pod(&path, 5);
            machine.gone(&path).await;
            assert_eq!(read("ended"), "ending\n", "the hook had its chance");
            machine.end().await;
        });
    });
}

#[test]
fn endings_are_told_as_they_were() {
    isolated("features::endings_are_told_as_they_were", || {
        block_on(async {
            let (_guard, data) = data_dir();
            let mut machine = Machine::new(&data);
            machine.start();
            let good = machine.pod(
                "good",
                json!({"restartPolicy": "Never", "containers": [shell("echo done > /dev/termination-log")]}),
            );
            let bad = machine.pod("bad", json!({"restartPolicy": "Never", "containers": [shell("exit 3")]}));
            let looping = machine.pod(
                "looping",
                json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 1,
                "containers": [shell("exit 1")]}),
            );
            let status = machine.status(&good, "over", |status| status["phase"] == "Succeeded").await;
            let how = terminated(&status).expect("how it ended");
            assert_eq!(
                (&how["exitCode"], &how["reason"], &how["message"]),
                (&json!(0), &json!("Completed"), &json!("done\n"))
            );
            let status = machine.status(&bad, "over", |status| status["phase"] == "Failed").await;
            assert_eq!(terminated(&status).expect("how it ended")["exitCode"], 3);
            let status =
                machine.status(&looping, "held back", |status| waiting(status) == "CrashLoopBackOff").await;
            assert_eq!(restarts(&status), 1, "the first time it is started again at once");
            let uid = machine.api.get(&looping).expect("it is there")["metadata"]["uid"].clone();
            let uid = uid.as_str().expect("text");
            assert_eq!(
                message(&status),
                format!("back-off 10s restarting failed container=main pod=looping_default({uid})")
            );
            until("the event", || {
                let note = format!(
                    "Warning BackOff: Back-off restarting failed container main in pod looping_default({uid})"
                );
                machine.events().contains(&note)
            })
            .await;
            let mut greedy = shell("busybox tail /dev/zero");
            greedy["resources"] = json!({"limits": {"memory": "16Mi"}});
            let greedy = machine.pod("greedy", json!({"restartPolicy": "Never", "containers": [greedy]}));
            let status = machine.status(&greedy, "over", |status| status["phase"] == "Failed").await;
            assert_eq!(terminated(&status).expect("how it ended")["reason"], "OOMKilled");
            for path in [good, bad, looping, greedy] {
                machine.api.delete_pod(&path, 1);
                machine.gone(&path).await;
            }
            machine.end().await;
        });
    });
}

#[test]
fn images_that_cannot_be_had_are_told_apart() {
    isolated("features::images_that_cannot_be_had_are_told_apart", || {
        block_on(async {
            let (_guard, data) = data_dir();
            let mut machine = Machine::new(&data);
            machine.start();
            let pod = |name: &str, image: &str, policy: &str| {
                let mut container = shell("exit 0");
                container["image"] = json!(image);
                container["imagePullPolicy"] = json!(policy);
                machine.pod(name, json!({"containers": [container], "terminationGracePeriodSeconds": 1}))
            };
            // Nobody listens there, and there is no way out of this test.
            let missing = pod("missing", "127.0.0.1:9/nothing:1", "IfNotPresent");
            let never = pod("never", "test.local/nothing:1", "Never");
            let nonsense = pod("nonsense", "not an image", "IfNotPresent");
            let status =
                machine.status(&missing, "an error", |status| waiting(status) == "ErrImagePull").await;
            assert!(message(&status).contains("127.0.0.1:9/nothing"), "{}", message(&status));
            let status =
                machine.status(&missing, "held back", |status| waiting(status) == "ImagePullBackOff").await;
            assert!(
                message(&status).starts_with("Back-off pulling image \"127.0.0.1:9/nothing:1\""),
                "{}",
                message(&status)
            );
            machine.status(&never, "refused", |status| waiting(status) == "ErrImageNeverPull").await;
            machine.status(&nonsense, "refused", |status| waiting(status) == "InvalidImageName").await;
            let mut config = shell("exit 0");
            config["envFrom"] = json!([{"configMapRef": {"name": "later"}}]);
            let later = machine.pod("later", json!({"containers": [config], "restartPolicy": "Never"}));
            let status = machine
                .status(&later, "waiting", |status| waiting(status) == "CreateContainerConfigError")
                .await;
            assert_eq!(message(&status), "configmap \"later\" not found");
            machine.api.put("namespaces/default/configmaps/later", json!({"data": {}}));
            machine.status(&later, "over", |status| status["phase"] == "Succeeded").await;
            for path in [missing, never, nonsense, later] {
                machine.api.delete_pod(&path, 1);
                machine.gone(&path).await;
            }
            machine.end().await;
        });
    });
}

#[test]
fn probes_host_ports_and_lost_sandboxes() {
    isolated("features::probes_host_ports_and_lost_sandboxes", || {
        block_on(async {
            let (_guard, data) = data_dir();
            let mut machine = Machine::new(&data);
            machine.start();
            let mut container = shell(
                "touch /tmp/well; httpd -p 8080 -h /tmp; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done",
            );
            container["ports"] = json!([{"containerPort": 8080, "hostPort": 18080, "name": "web"}]);
            container["startupProbe"] =
                json!({"tcpSocket": {"port": "web"}, "periodSeconds": 1, "failureThreshold": 30});
            container["readinessProbe"] =
                json!({"exec": {"command": ["test", "-e", "/tmp/well"]}, "periodSeconds": 1});
            container["livenessProbe"] = json!({"exec": {"command": ["test", "-e", "/tmp/well"]}, "periodSeconds": 1, "failureThreshold": 2});
            let path =
                machine.pod("web", json!({"containers": [container], "terminationGracePeriodSeconds": 2}));
            let status = machine.status(&path, "ready", is_ready).await;
            within(connect(18080), "the host's port").await;

            let id = crate::pods::container_id(&status).to_owned();
            let socket = kubelet::containerd::Layout::under(&data).socket;
            let command = ["/bin/busybox", "rm", "/tmp/well"].map(str::to_owned).to_vec();
            let request = cri::messages::ExecSyncRequest {
                container_id: id.rsplit('/').next().expect("an id").to_owned(),
                cmd: command,
                timeout: 5,
            };
            cri::Client::new(&socket).exec_sync(request).await.expect("executed");
            let status =
                machine.status(&path, "restarted", |status| restarts(status) == 1 && is_ready(status)).await;
            until("events", || {
                machine.events().iter().any(|event| {
                    event.starts_with(
                        "Normal Killing: Container main failed liveness probe, will be restarted",
                    )
                })
            })
            .await;
            assert!(
                machine
                    .events()
                    .iter()
                    .any(|event| event.starts_with("Warning Unhealthy: Liveness probe failed"))
            );

            // The pause process dies: a new sandbox, and the container in it.
            let request = cri::messages::ListPodSandboxRequest { filter: None };
            let sandboxes = cri::Client::new(&socket).list_pod_sandbox(request).await.expect("listed").items;
            crate::pods::kill_process_of(&sandboxes[0].id);
            let renewed =
                machine.status(&path, "renewed", |status| restarts(status) == 2 && is_ready(status)).await;
            assert!(
                renewed["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.42.0.")),
                "{}",
                status["podIP"]
            );
            until("the event", || machine.events().iter().any(|event| event.contains("SandboxChanged")))
                .await;
            within(connect(18080), "the host's port, again").await;
            machine.api.delete_pod(&path, 2);
            machine.gone(&path).await;
            machine.end().await;
        });
    });
}

async fn connect(port: u16) {
    while tokio::net::TcpStream::connect(("10.42.0.1", port)).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[test]
fn an_image_dropped_later_is_used() {
    isolated("features::an_image_dropped_later_is_used", || {
        block_on(async {
            let (_guard, data) = data_dir();
            let mut machine = Machine::new(&data);
            let archive = data.join("agent/images/busybox.tar");
            let aside = data.join("busybox.tar");
            std::fs::rename(&archive, &aside).expect("moved");
            machine.start();
            let mut container = shell("exit 0");
            container["imagePullPolicy"] = json!("Never");
            let path = machine.pod("one", json!({"containers": [container], "restartPolicy": "Never"}));
            machine.status(&path, "refused", |status| waiting(status) == "ErrImageNeverPull").await;
            std::fs::rename(&aside, &archive).expect("moved");
            machine.status(&path, "over", |status| status["phase"] == "Succeeded").await;
            assert!(machine.events().iter().any(|event| event.contains(IMAGE)));
            machine.api.delete_pod(&path, 1);
            machine.gone(&path).await;
            machine.end().await;
        });
    });
}
