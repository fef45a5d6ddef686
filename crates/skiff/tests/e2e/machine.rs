//! A machine of its own for a cluster (namespaces without a route out, made by `scripts/machine.sh`), a `skiff server` in
//! it, and stock kubectl. Everything ends with the machine, which ends with the test.

#![expect(clippy::disallowed_methods, reason = "an end-to-end test is what starts the processes under test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The address of the only node.
pub const NODE: &str = "172.30.0.2";

/// A cluster of one node.
pub struct Cluster {
    name: String,
    holder: String,
    state: PathBuf,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// Why end-to-end tests cannot run here, if so.
fn missing() -> Option<String> {
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
    pub fn start(name: &str) -> Option<Cluster> {
        if let Some(missing) = missing() {
            assert!(std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_none(), "cannot run: {missing}");
            eprintln!("SKIPPED {name}: {missing}");
            return None;
        }
        let name = format!("e2e-{name}");
        let state = PathBuf::from(script(&format!("end_machine {name}; start_machine {name}; echo $state")));
        let holder = std::fs::read_to_string(state.join("holder")).expect("the machine runs").trim().to_owned();
        let cluster = Cluster { name, holder, state };
        let images = cluster.data().join("agent/images");
        std::fs::create_dir_all(&images).expect("a folder for images");
        for archive in ["busybox.tar", "nginx.tar"] {
            let from = repository().join("out/images").join(archive);
            std::fs::copy(from, images.join(archive)).expect("an image archive");
        }
        // A route out that leads nowhere: what would leave the node can be seen on this link.
        cluster.inside("ip route add default via 172.30.0.1 dev node0");
        cluster.start_server();
        cluster.kubectl("wait --for=create node/skiff-node --timeout=60s");
        cluster.kubectl("wait --for=condition=Ready node --all --timeout=60s");
        Some(cluster)
    }

    /// Where the server keeps everything.
    pub fn data(&self) -> PathBuf {
        self.state.join("data")
    }

    /// Starts `skiff server` and waits until it is ready.
    pub fn start_server(&self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.state.join("server.log"))
            .expect("a log file");
        let command = format!(
            "exec setsid {} server --data-dir {} --node-ip {NODE} --cgroup-root /skiff-{}",
            binary().display(),
            self.data().display(),
            self.name
        );
        self.command(&command)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .expect("the server starts");
        until(20, "the API server is ready", || self.try_kubectl("get --raw /readyz").is_ok());
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
        let kubeconfig = self.data().join("server/cred/admin.kubeconfig");
        format!("out/bin/kubectl --kubeconfig {} {arguments}", kubeconfig.display())
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
        let id = self.kubectl(&format!("get pod {pod} -o jsonpath='{{.status.containerStatuses[0].containerID}}'"));
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
        format!("{pods}\n{events}\nserver.log:\n{}\nagent.log:\n{}", tail("server.log"), tail("agent/agent.log"))
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
