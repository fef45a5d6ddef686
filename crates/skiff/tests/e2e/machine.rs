//! A machine of its own for a cluster (namespaces without a route out, made by `scripts/machine.sh`), a `skiff server` in
//! it, and stock kubectl. Everything ends with the machine, which ends with the test.

#![expect(clippy::disallowed_methods, reason = "an end-to-end test is what starts the processes under test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::components;

/// Where a cluster whose DNS is no Deployment has it; `skiff server` makes it itself.
const DNS_SERVICE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.43.0.10
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
"#;

/// The address of the only node.
pub const NODE: &str = "172.30.0.2";

/// In which processes a cluster runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `skiff server`, which starts the node process.
    Server,
    /// Every component in a process of its own, over TLS, with certificates that openssl made.
    Components,
}

/// The same test in both forms.
macro_rules! in_each_form {
    ($($test:ident),+) => {
        mod server {
            $(#[test] fn $test() { super::$test($crate::machine::Form::Server) })+
        }
        mod components {
            $(#[test] fn $test() { super::$test($crate::machine::Form::Components) })+
        }
    };
}
pub(crate) use in_each_form;

/// A cluster of one node.
pub struct Cluster {
    form: Form,
    name: String,
    holder: String,
    state: PathBuf,
    program: PathBuf,
}

/// The repository's folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Why end-to-end tests cannot run here, if so.
pub fn missing() -> Option<String> {
    let repository = repository();
    let needed = ["out/bin/kubectl", "out/images/busybox.tar", "out/images/nginx.tar"];
    if let Some(file) = needed.iter().find(|file| !repository.join(file).exists()) {
        return Some(format!("{file} is not there (make images)"));
    }
    let tools = "[ $(id -u) = 0 ] && command -v containerd runc nft unshare >/dev/null";
    let found = Command::new("sh").args(["-c", tools]).status().is_ok_and(|status| status.success());
    (!found).then(|| "root, containerd, runc and nft are needed (scripts/setup)".to_owned())
}

impl Cluster {
    /// A new machine with a ready node; `None`, loudly, where that is impossible and nobody insists on it.
    pub fn start(name: &str, form: Form) -> Option<Cluster> {
        let cluster = Cluster::machine(name, form)?;
        cluster.begin();
        Some(cluster)
    }

    /// A new machine where nothing runs yet.
    pub fn machine(name: &str, form: Form) -> Option<Cluster> {
        if let Some(missing) = missing() {
            assert!(std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_none(), "cannot run: {missing}");
            eprintln!("SKIPPED {name}: {missing}");
            return None;
        }
        let name = format!("e2e-{name}{}", if form == Form::Components { "-components" } else { "" });
        let state = PathBuf::from(script(&format!("end_machine {name}; start_machine {name}; echo $state")));
        let holder =
            std::fs::read_to_string(state.join("holder")).expect("the machine runs").trim().to_owned();
        let cluster = Cluster { form, name, holder, state, program: binary() };
        // A route out that leads nowhere: what would leave the node can be seen on this link.
        cluster.inside("ip route add default via 172.30.0.1 dev node0");
        Some(cluster)
    }

    /// Runs everything from now on from this file.
    pub fn set_program(&mut self, program: &Path) {
        self.program = program.to_owned();
    }

    /// Starts everything, and waits for the node.
    pub fn begin(&self) {
        self.prepare();
        self.start_control_plane();
        if self.form == Form::Components {
            self.apply(DNS_SERVICE);
        }
        self.start_node();
        self.kubectl("wait --for=create node/skiff-node --timeout=60s");
        self.kubectl("wait --for=condition=Ready node --all --timeout=60s");
    }

    /// Puts in place what is there before anything starts: images and, of components, certificates.
    pub fn prepare(&self) {
        let images = self.data().join("agent/images");
        std::fs::create_dir_all(&images).expect("a folder for images");
        for archive in ["busybox.tar", "nginx.tar"] {
            let from = repository().join("out/images").join(archive);
            std::fs::copy(from, images.join(archive)).expect("an image archive");
        }
        if self.form == Form::Components {
            self.make_certificates();
        }
    }

    /// Where the server keeps everything.
    pub fn data(&self) -> PathBuf {
        self.state.join("data")
    }

    /// The name of its machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first process of its machine.
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// The folder of its machine, where logs are.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Starts the binary under test with these arguments, and leaves it running.
    pub fn start_skiff(&self, log: &str, arguments: &str) {
        self.start_skiff_with("", log, arguments);
    }

    /// The same with this environment, as a shell takes it before a command.
    #[expect(clippy::zombie_processes, reason = "it ends with the machine, whose first process reaps it")]
    pub fn start_skiff_with(&self, environment: &str, log: &str, arguments: &str) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.state.join(log))
            .expect("a log file");
        self.command(&format!("{environment} exec setsid {} {arguments}", self.program.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .expect("it starts");
    }

    /// What `skiff server` is started with.
    pub fn server_arguments(&self) -> String {
        format!(
            "server --data-dir {} --node-ip {NODE} --cgroup-root /skiff-{}",
            self.data().display(),
            self.name
        )
    }

    /// Starts the control plane and waits until it is ready. `skiff server` starts the node process if none runs.
    pub fn start_control_plane(&self) {
        match self.form {
            Form::Server => self.start_skiff("server.log", &self.server_arguments()),
            Form::Components => components::start_control_plane(self, ""),
        }
        self.wait_for_server();
    }

    /// Waits until the API server is ready.
    pub fn wait_for_server(&self) {
        until(20, "the API server is ready", || self.try_kubectl("get --raw /readyz").is_ok());
    }

    /// Starts the node's side, unless the server does.
    pub fn start_node(&self) {
        if self.form == Form::Components {
            components::start_node(self, &components::Node::first(self));
        }
    }

    /// Kills the whole control plane with SIGKILL.
    pub fn kill_control_plane(&self) {
        match self.form {
            Form::Server => self.kill_nine("skiff server"),
            Form::Components => components::CONTROL_PLANE.iter().for_each(|part| self.kill_nine(part)),
        }
    }

    /// Kills everything of ours on the node with SIGKILL, and waits until it is started again, by whoever does that.
    pub fn replace_node(&self) {
        match self.form {
            Form::Server => {
                let old = self.process("skiff agent").expect("a node process");
                self.kill_nine("skiff agent");
                self.wait_for_successor("skiff agent", &old);
            }
            Form::Components => {
                components::NODE_SIDE.iter().for_each(|part| self.kill_nine(part));
                self.start_node();
                // Whoever kills them next must find them.
                for part in components::NODE_SIDE {
                    until(10, part, || self.process(part).is_ok());
                }
            }
        }
    }

    /// The process inside the machine whose command line matches. Until a child of it has become another program, both
    /// look the same; the oldest is meant.
    pub fn process(&self, pattern: &str) -> Result<String, String> {
        self.try_inside(&format!("exec pgrep --oldest --full '{pattern}'"))
    }

    /// Waits until the process `old` has ended.
    pub fn wait_for_end(&self, old: &str) {
        until(30, "the old process has ended", || self.try_inside(&format!("kill -0 {old}")).is_err());
    }

    /// Waits until the process `old` has ended and another one runs in its place.
    pub fn wait_for_successor(&self, pattern: &str, old: &str) {
        self.wait_for_end(old);
        until(30, "it is started again", || self.process(pattern).is_ok());
    }

    /// The CA that signed the API server's certificate.
    pub fn authority(&self) -> PathBuf {
        match self.form {
            Form::Server => self.data().join("server/tls/ca.pem"),
            Form::Components => self.certificates().join("ca.crt"),
        }
    }

    fn certificates(&self) -> PathBuf {
        self.state.join("pki")
    }

    fn make_certificates(&self) {
        self.certify(&format!("cluster {NODE} 10.43.0.1"));
        self.certify_node("skiff-node", NODE);
    }

    /// Makes the certificates and the kubeconfig of a node.
    pub fn certify_node(&self, name: &str, address: &str) {
        self.certify(&format!("node {name} {address} {NODE}"));
    }

    fn certify(&self, what: &str) {
        let (script, folder) = ("crates/skiff/tests/e2e/certificates.sh", self.certificates());
        self.inside(&format!("sh {script} {} {what}", folder.display()));
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        match self.form {
            Form::Server => self.data().join("server/cred/admin.kubeconfig"),
            Form::Components => self.certificates().join("admin.kubeconfig"),
        }
    }

    /// A shell command inside the machine.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder, "--net", "--mount", "--uts", "--pid"]);
        command.arg(format!("--wd={}", repository().display())).args(["--", "sh", "-c", line]);
        command
    }

    /// Runs a shell command inside the machine; it must succeed.
    pub fn inside(&self, line: &str) -> String {
        self.try_inside(line).unwrap_or_else(|error| panic!("{line}: {error}\n{}", self.diagnosis()))
    }

    /// Runs a shell command inside the machine.
    pub fn try_inside(&self, line: &str) -> Result<String, String> {
        text(self.command(line).stdin(Stdio::null()).output().expect("nsenter starts"))
    }

    fn kubectl_line(&self, arguments: &str) -> String {
        format!("out/bin/kubectl --kubeconfig {} {arguments}", self.kubeconfig().display())
    }

    /// Runs kubectl, whose arguments are a line of shell; it must succeed.
    pub fn kubectl(&self, arguments: &str) -> String {
        self.inside(&self.kubectl_line(arguments))
    }

    /// Runs kubectl.
    pub fn try_kubectl(&self, arguments: &str) -> Result<String, String> {
        self.try_inside(&self.kubectl_line(arguments))
    }

    /// Applies manifests.
    pub fn apply(&self, manifest: &str) {
        let file = self.state.join("manifest.yaml");
        std::fs::write(&file, manifest).expect("a manifest");
        self.kubectl(&format!("apply -f {}", file.display()));
    }

    /// An object as JSON.
    pub fn get(&self, what: &str) -> Value {
        serde_json::from_str(&self.kubectl(&format!("get {what} -o json"))).expect("kubectl prints JSON")
    }

    /// Waits until a field of an object, as `jsonpath` prints it, is what `wanted` says.
    pub fn wait_for(&self, seconds: u64, what: &str, path: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut last = String::new();
        let line = format!("get {what} -o jsonpath='{{{path}}}'");
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            last = self.try_kubectl(&line).unwrap_or_else(|error| error);
            if wanted(&last) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{what} {path} is {last:?} after {seconds} s\n{}", self.diagnosis());
    }

    /// Kills every process inside the machine whose command line matches, with SIGKILL.
    pub fn kill_nine(&self, pattern: &str) {
        // `exec`, or the shell's own command line would match.
        self.inside(&format!("exec pkill --signal 9 --full '{pattern}'"));
    }

    /// The process of a container, as the machine counts.
    pub fn container_process(&self, pod: &str) -> String {
        let id = self
            .kubectl(&format!("get pod {pod} -o jsonpath='{{.status.containerStatuses[0].containerID}}'"));
        let id = id.trim_start_matches("containerd://");
        let socket = self.data().join("agent/containerd/containerd.sock");
        let list = format!("ctr --address {} --namespace k8s.io tasks list", socket.display());
        let process = self.inside(&format!("{list} | awk '$1 == \"{id}\" {{ print $2 }}'"));
        assert!(!process.is_empty(), "no process for {pod}");
        process
    }

    /// What a person would look at first.
    fn diagnosis(&self) -> String {
        let pods = self.try_kubectl("get pods -A -o wide").unwrap_or_else(|error| error);
        let events = self.try_kubectl("get events -A").unwrap_or_else(|error| error);
        let tail = |file: &str| {
            let path = self.data().join(file);
            let path = if path.exists() { path } else { self.state.join(file) };
            let text = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
            let lines: Vec<&str> = text.lines().rev().take(40).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        };
        let logs = match self.form {
            Form::Server => vec!["server.log", "agent/agent.log"],
            Form::Components => {
                vec!["kube-apiserver.log", "kube-controller-manager.log", "kubelet.log", "kube-proxy.log"]
            }
        };
        let logs: Vec<String> = logs.into_iter().map(|log| format!("{log}:\n{}", tail(log))).collect();
        format!("{pods}\n{events}\n{}", logs.join("\n"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::env::var_os("SKIFF_KEEP").is_none() {
            script(&format!("end_machine {}", self.name));
        }
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("SKIFF_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_skiff")), PathBuf::from)
}

/// Runs lines of `scripts/machine.sh` and gives back what they print.
fn script(lines: &str) -> String {
    let all = format!("set -euo pipefail; . scripts/machine.sh; {lines}");
    let output = Command::new("bash")
        .args(["-c", &all])
        .current_dir(repository())
        .stdin(Stdio::null())
        .output()
        .expect("bash starts");
    text(output).unwrap_or_else(|error| panic!("{lines}: {error}"))
}

fn text(output: Output) -> Result<String, String> {
    let out = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    if output.status.success() {
        return Ok(out);
    }
    Err(format!("{}: {out}{}", output.status, String::from_utf8_lossy(&output.stderr)))
}

/// Waits for something that another process does.
pub fn until(seconds: u64, what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !done() {
        assert!(Instant::now() < end, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
