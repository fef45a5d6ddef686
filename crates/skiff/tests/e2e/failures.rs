//! Parts die: the node process, the control plane, containerd. Containers do not notice, and everything comes back.

use crate::machine::{Cluster, Form, in_each_form, until};

in_each_form!(containers_outlive_every_process_of_ours);

const STEADY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: steady}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "skiff.local/busybox:1.35", command: [sh, -c, "while :; do sleep 1; done"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: mortal}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "skiff.local/busybox:1.35", command: [sh, -c, "while :; do sleep 1; done"]}]
"#;

fn containers_outlive_every_process_of_ours(form: Form) {
    let Some(cluster) = Cluster::start("failures", form) else { return };
    cluster.apply(STEADY);
    cluster.kubectl("wait --for=condition=Ready pod --all --timeout=60s");
    let process = cluster.container_process("steady");
    let began =
        cluster.get("pod steady")["status"]["containerStatuses"][0]["state"]["running"]["startedAt"].clone();
    let restarts = ".status.containerStatuses[0].restartCount";

    // The node process dies three times; it is started again each time and touches nothing.
    for _ in 0..3 {
        cluster.replace_node();
    }
    cluster.inside(&format!("kill -9 {}", cluster.container_process("mortal")));
    cluster.wait_for(60, "pod mortal", restarts, |count| count == "1");

    // The control plane is away: a crashed container is restarted all the same.
    let doomed = cluster.container_process("mortal");
    cluster.kill_control_plane();
    cluster.inside(&format!("kill -9 {doomed}"));
    let socket = cluster.data().join("agent/containerd/containerd.sock");
    let running =
        format!("ctr --address {} --namespace k8s.io tasks list | grep -c RUNNING", socket.display());
    until(60, "the crashed container runs again", || cluster.inside(&running) == "4");
    cluster.start_control_plane();
    cluster.wait_for(60, "pod mortal", restarts, |count| count == "2");

    // The runtime goes away and comes back.
    cluster.kill_nine("containerd --config");
    until(60, "containerd answers again", || cluster.try_inside(&running).is_ok_and(|count| count == "4"));
    cluster.kubectl("wait --for=condition=Ready node --all --timeout=60s");

    assert_eq!(cluster.container_process("steady"), process, "the same process through all of it");
    let steady = &cluster.get("pod steady")["status"]["containerStatuses"][0];
    assert_eq!(steady["restartCount"], 0);
    assert_eq!(steady["state"]["running"]["startedAt"], began);
    cluster.kubectl("delete pod --all --grace-period=1 --timeout=60s");
}
