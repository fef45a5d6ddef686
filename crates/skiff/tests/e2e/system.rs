//! Skiff on a system: a running server and its node process are replaced by a newer version and no container notices, and an
//! uninstalled one leaves nothing.

use std::path::{Path, PathBuf};

use api_machinery::VERSION;

use crate::machine::{Cluster, Form, NODE, binary, until};
use crate::versions::{other_binary, version};

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

/// Requests through a Service from a process of their own, until told to end.
struct Load<'a> {
    cluster: &'a Cluster,
    results: PathBuf,
}

impl<'a> Load<'a> {
    fn begin(cluster: &'a Cluster, url: &str) -> Load<'a> {
        let results = cluster.state().join("results");
        let file = results.display();
        cluster.inside(&format!(
            "setsid sh -c 'while [ ! -e {file}.stop ]; do curl -s -o /dev/null --max-time 5 {url} && echo ok || echo failed; \
             done >{file}; touch {file}.complete' </dev/null >/dev/null 2>&1 &"
        ));
        Load { cluster, results }
    }

    /// Ends it. None may have failed.
    fn end(self) {
        self.cluster.inside(&format!("touch {}.stop", self.results.display()));
        until(30, "the load has ended", || self.results.with_extension("complete").exists());
        let answers = std::fs::read_to_string(&self.results).expect("results");
        let failed = answers.lines().filter(|line| *line != "ok").count();
        assert!(answers.lines().count() > 20, "too few requests:\n{answers}");
        assert_eq!(failed, 0, "of {} requests", answers.lines().count());
    }
}

/// In the place of systemd, which no machine of namespaces has: what a restart does to a unit with `KillMode=process`.
const SYSTEMCTL: &str = r#"#!/bin/sh
[ "$1" = restart ] || exit 0
line=$(sed -n 's/^ExecStart=//p' "/etc/systemd/system/$2")
if main=$(cat /run/main 2>/dev/null) && kill "$main" 2>/dev/null; then
  while kill -0 "$main" 2>/dev/null; do sleep 0.05; done
fi
setsid sh -c "echo \$\$ >/run/main; exec $line" </dev/null >>LOG 2>&1 &
"#;

/// The machine shares the host's files: what is installed and removed lies on file systems of its own.
fn folders_of_its_own(cluster: &Cluster) {
    cluster.inside(
        "for folder in /run /etc/systemd/system /usr/local/bin; do mkdir -p $folder && mount -t tmpfs skiff-test $folder; done; \
         mkdir -p /run/netns",
    );
}

/// The versions of the server and of the node's kubelet.
fn versions(cluster: &Cluster) -> [String; 2] {
    let server = cluster.kubectl("get --raw /version");
    let server: serde_json::Value = serde_json::from_str(&server).expect("a version");
    let node = cluster.kubectl("get node skiff-node -o jsonpath='{.status.nodeInfo.kubeletVersion}'");
    [server["gitVersion"].as_str().expect("a version").to_owned(), node]
}

/// `skiff upgrade` with this file.
fn upgrade(cluster: &Cluster, file: &Path, arguments: &str) -> Result<String, String> {
    cluster.try_inside(&format!("/usr/local/bin/skiff upgrade --binary {} {arguments}", file.display()))
}

/// What cannot take over is refused, or taken back: nothing has changed then.
fn what_cannot_take_over_is_refused(cluster: &Cluster, older: &str) {
    let file = cluster.state().join("candidate");
    let write = |text: &str, mode: &str| {
        std::fs::write(&file, text).expect("a file");
        cluster.inside(&format!("chmod {mode} {}", file.display()));
    };
    let says = |version: &str| format!("#!/bin/sh\n[ \"$1\" = --version ] && echo skiff {version}");
    let oldest = version(-2);
    let cases = [
        (says(&oldest), "755", "is older than"),
        (says(&version(1)), "755", "one minor version at a time; upgrade to"),
        (says(VERSION), "644", "is not executable"),
        ("#!/bin/sh\necho something else".to_owned(), "755", "is not Skiff"),
    ];
    let server = cluster.process("skiff server").expect("a server");
    for (text, mode, words) in cases {
        write(&text, mode);
        let said = upgrade(cluster, &file, "").expect_err(words);
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(cluster.process("skiff server").expect("a server"), server, "nobody touched it");

    write(&says(VERSION), "755");
    let said = upgrade(cluster, &file, "--timeout 3").expect_err("it ends at once");
    assert!(
        said.contains(&format!("{VERSION} does not work here; {older} was put back and is ready")),
        "{said}"
    );
    assert_eq!(versions(cluster), [older, older]);
    assert_eq!(cluster.inside("ls /usr/local/bin"), "skiff\nsystemctl");
}

#[test]
fn an_upgrade_takes_over_and_no_container_notices() {
    let Some(mut cluster) = Cluster::machine("upgrade", Form::Server) else { return };
    folders_of_its_own(&cluster);
    let systemctl = cluster.state().join("systemctl");
    let log = cluster.state().join("server.log");
    std::fs::write(&systemctl, SYSTEMCTL.replace("LOG", &log.display().to_string())).expect("a script");
    cluster.inside(&format!(
        "mkdir -p /run/systemd/system; install -m 755 {} /usr/local/bin/systemctl",
        systemctl.display()
    ));
    let old = cluster.state().join("old");
    let older = other_binary(&cluster, &old, -1);
    cluster.prepare();
    cluster.inside(&format!("{} install {}", old.display(), cluster.server_arguments()));
    cluster.set_program(Path::new("/usr/local/bin/skiff"));
    cluster.wait_for_server();
    cluster.kubectl("wait --for=create node/skiff-node --timeout=60s");
    cluster.kubectl("wait --for=condition=Ready node --all --timeout=60s");
    let before = deploy(&cluster, 2, false);
    assert_eq!(versions(&cluster), [older.as_str(), older.as_str()]);
    let url = format!("http://{}/", cluster.kubectl("get service web -o jsonpath='{.spec.clusterIP}'"));
    until(30, "the Service answers", || cluster.try_inside(&format!("curl -s --max-time 1 {url}")).is_ok());
    let states = "get pods -o jsonpath='{.items[*].metadata.uid} {.items[*].status.containerStatuses[*].state} \
                  {.items[*].status.containerStatuses[*].restartCount}'";
    let containers = cluster.kubectl(states);

    let load = Load::begin(&cluster, &url);
    what_cannot_take_over_is_refused(&cluster, &older);
    let said = upgrade(&cluster, &binary(), "").expect("upgraded");
    assert!(
        said.contains(&format!("skiff-server.service is of version {VERSION} now, before of {older}")),
        "{said}"
    );
    assert_eq!(versions(&cluster), [VERSION, VERSION]);
    assert_eq!(cluster.kubectl(states), containers, "the same pods, started then, restarted never");
    // The new ones do their work.
    cluster.kubectl("scale deployment/web --replicas=3");
    cluster.kubectl("rollout status deployment/web --timeout=60s");
    load.end();
    let after = tasks(&cluster);
    for line in before.lines() {
        assert!(after.lines().any(|found| found == line), "{line:?} is no more:\n{after}");
    }
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
    folders_of_its_own(&cluster);
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
