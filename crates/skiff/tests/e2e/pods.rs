//! What a pod is promised: environment, volumes, probes, limits, restarts, logs; and what is said of one that cannot run.

use crate::machine::{Cluster, Form, in_each_form, until};

in_each_form!(
    a_pod_gets_its_environment_volumes_and_limits,
    probes_restarts_and_what_is_said_of_pods_that_cannot_run,
    a_pod_ends_gracefully_in_order
);

const CONFIGURED: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green, file.txt: first}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden}
stringData: {password: s3cret}
---
apiVersion: v1
kind: Pod
metadata: {name: configured, labels: {tier: test}}
spec:
  restartPolicy: Never
  initContainers:
    - {name: first, image: "skiff.local/busybox:1.35", command: [sh, -c, "echo prepared > /scratch/state"],
       volumeMounts: [{name: scratch, mountPath: /scratch}]}
  containers:
    - name: main
      image: skiff.local/busybox:1.35
      command: [sh, -c, "env; cat /scratch/state /etc/settings/file.txt /etc/hidden/password; echo; while :; do sleep 1; done"]
      env:
        - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: hidden, key: password}}}
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: GREETING, value: "hello $(POD_NAME)"}
      envFrom: [{prefix: ALL_, configMapRef: {name: settings}}]
      resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 200m, memory: 32Mi}}
      volumeMounts:
        - {name: scratch, mountPath: /scratch}
        - {name: settings, mountPath: /etc/settings}
        - {name: hidden, mountPath: /etc/hidden}
        - {name: host, mountPath: /host, readOnly: true}
  volumes:
    - {name: scratch, emptyDir: {}}
    - {name: settings, configMap: {name: settings}}
    - {name: hidden, secret: {secretName: hidden, defaultMode: 0400}}
    - {name: host, hostPath: {path: /proc, type: Directory}}
"#;

fn a_pod_gets_its_environment_volumes_and_limits(form: Form) {
    let Some(cluster) = Cluster::start("pods", form) else { return };
    cluster.apply(CONFIGURED);
    cluster.kubectl("wait --for=condition=Ready pod/configured --timeout=60s");
    let address = cluster.kubectl("get pod configured -o jsonpath='{.status.podIP}'");
    let log = cluster.kubectl("logs configured");
    let expected = [
        "COLOUR=green",
        "PASSWORD=s3cret",
        "POD_NAME=configured",
        "GREETING=hello configured",
        "ALL_colour=green",
    ];
    for line in expected.iter().copied().chain([&*format!("POD_IP={address}"), "prepared"]) {
        assert!(log.lines().any(|found| found == line), "{line} is not in the log:\n{log}");
    }
    assert!(log.contains("first") && log.contains("s3cret"), "volumes are not in the log:\n{log}");
    assert_eq!(cluster.kubectl("logs configured --tail=1 --limit-bytes=3").len(), 3);
    assert_eq!(cluster.get("pod configured")["status"]["qosClass"], "Burstable");

    let process = cluster.container_process("configured");
    let memory = format!(
        "cat /sys/fs/cgroup/memory$(sed -n 's/.*:memory://p' /proc/{process}/cgroup)/memory.limit_in_bytes \
                          2>/dev/null || cat /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/{process}/cgroup)/memory.max"
    );
    assert_eq!(cluster.inside(&memory), (32 << 20).to_string());
    let root = format!("/proc/{process}/root");
    assert_eq!(cluster.inside(&format!("cat {root}/etc/hostname")), "configured");
    assert_eq!(cluster.inside(&format!("stat -L -c %a {root}/etc/hidden/password")), "400");
    let token = format!("{root}/var/run/secrets/kubernetes.io/serviceaccount");
    assert!(cluster.inside(&format!("cat {token}/ca.crt")).contains("BEGIN CERTIFICATE"));
    assert_eq!(cluster.inside(&format!("cat {token}/namespace")), "default");
    the_token_works(&cluster, &token);

    cluster.kubectl(r#"patch configmap settings --type=merge -p '{"data":{"file.txt":"second"}}'"#);
    until(120, "the change of a ConfigMap arrives in the volume", || {
        cluster.inside(&format!("cat {root}/etc/settings/file.txt")) == "second"
    });
    cluster.kubectl("delete pod configured --grace-period=1");
}

/// The pod is who its token says, and has no right that nobody gave it.
fn the_token_works(cluster: &Cluster, folder: &str) {
    let ask = |path: &str| {
        cluster.inside(&format!(
            "curl -s --max-time 5 --cacert {folder}/ca.crt -H \"Authorization: Bearer $(cat {folder}/token)\" https://127.0.0.1:6443{path}"
        ))
    };
    let refused = ask("/api/v1/namespaces/default/secrets");
    assert!(
        refused.contains(
            r#"secrets is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""#
        ),
        "{refused}"
    );
    assert!(ask("/version").contains("gitVersion"));
}

const PROBED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: probed}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: skiff.local/busybox:1.35
      command: [sh, -c, "mkdir -p /www; echo ok > /www/live; httpd -f -p 8080 -h /www"]
      startupProbe: {exec: {command: [test, -e, /www/live]}, periodSeconds: 1}
      readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}
      livenessProbe: {httpGet: {path: /live, port: 8080}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: tcp}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: skiff.local/busybox:1.35
      command: [httpd, -f, -p, "8080", -h, /]
      readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: crashing}
