//! Namespaces for a test: it runs itself again inside them.

use std::path::{Path, PathBuf};
use std::process::Command;

const INSIDE: &str = "SKIFF_TEST_INSIDE";

/// Runs `body` inside fresh namespaces. `name` is the test's full name, as the test binary knows it.
pub fn isolated(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        prepare();
        body();
        return;
    }
    if !available() {
        return;
    }
    let program = std::env::current_exe().expect("a test binary knows itself");
    let status = command("unshare")
        .args(["--net", "--mount", "--pid", "--ipc", "--fork", "--mount-proc", "--kill-child"])
        .arg(program)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare starts");
    assert!(status.success(), "inside its namespaces the test failed: {status}");
}

fn available() -> bool {
    let required = std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_some_and(|value| value == "1");
    let root = command("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let missing: Vec<_> =
        ["containerd", "runc", "ctr", "unshare"].into_iter().filter(|name| !found(name)).collect();
    if root && missing.is_empty() {
        return true;
    }
    let why = if root { format!("missing: {}", missing.join(", ")) } else { "not root".to_owned() };
    assert!(!required, "SKIFF_REQUIRE_CONTAINERD=1, but {why}");
    println!("SKIP: real-containerd tests: {why}");
    false
}

fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Loopback up, and nothing of ours in the machine's `/run`.
fn prepare() {
    run("mount", &["--make-rprivate", "/"]);
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
    run("ip", &["link", "set", "lo", "up"]);
    let routes = command("ip").args(["route", "show", "default"]).output().expect("ip runs");
    assert!(routes.stdout.is_empty(), "a test must have no way out");
}

/// Runs a program that must succeed.
pub fn run(program: &str, args: &[&str]) {
    let output = command(program).args(args).output().expect("the program starts");
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[expect(clippy::disallowed_methods, reason = "the test's own scaffolding, not the product")]
fn command(program: &str) -> Command {
    Command::new(program)
}

/// A CNI configuration for a bridge that leads nowhere.
pub fn write_cni_config(directory: &Path, addresses: &Path) {
    let config = serde_json::json!({
        "cniVersion": "1.0.0",
        "name": "skiff-test",
        "plugins": [{
            "type": "bridge",
            "bridge": "skifftest0",
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": addresses,
                "ranges": [[{"subnet": "10.42.0.0/24"}]],
            },
        }],
    });
    std::fs::create_dir_all(directory).expect("a directory of ours");
    std::fs::write(directory.join("10-skiff.conflist"), config.to_string()).expect("a file of ours");
}

/// A data directory on a real disk, short enough for sockets.
pub fn data_dir() -> (tempfile::TempDir, PathBuf) {
    let dir =
        tempfile::Builder::new().prefix("skiff-k").tempdir_in("/var/tmp").expect("a temporary directory");
    let path = dir.path().to_owned();
    (dir, path)
}

/// A runtime with the features that the kubelet needs.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}
