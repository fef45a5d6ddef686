//! Pods in real containers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::machine::{IMAGE, Machine, is_ready, restarts, until, within};
use crate::sandbox::{block_on, data_dir, isolated};

/// A container that runs a script.
fn shell(script: &str) -> Value {
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
            machine.api.put("namespaces/default/configmaps/page", json!({"data": {"index.html": "hello", "COLOR": "red"}}));
            machine.start();
            assert_eq!(machine.node_ready(true).await, "kubelet is posting ready status");
            let mut container = shell("echo $COLOR $POD_IP; exec httpd -f -p 8080 -h /page");
            container["env"] = json!([
                {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "page", "key": "COLOR"}}},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ]);
            container["volumeMounts"] = json!([{"name": "page", "mountPath": "/page"}]);
            container["readinessProbe"] = json!({"httpGet": {"port": 8080, "path": "/index.html"}, "periodSeconds": 1});
            container["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "500m"}});
            let path = machine.pod("web", json!({
                "containers": [container], "terminationGracePeriodSeconds": 1,
                "volumes": [{"name": "page", "configMap": {"name": "page"}}],
            }));
            let status = machine.status(&path, "ready", is_ready).await;
            let ip = status["podIP"].as_str().expect("an address").to_owned();
            assert!(ip.starts_with("10.42.0."), "{ip}");
            assert_eq!((restarts(&status), &status["qosClass"]), (0, &json!("Guaranteed")));

            machine.api.put("namespaces/default/configmaps/page", json!({"data": {"index.html": "bye", "COLOR": "red"}}));
            within(fetch_until(&ip, "bye"), "the new page").await;

            kill_container(&status);
            let healed = machine.status(&path, "healed", |status| is_ready(status) && restarts(status) == 1).await;
            assert_eq!(healed["podIP"], json!(ip), "the same sandbox");
            let ended = healed.pointer("/containerStatuses/0/lastState/terminated").expect("how it ended");
            assert_eq!(ended["exitCode"], 137);

            machine.api.delete_pod(&path, 1);
            machine.gone(&path).await;
            let left = || std::fs::read_dir(data.join("agent/pods")).expect("it is there").count();
            until("nothing is left of it", || left() == 0).await;
            for reason in ["Pulled", "Created", "Started", "Killing"] {
                assert!(machine.events().iter().any(|event| event.contains(reason)), "{reason}: {:#?}", machine.events());
            }
            machine.stop().await;
        });
    });
}

/// Ends a container's process as the kernel would for want of memory.
fn kill_container(status: &Value) {
    let id = status.pointer("/containerStatuses/0/containerID").and_then(Value::as_str).expect("an id");
    let pid = pid_of(id);
    crate::sandbox::run("kill", &["-9", &pid.to_string()]);
}

/// The process of a container: the one whose cgroup is named after it and whose parent is not in there.
fn pid_of(id: &str) -> i32 {
    let id = id.rsplit('/').next().expect("an id");
    let mut found: Vec<i32> = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if cgroup.contains(id) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    *found.first().unwrap_or_else(|| panic!("no process of {id}"))
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
