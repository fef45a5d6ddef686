//! Work that ends, work at certain times, and work on every node, as kubectl makes it and waits for it.

use crate::machine::{Cluster, Form, until};

const IMAGE: &str = "skiff.local/busybox:1.35";

#[test]
fn jobs_daemons_and_those_who_make_room() {
    let Some(cluster) = Cluster::start("workloads", Form::Server) else { return };
    cluster.kubectl(&format!("create cronjob tick --image={IMAGE} --schedule='* * * * *' -- echo tick"));
    jobs(&cluster);
    daemons(&cluster);
    preemption(&cluster);
    // The minute that has passed meanwhile.
    until(90, "the CronJob made a Job that has succeeded", || {
        !cluster.kubectl("get cronjob tick -o jsonpath='{.status.lastSuccessfulTime}'").is_empty()
    });
    cluster.kubectl("create job now --from=cronjob/tick");
    cluster.kubectl("wait --for=condition=Complete job/now --timeout=60s");
    assert_eq!(cluster.kubectl("logs job/now"), "tick");
    cluster.kubectl("delete cronjob tick");
    until(60, "its Jobs and their pods are gone", || cluster.kubectl("get jobs,pods -o name").is_empty());
}

fn jobs(cluster: &Cluster) {
    cluster.kubectl(&format!("create job greeting --image={IMAGE} -- echo hello"));
    cluster.kubectl("wait --for=condition=Complete job/greeting --timeout=60s");
    assert_eq!(cluster.kubectl("logs job/greeting"), "hello");
    let told = cluster.kubectl("describe job greeting");
    assert!(told.contains("1 Succeeded") && told.contains("Job completed"), "{told}");
    assert!(cluster.kubectl("get job greeting").contains("Complete   1/1"));
    cluster.apply(&format!(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {{name: indexed}}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  backoffLimitPerIndex: 0
  ttlSecondsAfterFinished: 5
  template:
    spec:
      restartPolicy: Never
      containers:
        - {{name: c, image: "{IMAGE}", command: [sh, -c, 'hostname; test "$JOB_COMPLETION_INDEX" != 1']}}
"#
    ));
    cluster.kubectl("wait --for=condition=Failed job/indexed --timeout=60s");
    let status = cluster.get("job indexed")["status"].clone();
    assert_eq!(
        (&status["completedIndexes"], &status["failedIndexes"]),
        (&"0,2".into(), &"1".into()),
        "{status}"
    );
    let of_two = "logs -l batch.kubernetes.io/job-completion-index=2";
    assert_eq!(cluster.kubectl(of_two), "indexed-2");
    until(60, "it goes by itself", || {
        cluster.kubectl("get jobs -o name").lines().all(|job| !job.ends_with("/indexed"))
    });
    cluster.kubectl("delete job greeting");
}

fn daemons(cluster: &Cluster) {
    let set = |version: &str| {
        format!(
            r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: c, image: "{IMAGE}", command: [sleep, "{version}"]}}]
"#
        )
    };
    cluster.apply(&set("1001"));
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    cluster.apply(&set("1002"));
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    let history = cluster.kubectl("rollout history daemonset/agent");
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    cluster.kubectl("rollout undo daemonset/agent");
    cluster.kubectl("rollout status daemonset/agent --timeout=60s");
    let command = "get pods -l app=agent -o jsonpath='{.items[*].spec.containers[0].command[1]}'";
    until(60, "the first version is back", || cluster.kubectl(command) == "1001");
    cluster.kubectl("delete daemonset agent");
}

fn preemption(cluster: &Cluster) {
    let cpus: u32 = cluster
        .kubectl("get nodes -o jsonpath='{.items[0].status.allocatable.cpu}'")
        .parse()
        .expect("a number");
    let most = cpus * 1000 - 400;
    let pod = |name: &str, class: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  {class}\n  terminationGracePeriodSeconds: 0\n  \
             containers: [{{name: c, image: \"{IMAGE}\", command: [sleep, \"1000\"], resources: {{requests: {{cpu: {most}m}}}}}}]\n"
        )
    };
    cluster.kubectl("create priorityclass important --value=1000");
    cluster.apply(&pod("low", "restartPolicy: Always"));
    cluster.kubectl("wait --for=condition=Ready pod/low --timeout=60s");
    cluster.apply(&pod("high", "priorityClassName: important"));
    cluster.kubectl("wait --for=condition=Ready pod/high --timeout=60s");
    assert!(cluster.try_kubectl("get pod low").expect_err("it went").contains("NotFound"));
    let events = cluster.kubectl("get events --field-selector reason=Preempted");
    assert!(events.contains("pod/low") && events.contains("Preempted by pod"), "{events}");
    cluster.kubectl("delete pod high --now");
}
