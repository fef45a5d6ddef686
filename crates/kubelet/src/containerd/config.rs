//! The configuration that our containerd runs with, as text. Pure: what the machine can do is passed in.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Unix socket paths end here, the terminating zero included; containerd appends `.ttrpc` to ours.
const SOCKET_PATH_LIMIT: usize = 108 - ".ttrpc".len() - 1;

/// Where our containerd keeps what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Everything below is here.
    pub directory: PathBuf,
    /// The socket that it listens at.
    pub socket: PathBuf,
    /// CNI configuration that the node's network writes.
    pub cni_config: PathBuf,
}

impl Layout {
    /// The layout under `data_dir`. A data directory whose path is too long for a socket gets its socket under
    /// `/run/skiff`, in a directory named after the data directory.
    #[must_use]
    pub fn under(data_dir: &Path) -> Self {
        let directory = data_dir.join("agent/containerd");
        let near = directory.join("containerd.sock");
        let socket = if near.as_os_str().len() <= SOCKET_PATH_LIMIT {
            near
        } else {
            let name = crc32fast::hash(data_dir.as_os_str().as_encoded_bytes());
            PathBuf::from(format!("/run/skiff/{name:08x}/containerd.sock"))
        };
        Self { directory, socket, cni_config: data_dir.join("agent/cni/net.d") }
    }

    /// Its configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.join("config.toml")
    }

    /// Which process it is.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.directory.join("containerd.pid")
    }

    /// What it writes.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.join("containerd.log")
    }
}

/// What the machine can do, as far as containerd must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Without the capability, containers whose score is below ours would not start.
    pub may_lower_oom_score: bool,
    /// `overlayfs`, or `native` where overlay cannot be stacked.
    pub snapshotter: &'static str,
    /// Where CNI plugins are.
    pub cni_plugins: PathBuf,
    /// The image of sandboxes.
    pub sandbox_image: String,
}

/// The configuration file's text.
#[must_use]
pub fn render(layout: &Layout, facts: &Facts) -> String {
    let path = |path: &Path| quote(&path.to_string_lossy());
    let mut text = String::from("# Written by skiff at each start; changes are lost.\nversion = 2\n");
    let mut line = |line: String| writeln!(text, "{line}").expect("writing to a string");
    line(format!("root = {}", path(&layout.directory.join("root"))));
    line(format!("state = {}", path(&layout.directory.join("state"))));
    line(format!("disabled_plugins = [{}]", DISABLED.map(quote).join(", ")));
    line("[grpc]".into());
    line(format!("address = {}", path(&layout.socket)));
    line("[plugins.\"io.containerd.grpc.v1.cri\"]".into());
    line(format!("sandbox_image = {}", quote(&facts.sandbox_image)));
    line(format!("restrict_oom_score_adj = {}", !facts.may_lower_oom_score));
    line("stream_server_address = \"127.0.0.1\"".into());
    line("stream_server_port = \"0\"".into());
    line("disable_tcp_service = true".into());
    line("[plugins.\"io.containerd.grpc.v1.cri\".containerd]".into());
    line(format!("snapshotter = {}", quote(facts.snapshotter)));
    line("default_runtime_name = \"runc\"".into());
    line("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]".into());
    line("runtime_type = \"io.containerd.runc.v2\"".into());
    line("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]".into());
    line("SystemdCgroup = false".into());
    line("[plugins.\"io.containerd.grpc.v1.cri\".cni]".into());
    line(format!("bin_dir = {}", path(&facts.cni_plugins)));
    line(format!("conf_dir = {}", path(&layout.cni_config)));
    text
}

/// Snapshotters that need devices or file systems of their own, and services that nobody here calls.
const DISABLED: [&str; 5] = [
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
];

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(letter);
            }
            control if control.is_control() => {
                write!(quoted, "\\u{:04X}", u32::from(control)).expect("writing to a string");
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            may_lower_oom_score: false,
            snapshotter: "overlayfs",
            cni_plugins: "/usr/lib/cni".into(),
            sandbox_image: "skiff.local/pause:1".into(),
        }
    }

    #[test]
    fn everything_is_under_the_data_directory() {
        let layout = Layout::under(Path::new("/var/lib/skiff"));
        let text = render(&layout, &facts());
        for line in text.lines().filter(|line| line.contains("root =") || line.contains("state =")) {
            assert!(line.contains("\"/var/lib/skiff/agent/containerd/"), "{line}");
        }
        assert!(text.contains("restrict_oom_score_adj = true"));
        assert!(text.contains("address = \"/var/lib/skiff/agent/containerd/containerd.sock\""));
    }

    #[test]
    fn a_long_data_directory_still_gets_a_socket() {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
        let socket = Layout::under(&long).socket;
        assert!(socket.as_os_str().len() <= SOCKET_PATH_LIMIT, "{}", socket.display());
        let other = PathBuf::from(format!("/tmp/{}", "y".repeat(120)));
        assert_ne!(socket, Layout::under(&other).socket);
    }

    #[test]
    fn paths_cannot_break_out_of_their_quotes() {
        assert_eq!(quote("a\"b\\c\nd"), r#""a\"b\\c\u000Ad""#);
    }
}