spec:
  containers:
    - {name: main, image: "skiff.local/busybox:1.35", command: [sh, -c, "echo attempt; exit 3"]}
---
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  restartPolicy: OnFailure
  containers:
    - {name: main, image: "skiff.local/busybox:1.35", command: [sh, -c, "echo done"]}
---
apiVersion: v1
kind: Pod
metadata: {name: imageless}
spec:
  containers:
    - {name: main, image: "127.0.0.1:9/no/such:image"}
---
apiVersion: v1
kind: Pod
metadata: {name: never-pulled}
spec:
  containers:
    - {name: main, image: "skiff.local/not-here:1", imagePullPolicy: Never}
"#;

fn probes_restarts_and_what_is_said_of_pods_that_cannot_run(form: Form) {
    let Some(cluster) = Cluster::start("probes", form) else { return };
    cluster.apply(PROBED);
    let waiting = ".status.containerStatuses[0].state.waiting.reason";
    cluster.kubectl("wait --for=condition=Ready pod/tcp --timeout=60s");
    cluster.wait_for(60, "pod once", ".status.phase", |phase| phase == "Succeeded");

    // Started but not ready; then ready; then not alive, and restarted.
    cluster.wait_for(60, "pod probed", ".status.containerStatuses[0].started", |started| started == "true");
    assert_eq!(cluster.get("pod probed")["status"]["containerStatuses"][0]["ready"], false);
    let root = format!("/proc/{}/root", cluster.container_process("probed"));
    cluster.inside(&format!("touch {root}/www/ready"));
    cluster.kubectl("wait --for=condition=Ready pod/probed --timeout=30s");
    cluster.inside(&format!("rm {root}/www/live"));
    cluster.wait_for(60, "pod probed", ".status.containerStatuses[0].restartCount", |count| count == "1");

    cluster.wait_for(60, "pod crashing", waiting, |reason| reason == "CrashLoopBackOff");
    let last = ".status.containerStatuses[0].lastState.terminated.exitCode";
    cluster.wait_for(10, "pod crashing", last, |code| code == "3");
    assert!(cluster.kubectl("logs crashing --previous").contains("attempt"));

    cluster.wait_for(60, "pod imageless", waiting, |reason| {
        reason == "ErrImagePull" || reason == "ImagePullBackOff"
    });
    cluster.wait_for(90, "pod imageless", waiting, |reason| reason == "ImagePullBackOff");
    cluster.wait_for(30, "pod never-pulled", waiting, |reason| reason == "ErrImageNeverPull");

    let events = cluster
        .kubectl("get events -o jsonpath='{range .items[*]}{.involvedObject.name} {.reason}{\"\\n\"}{end}'");
    for line in [
        "tcp Scheduled",
        "tcp Pulled",
        "tcp Created",
        "tcp Started",
        "probed Unhealthy",
        "probed Killing",
        "crashing BackOff",
        "imageless Failed",
        "imageless BackOff",
    ] {
        assert!(events.lines().any(|found| found == line), "no event {line:?} in\n{events}");
    }
    cluster.kubectl("delete pod --all --grace-period=1 --timeout=60s");
}

fn a_pod_ends_gracefully_in_order(form: Form) {
    let Some(cluster) = Cluster::start("grace", form) else { return };
    cluster.apply(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: polite}
spec:
  terminationGracePeriodSeconds: 20
  containers:
    - name: main
      image: skiff.local/busybox:1.35
      command: [sh, -c, "trap 'echo term >> /state/log; exit 0' TERM; echo started >> /state/log; while :; do sleep 0.1; done"]
      lifecycle: {preStop: {exec: {command: [sh, -c, "echo hook >> /state/log"]}}}
      volumeMounts: [{name: state, mountPath: /state}]
  volumes: [{name: state, hostPath: {path: /tmp/skiff-polite, type: DirectoryOrCreate}}]
"#,
    );
    cluster.kubectl("wait --for=condition=Ready pod/polite --timeout=60s");
    cluster.inside("rm -f /tmp/skiff-polite/log && touch /tmp/skiff-polite/log");
    cluster.kubectl("delete pod polite --timeout=30s");
    assert_eq!(cluster.inside("cat /tmp/skiff-polite/log && rm -r /tmp/skiff-polite"), "hook\nterm");
}
