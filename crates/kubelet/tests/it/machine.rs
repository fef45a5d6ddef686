//! A node for a test: a kubelet with a real containerd, an API in memory, and an image with a few programs.

use std::path::Path;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use component::Context;
use kubelet::Config;
use kubelet::archive::{Content, Image, ImageFile};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::FakeApi;

/// The image that the tests' pods run.
pub const IMAGE: &str = "test.local/busybox:1";

/// What takes longer has failed.
const LIMIT: Duration = Duration::from_secs(30);

/// A running kubelet.
pub struct Machine {
    pub api: FakeApi,
    pub config: Config,
    running: Option<Running>,
}

struct Running {
    shutdown: CancellationToken,
    tasks: TaskTracker,
    main: tokio::task::JoinHandle<Result<(), kubelet::Error>>,
}

impl Machine {
    /// A machine whose kubelet is not started yet.
    pub fn new(data: &Path) -> Self {
        let mut config = Config::new("node-1", data);
        config.node_ips = vec!["10.42.0.1".parse().expect("an address")];
        config.pod_cidr = Some("10.42.0.0/24".to_owned());
        let name = data.file_name().unwrap_or_default().to_string_lossy();
        config.cgroup_root = format!("/skiff-test-{name}");
        let images = data.join("agent/images");
        std::fs::create_dir_all(&images).expect("a directory");
        std::fs::write(images.join("busybox.tar"), busybox()).expect("an archive");
        Self { api: FakeApi::default(), config, running: None }
    }

    /// Starts the kubelet.
    #[expect(clippy::disallowed_methods, reason = "the test owns what it starts and waits for its end")]
    pub fn start(&mut self) {
        // The log of a test that failed; of the others nobody sees it.
        let filter =
            tracing_subscriber::EnvFilter::try_from_env("SKIFF_LOG").unwrap_or_else(|_| "info".into());
        let logging =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
        if logging.is_err() {
            tracing::debug!("an earlier kubelet of this process logs already");
        }
        let context = Context {
            client: self.api.client(),
            clock: Clock::system(),
            entropy: Entropy::from_os(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        };
        let (tasks, shutdown) = (context.tasks.clone(), context.shutdown.clone());
        let main = tokio::spawn(kubelet::run(context, self.config.clone()));
        self.running = Some(Running { shutdown, tasks, main });
    }

    /// Ends the kubelet; containers must not notice.
    pub async fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.shutdown.cancel();
        running.main.await.expect("no panic").expect("no error");
        running.tasks.close();
        within(running.tasks.wait(), "the end of all tasks").await;
    }

    /// Ends the kubelet of a machine whose pods are all gone, and the machine.
    pub async fn end(mut self) {
        self.stop().await;
        let hierarchy = host::cgroup::Hierarchy::detect().expect("cgroups");
        hierarchy.remove(&self.config.cgroup_root).expect("nothing is left in it");
    }

    /// Makes a pod on this node.
    pub fn pod(&self, name: &str, spec: Value) -> String {
        let path = format!("namespaces/default/pods/{name}");
        let mut spec = spec;
        spec["nodeName"] = json!("node-1");
        self.api.put(
            &path,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generation": 1}, "spec": spec}),
        );
        path
    }

    /// Waits until a pod's status satisfies a condition.
    pub async fn status(&self, path: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        let status = |pod: Option<&Value>| {
            pod.and_then(|pod| pod.get("status")).filter(|status| check(status)).cloned()
        };
        let found = tokio::time::timeout(LIMIT, self.api.until(path, what, status)).await;
        found.unwrap_or_else(|_| {
            let events: Vec<_> = self.api.under("namespaces/default/events/").iter().map(event).collect();
            panic!("{path}: never {what}: {:#}\n{events:#?}", self.api.get(path).unwrap_or_default())
        })
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, path: &str) {
        within(self.api.until(path, "gone", |found| found.is_none().then_some(())), "an object's end").await;
    }

    /// Waits until the node says that it is ready, or not; its words.
    pub async fn node_ready(&self, ready: bool) -> String {
        let value = if ready { "True" } else { "False" };
        let check = |node: Option<&Value>| {
            let conditions = node?.pointer("/status/conditions")?.as_array()?;
            let found = conditions
                .iter()
                .find(|condition| condition["type"] == "Ready" && condition["status"] == value)?;
            Some(found["message"].as_str().unwrap_or_default().to_owned())
        };
        within(self.api.until("nodes/node-1", "ready or not", check), "the node's condition").await
    }

    /// Reasons and notes of the events so far.
    pub fn events(&self) -> Vec<String> {
        self.api.under("namespaces/default/events/").iter().map(event).collect()
    }
}

fn event(event: &Value) -> String {
    let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
    format!("{} {}: {}", text("type"), text("reason"), text("message"))
}

/// Waits for something, though not for ever.
pub async fn within<T>(future: impl Future<Output = T>, what: &str) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("gave up waiting for {what}"),
    }
}

/// Waits for something that tells nobody when it happens.
pub async fn until(what: &str, check: impl Fn() -> bool) {
    let look = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(look, what).await;
}

/// Ready, as a check for `Machine::status`.
pub fn is_ready(status: &Value) -> bool {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The restart count of the first container.
pub fn restarts(status: &Value) -> u64 {
    status.pointer("/containerStatuses/0/restartCount").and_then(Value::as_u64).unwrap_or(0)
}

fn busybox() -> Vec<u8> {
    let program = std::fs::read("/bin/busybox").or_else(|_| std::fs::read("/usr/bin/busybox"));
    let program = program.expect("scripts/setup installs busybox-static");
    let mut files = vec![ImageFile { path: "bin/busybox".into(), content: Content::File(program, 0o755) }];
    for name in
        ["sh", "sleep", "cat", "echo", "httpd", "kill", "env", "nslookup", "wget", "test", "touch", "rm"]
    {
        files.push(ImageFile { path: format!("bin/{name}"), content: Content::Link("busybox".into()) });
    }
    for (path, mode) in [("tmp", 0o1777), ("etc", 0o755), ("proc", 0o555), ("sys", 0o555), ("dev", 0o755)] {
        files.push(ImageFile { path: path.into(), content: Content::Directory(mode) });
    }
    let image = Image { name: IMAGE.into(), files, entrypoint: Vec::new(), env: vec!["PATH=/bin".into()] };
    image.pack(if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }).expect("packed")
}
