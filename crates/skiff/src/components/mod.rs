//! Each component alone, with upstream's flag names, so that any one can run in a process of its own and be swapped with
//! the stock one. A flag that is accepted does what it says; every other one is refused by name.

pub mod announcer;
mod bootstrap;
pub mod cloud_controller_manager;
mod config_file;
pub mod dns;
pub mod election;
pub mod kube_apiserver;
pub mod kube_controller_manager;
pub mod kube_proxy;
pub mod kube_scheduler;
pub mod kubelet;
mod kubelet_config;
pub mod node_network;
pub mod pod_network;
pub mod secure_serving;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use component::Context;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a component lives on, as the user of a kubeconfig.
fn context(kubeconfig: &Path, shutdown: &CancellationToken) -> Result<Context> {
    Ok(Context {
        client: component::connect::from_kubeconfig(kubeconfig).context("--kubeconfig")?,
        clock: Clock::system(),
        entropy: Entropy::from_os(),
        tasks: TaskTracker::new(),
        shutdown: shutdown.clone(),
    })
}

/// Waits for what a component started.
async fn ended(context: &Context) {
    context.tasks.close();
    context.tasks.wait().await;
}

/// The node's name: as given, else the host's; in lower case, as upstream has it.
fn node_name(given: Option<&str>) -> Result<String> {
    match given {
        Some(name) => Ok(name.to_lowercase()),
        None => Ok(host::system::machine().context("cannot learn the host's name")?.hostname.to_lowercase()),
    }
}

/// A file that a flag names.
fn read(flag: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{flag}: cannot read {}", path.display()))
}

/// A text file that a flag names.
fn read_text(flag: &str, path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{flag}: cannot read {}", path.display()))
}

/// A socket as upstream writes it, `unix:///run/x.sock`, or just its path.
fn socket(text: &str) -> Result<PathBuf> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if !path.starts_with('/') {
        bail!("{text:?} is not a socket such as unix:///run/containerd/containerd.sock");
    }
    Ok(path.into())
}

/// A time as Go writes it: `15s`, `1m0s`, `500ms`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration =
        text.parse().map_err(|_| format!("{text:?} is not a time such as 15s or 1m30s"))?;
    Duration::try_from(span).map_err(|_| format!("{text:?} is negative"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sockets_are_written_as_upstream_writes_them() {
        for (text, millis) in
            [("15s", 15_000), ("1m0s", 60_000), ("500ms", 500), ("1h0m0s", 3_600_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert!(duration("15").is_err() && duration("-1s").is_err() && duration("soon").is_err());
        assert_eq!(socket("unix:///run/x.sock").expect("a socket"), Path::new("/run/x.sock"));
        assert_eq!(socket("/run/x.sock").expect("a socket"), Path::new("/run/x.sock"));
        assert!(socket("tcp://1.2.3.4:5").is_err());
    }
}
