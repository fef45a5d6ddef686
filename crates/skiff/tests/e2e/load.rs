//! Requests that a node of a cluster makes all the while through a Service: at least 200 a second, and none may fail.

#![expect(clippy::disallowed_methods, reason = "real requests take real time")]

use std::process::{Child, Stdio};
use std::time::Instant;

use crate::cluster::{Cluster, text};
use crate::machine::repository;

/// Requests a second that there must have been.
const RATE: u64 = 200;
/// Twice as many are tried: each of so many connections waits so many milliseconds before each request.
const CONNECTIONS: &str = "16";
const PAUSE: &str = "40";
/// Nobody waits for the end of it.
const DURATION: &str = "900s";

/// Requests that are being made. They end with their node at the latest.
pub struct Load<'a> {
    cluster: &'a Cluster,
    node: &'a str,
    process: Child,
    began: Instant,
}

impl<'a> Load<'a> {
    /// Begins, with a new connection for each request.
    pub fn start(cluster: &'a Cluster, node: &'a str) -> Load<'a> {
        let (script, url) = (repository().join("scripts/load.lua"), format!("http://{}/", cluster.service()));
        let words = ["exec", node, "--", "wrk", "--threads", "1", "--connections", CONNECTIONS, "--duration"];
        let mut command = cluster.command(&words);
        command.args([DURATION, "--timeout", "10s", "--header", "Connection: close", "--script"]);
        command.arg(script).args([&url, "--", PAUSE]);
        let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        Load { cluster, node, process, began: Instant::now() }
    }

    /// Ends, and judges.
    pub fn end(self) {
        let seconds = self.began.elapsed().as_secs();
        self.cluster.on(self.node, "exec pkill --signal INT --exact wrk").expect("it runs");
        let output = text(self.process.wait_with_output().expect("it ends")).expect("wrk");
        let answered = output
            .lines()
            .find_map(|line| line.strip_prefix("requests: ")?.strip_suffix(" answered, 0 failed"))
            .unwrap_or_else(|| panic!("some failed: {output}"));
        let answered: u64 = answered.parse().expect("a number");
        assert!(answered >= seconds * RATE, "within {seconds} s: {output}");
        eprintln!("{answered} requests answered within {seconds} s");
    }
}
