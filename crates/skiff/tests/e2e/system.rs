//! Skiff on a system: a running server and its node process are replaced by a new binary and no container notices, and an
//! uninstalled one leaves nothing.

use std::io::Write;
use std::path::Path;

use crate::machine::{Cluster, Form, NODE, binary, until};

const APPLICATION: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: skiff.local/busybox:1.35
          command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
          ports: [{containerPort: 8080, hostPort: 8099}]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
          volumeMounts: [{name: memory, mountPath: /memory}]
      volumes: [{name: memory, emptyDir: {medium: Memory}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

/// Deploys, and gives back the pods' processes.
fn deploy(cluster: &Cluster, replicas: u32, host_port: bool) -> String {
    let port = if host_port { "{containerPort: 8080, hostPort: 8099}" } else { "{containerPort: 8080}" };
    let manifest = APPLICATION.replace("{containerPort: 8080, hostPort: 8099}", port);
    cluster.apply(&manifest.replace("replicas: 2", &format!("replicas: {replicas}")));
    cluster.kubectl("rollout status deployment/web --timeout=90s");
    tasks(cluster)
}

/// Containers and their processes.
fn tasks(cluster: &Cluster) -> String {
    let socket = cluster.data().join("agent/containerd/containerd.sock");
    // Without the header and in one format: columns are as wide as the longest number in them.
    let lines = "awk 'NR > 1 { print $1, $2, $3 }' | sort";
    cluster.inside(&format!("ctr --address {} --namespace k8s.io tasks list | {lines}", socket.display()))
}

/// A binary that is another file with other bytes, as a new version is.
fn changed_binary(to: &Path) {
    std::fs::copy(binary(), to).expect("a copy");
    let mut file = std::fs::File::options().append(true).open(to).expect("the copy");
    file.write_all(b"another version").expect("changed");
}

#[test]
fn a_new_binary_takes_over_and_no_container_notices() {
    let Some(mut cluster) = Cluster::machine("update", Form::Server) else { return };
    let folder = cluster.state().join("bin");
    std::fs::create_dir(&folder).expect("a folder");
    let program = folder.join("skiff");
    std::fs::copy(binary(), &program).expect("a copy");
    cluster.set_program(&program);
    cluster.begin();
    let before = deploy(&cluster, 2, false);
    let service = cluster.kubectl("get service web -o jsonpath='{.spec.clusterIP}'");
    until(10, "the Service answers", || {
        cluster.try_inside(&format!("curl -s --max-time 1 http://{service}/")).is_ok()
    });

    let (stop, results) = (cluster.state().join("stop"), cluster.state().join("results"));
    let load = format!(
        "setsid sh -c 'while [ ! -e {stop} ]; do curl -s -o /dev/null --max-time 2 http://{service}/ && echo ok || echo failed; done >{results}; touch {results}.complete' </dev/null >/dev/null 2>&1 &",
        stop = stop.display(),
        results = results.display()
    );
    cluster.inside(&load);
    let new = folder.join("new");
    changed_binary(&new);
    std::fs::rename(&new, &program).expect("replaced");

    // The documented way: the server first, then the node process, which the server starts again.
    let old = cluster.process("skiff server").expect("a server");
    cluster.inside(&format!("kill {old}"));
    cluster.wait_for_end(&old);
    cluster.start_control_plane();
    let old = cluster.process("skiff agent").expect("a node process");
    cluster.inside(&format!("kill {old}"));
    cluster.wait_for_successor("skiff agent", &old);
    for role in ["server", "agent"] {
        let process = cluster.process(&format!("skiff {role}")).expect("it runs");
        let runs =
            cluster.inside(&format!("stat -L -c %i /proc/{process}/exe; stat -c %i {}", program.display()));
        let inodes: Vec<&str> = runs.lines().collect();
        assert_eq!(inodes[0], inodes[1], "{role} runs the new file");
    }
    // The new ones do their work.
    cluster.kubectl("scale deployment/web --replicas=3");
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    std::fs::write(&stop, "").expect("a file");
    until(10, "the load has ended", || results.with_extension("complete").exists());

    let after = tasks(&cluster);
    for line in before.lines() {
        assert!(after.lines().any(|found| found == line), "{line:?} is no more:\n{after}");
    }
    let answers = std::fs::read_to_string(&results).expect("results");
    let failed = answers.lines().filter(|line| *line != "ok").count();
    assert!(answers.lines().count() > 20, "too few requests:\n{answers}");
    assert_eq!(failed, 0, "of {} requests", answers.lines().count());
    let restarts =
        cluster.kubectl("get pods -o jsonpath='{.items[*].status.containerStatuses[*].restartCount}'");
    assert!(restarts.split(' ').all(|count| count == "0"), "{restarts}");
}

/// All of a machine that an uninstallation must give back.
fn machine(cluster: &Cluster) -> String {
    cluster.inside(
        "ps -e -o args= | grep -v -e 'ps -e' -e grep -e 'sh -c' -e 'sleep 3600' -e '^sort' | sort; ip -br link; ip -4 address; ip route; ip rule; \
         nft list ruleset; findmnt -rn -o TARGET; ls -A /run/netns /etc/systemd/system /usr/local/bin /run/skiff 2>/dev/null; true",
    )
}

#[test]
fn an_uninstalled_skiff_leaves_nothing() {
    let Some(mut cluster) = Cluster::machine("uninstall", Form::Server) else { return };
    // The machine shares the host's files: what is installed and removed lies on file systems of its own.
    cluster.inside(
        "for folder in /run /etc/systemd/system /usr/local/bin; do mkdir -p $folder && mount -t tmpfs skiff-test $folder; done; \
         mkdir -p /run/netns",
    );
    let before = machine(&cluster);
    let said = cluster.inside(&format!(
        "{} install server --data-dir {} --node-ip {NODE}",
        binary().display(),
        cluster.data().display()
    ));
    assert!(said.contains("systemctl enable --now skiff-server.service"), "{said}");
    let unit = cluster.inside("cat /etc/systemd/system/skiff-server.service");
    assert!(unit.contains("KillMode=process") && unit.contains("Delegate=yes"), "{unit}");
    cluster.set_program(Path::new("/usr/local/bin/skiff"));
    cluster.begin();
    deploy(&cluster, 1, true);
    assert_ne!(machine(&cluster), before);

    let uninstall = format!(
        "{} uninstall --data-dir {} --cgroup-root /skiff-{}",
        binary().display(),
        cluster.data().display(),
        cluster.name()
    );
    let kept = cluster.inside(&format!("{uninstall} --keep-data"));
    assert!(kept.contains("nothing of Skiff is left but its data"), "{kept}");
    assert_eq!(machine(&cluster), before);
    assert!(cluster.data().join("server/db").exists(), "the data is kept");
    let groups = format!("find /sys/fs/cgroup -path '*/skiff-{}/kubepods*' -type d", cluster.name());
    assert_eq!(cluster.inside(&groups), "");

    cluster.inside(&uninstall);
    assert_eq!(machine(&cluster), before);
    assert!(!cluster.data().exists());
}
