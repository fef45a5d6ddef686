//! The end of a cluster. Whatever there is of it is looked for, so that it does not matter how far its making got.

use std::time::Duration;

use anyhow::{Context, Result};
use host::cgroup::Hierarchy;
use host::mount::{LinuxMounts, unmount_under};
use host::process::Identity;

use super::layout::Layout;
use super::{internet, nodes};

/// The kernel lets go of a cgroup a moment after its last process: between attempts, and in all.
const LET_GO: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(20));

/// Ends and removes everything; nothing happens to a cluster that is not there.
pub async fn remove(layout: &Layout) -> Result<()> {
    // First what nodes and switch are, which lets those that started them take note of it; then whatever is left, since
    // making a node may have gone on until its maker was ended.
    let first = processes(layout, |words| words.get(1).is_some_and(|word| word == "cluster"))?;
    let networks = host::machines::networks_of(&first);
    end(&first).await?;
    end(&processes(layout, |_| true)?).await?;
    // Commands that were on their way into a node when their maker was ended.
    end(&host::machines::in_networks(&networks).context("cannot read /proc")?).await?;
    remove_cgroups(layout).await?;
    // Unless it is known that there is none: a description may be damaged.
    if layout.description_file().exists() && layout.description().map_or(true, |known| known.internet) {
        internet::close(layout).await?;
    }
    unmount_under(&LinuxMounts, &layout.folder)
        .context("cannot unmount what is below the cluster's folder")?;
    match std::fs::remove_dir_all(&layout.folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", layout.folder.display()))
        }
        _ => Ok(()),
    }
}

async fn end(processes: &[Identity]) -> Result<()> {
    for process in processes {
        process.kill().context("cannot end a process of the cluster")?;
    }
    for process in processes {
        nodes::gone(*process, "a process of the cluster").await?;
    }
    Ok(())
}

/// The switch, the nodes' first processes, and what started them. Everything else ends with these.
fn processes(layout: &Layout, also: impl Fn(&[String]) -> bool) -> Result<Vec<Identity>> {
    let folder = layout.folder.to_string_lossy();
    let is = |words: &[String]| {
        let part = |three: &[String]| {
            let kind = matches!(three[1].as_str(), "run-node" | "run-switch");
            three[0] == "cluster" && kind && three[2] == folder
        };
        words.windows(3).any(part) && also(words)
    };
    host::machines::find(is).context("cannot read /proc")
}

async fn remove_cgroups(layout: &Layout) -> Result<()> {
    let Ok(hierarchy) = Hierarchy::detect() else { return Ok(()) };
    let group = layout.cgroup();
    let end = tokio::time::Instant::now() + LET_GO.1;
    loop {
        match hierarchy.remove(&group) {
            Err(_) if tokio::time::Instant::now() < end => tokio::time::sleep(LET_GO.0).await,
            outcome => return outcome.with_context(|| format!("cannot remove the cgroup {group}")),
        }
    }
}
