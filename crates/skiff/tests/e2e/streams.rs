//! exec, attach, cp and port-forward: through stock kubectl, over SPDY and over WebSockets, to real containers.

use crate::machine::{Cluster, Form, in_each_form, until};

in_each_form!(streams_reach_containers_and_back);

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: skiff.local/busybox:1.35
      command: [sh, -c, "mkdir -p /www; ln -s /bin/busybox /bin/tar; echo served > /www/index.html; exec httpd -f -p 8080 -h /www"]
    - name: reader
      image: skiff.local/busybox:1.35
      stdin: true
      command: [sh, -c, "while read -r line; do echo \"heard $line\"; done; sleep 1000"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: none}, ports: [{port: 80, targetPort: 8080}]}
"#;

/// Each way in which kubectl speaks.
const WAYS: [&str; 2] = ["", "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false KUBECTL_PORT_FORWARD_WEBSOCKETS=false"];

/// kubectl as it is called by hand, through a file for each of its outputs, and with its exit code.
fn run(cluster: &Cluster, way: &str, before: &str, arguments: &str) -> (String, String, String) {
    let (kubeconfig, folder) = (cluster.kubeconfig(), cluster.state().to_owned());
    let folder = folder.display();
    let line = format!(
        "{before} {way} timeout 60 out/bin/kubectl --kubeconfig {} {arguments} >{folder}/said 2>{folder}/complained; echo $?",
        kubeconfig.display()
    );
    let code = cluster.inside(&line);
    let read = |name: &str| std::fs::read_to_string(cluster.state().join(name)).expect("a file");
    (code, read("said"), read("complained"))
}

fn streams_reach_containers_and_back(form: Form) {
    let Some(cluster) = Cluster::start("streams", form) else { return };
    cluster.apply(POD);
    cluster.kubectl("wait --for=condition=Ready pod/web --timeout=60s");
    for way in WAYS {
        commands(&cluster, way);
        forwards(&cluster, way);
    }
    files(&cluster);
    many(&cluster);
}

fn commands(cluster: &Cluster, way: &str) {
    let (code, said, complained) =
        run(cluster, way, "", "exec web -c web -- sh -c 'echo out; echo err >&2; exit 7'");
    assert_eq!((code.as_str(), said.as_str()), ("7", "out\n"), "{way}: {complained}");
    assert!(complained.starts_with("err\n") && complained.contains("exit code 7"), "{complained}");
    let (code, said, complained) =
        run(cluster, way, "seq 1 20000 |", "exec -i web -c web -- sh -c 'wc -l; echo done'");
    assert_eq!((code.as_str(), said.as_str()), ("0", "20000\ndone\n"), "its end is passed on: {complained}");
    let (code, said, _) =
        run(cluster, way, "", "exec web -c web -- sh -c 'head -c 3000000 /dev/zero | tr \"\\0\" x'");
    assert_eq!((code.as_str(), said.len()), ("0", 3_000_000));
    let (code, _, complained) = run(cluster, way, "", "exec web -c web -- nothing-of-that-name");
    assert!(code != "0" && complained.contains("nothing-of-that-name"), "{code}: {complained}");
    // A terminal has a size, which comes when the command has begun.
    let kubectl = format!("env {way} out/bin/kubectl --kubeconfig {}", cluster.kubeconfig().display());
    let script = cluster.state().join("terminal.sh");
    let line = format!(
        "stty rows 33 cols 77; {kubectl} exec -it web -c web -- sh -c 'tty; until stty size 2>/dev/null | grep 33; do usleep 20000; done'\n"
    );
    std::fs::write(&script, line).expect("a file");
    let said = cluster
        .inside(&format!("timeout 60 script --quiet --return --command 'sh {}' /dev/null", script.display()));
    assert!(said.contains("/dev/pts/") && said.contains("33 77"), "{way}: {said}");
    // It goes on until the client has had enough: its input is not the container's only one.
    let attach = "attach --quiet -i web -c reader";
    let said = cluster.inside(&format!("(echo something; sleep 3) | timeout 5 {kubectl} {attach}; true"));
    assert!(said.contains("heard something"), "{way}: {said}");
}

fn forwards(cluster: &Cluster, way: &str) {
    let kubeconfig = cluster.kubeconfig();
    let kubectl = format!("env {way} out/bin/kubectl --kubeconfig {}", kubeconfig.display());
    let log = cluster.state().join("forward");
    // Each answer is a connection of its own within one stream; then it ends with its process.
    let line = format!(
        "{kubectl} port-forward pod/web :8080 >{log} 2>&1 & forward=$!; \
         for i in $(seq 100); do port=$(sed -n 's/^Forwarding from 127.0.0.1:\\([0-9]*\\).*/\\1/p' {log}); [ -n \"$port\" ] && break; sleep 0.1; done; \
         for i in $(seq 20); do curl --silent --fail --max-time 5 http://127.0.0.1:$port/ || exit 1; done; kill $forward; wait $forward; true",
        log = log.display()
    );
    let said = cluster.inside(&line);
    assert_eq!(said.lines().filter(|line| *line == "served").count(), 20, "{way}: {said}");
}

fn files(cluster: &Cluster) {
    let folder = cluster.state().join("files");
    std::fs::create_dir_all(folder.join("deep")).expect("a folder");
    std::fs::write(folder.join("deep/file"), "from outside").expect("a file");
    let folder = folder.display();
    cluster.kubectl(&format!("cp -c web {folder} default/web:/tmp/files"));
    assert_eq!(cluster.kubectl("exec web -c web -- cat /tmp/files/deep/file"), "from outside");
    cluster.kubectl("exec web -c web -- sh -c 'echo from inside > /tmp/files/back'");
    cluster.kubectl(&format!("cp -c web default/web:/tmp/files/back {folder}/back"));
    assert_eq!(cluster.inside(&format!("cat {folder}/back")), "from inside");
}

/// Short streams leave nothing behind.
fn many(cluster: &Cluster) {
    let server = cluster.process("skiff (server|kube-apiserver) ").expect("the server's process");
    let open = || {
        let line = format!("ls /proc/{server}/fd | wc -l");
        cluster.inside(&line).trim().parse::<i64>().expect("a number")
    };
    let before = open();
    let kubectl = format!("out/bin/kubectl --kubeconfig {}", cluster.kubeconfig().display());
    let said = cluster.inside(&format!(
        "seq 1 200 | xargs -P 4 -I N {kubectl} exec web -c web -- echo N | sort -n | uniq | wc -l"
    ));
    assert_eq!(said.trim(), "200");
    until(30, "as many open files as before", || open() <= before + 8);
}
