//! `skiff uninstall`: the end of everything that Skiff made on this machine. Nothing is left: units, processes, containers,
//! mounts, links, rules, routes, cgroups, data. Safe to repeat after it was interrupted.
//!
//! What belongs to us is known by the data directory (processes, mounts), by a name that begins with `skiff` (links,
//! tables of the packet filter), and by the cgroup `kubepods` below the given root.

mod iptables;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use cri::messages::{ListPodSandboxRequest, RemovePodSandboxRequest, StopPodSandboxRequest};
use host::cgroup::Hierarchy;
use host::mount::LinuxMounts;
use host::process::Identity;
use kubelet::containerd::{Containerd, Layout};
use serde_json::Value;

use crate::install::{BINARY, PREVIOUS, ROLES, UNITS, systemctl, systemd_runs, unit_name};

/// How long a process may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(20);
/// The directory that is meant when a command line names none.
const DATA_DIR: &str = "/var/lib/skiff";
/// What ours are named like.
const PREFIX: &str = "skiff";

/// What was installed, as far as it is not usual.
#[derive(Args, Clone, Debug)]
pub struct UninstallFlags {
    /// The data directory of what shall be uninstalled
    #[arg(long, short = 'd', env = "SKIFF_DATA_DIR", default_value = DATA_DIR)]
    pub data_dir: PathBuf,
    /// Cgroup below which the pods' cgroups were made
    #[arg(long, default_value = "/")]
    pub cgroup_root: String,
    /// Range of the pods' addresses
    #[arg(long, default_value = "10.42.0.0/16")]
    pub cluster_cidr: String,
    /// Keep the data directory, images and the cluster's store included
    #[arg(long)]
    pub keep_data: bool,
    /// Only remove the files that `skiff install --root` wrote below this folder
    #[arg(long)]
    pub root: Option<PathBuf>,
}

/// Takes everything away, in the order in which nothing comes back.
pub async fn run(flags: UninstallFlags) -> Result<()> {
    if let Some(root) = &flags.root {
        return files(root);
    }
    let data_dir = std::path::absolute(&flags.data_dir).context("--data-dir")?;
    if systemd_runs() {
        for role in ROLES.iter().filter(|role| Path::new("/").join(UNITS).join(unit_name(role)).exists()) {
            systemctl(&["disable", "--now", &unit_name(role)]).await?;
        }
    }
    // The server first: it would start the node process again.
    for role in ["server", "agent", ""] {
        end(|process| is_skiff(process, &data_dir, role)).await?;
    }
    containers(&data_dir).await?;
    end(|process| mentions(process, &data_dir)).await?;
    host::mount::unmount_under(&LinuxMounts, &data_dir).context("mounts below the data directory")?;
    cgroups(&flags.cgroup_root)?;
    network(&flags.cluster_cidr).await?;
    if let Some(folder) =
        Layout::under(&data_dir).socket.parent().filter(|folder| folder.starts_with("/run/skiff"))
    {
        remove_folder(folder)?;
    }
    if !flags.keep_data {
        remove_folder(&data_dir)?;
    }
    files(Path::new("/"))?;
    if systemd_runs() {
        systemctl(&["daemon-reload"]).await?;
    }
    println!("nothing of Skiff is left{}", if flags.keep_data { " but its data" } else { "" });
    Ok(())
}

/// Units and binary.
fn files(root: &Path) -> Result<()> {
    let units = ROLES.iter().map(|role| root.join(UNITS).join(unit_name(role)));
    let binary = root.join(BINARY);
    for path in units.chain([binary.with_file_name(PREVIOUS), binary]) {
        match std::fs::remove_file(&path) {
            Ok(()) => println!("removed {}", path.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot remove {}", path.display())),
        }
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Whether it is a Skiff process of this data directory, in this role if one is named.
pub fn is_skiff(process: &Identity, data_dir: &Path, role: &str) -> bool {
    let arguments = process.arguments();
    let [program, command, rest @ ..] = arguments.as_slice() else { return false };
    if Path::new(program).file_name().is_none_or(|name| name != PREFIX) {
        return false;
    }
    let named = data_dir_of(rest).unwrap_or_else(|| DATA_DIR.into());
    let in_role = if role.is_empty() { command != "uninstall" } else { command == role };
    in_role && named == data_dir
}

/// The data directory that arguments name.
fn data_dir_of(arguments: &[String]) -> Option<PathBuf> {
    let flags = ["--data-dir", "-d", "--root-dir"];
    let separate =
        arguments.windows(2).find(|pair| flags.contains(&pair[0].as_str())).map(|pair| pair[1].as_str());
    let joined = || {
        let after = |argument: &'_ String| {
            flags.iter().find_map(|flag| argument.strip_prefix(*flag)?.strip_prefix('=').map(str::to_owned))
        };
        arguments.iter().find_map(after)
    };
    separate.map(str::to_owned).or_else(joined).map(PathBuf::from)
}

/// Whether one of its arguments is a file of the data directory: containerd, and what it starts for containers.
fn mentions(process: &Identity, data_dir: &Path) -> bool {
    let socket = Layout::under(data_dir).socket;
    let program =
        process.program().and_then(|program| Some(program.file_name()?.to_string_lossy().into_owned()));
    let runtime = program.is_some_and(|name| name.starts_with("containerd") || name == "runc");
    runtime
        && process.arguments().iter().map(Path::new).any(|path| path.starts_with(data_dir) || path == socket)
}

/// Ends all such processes: asked first, killed after a while.
pub async fn end(ours: impl Fn(&Identity) -> bool) -> Result<()> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let found: Vec<Identity> = host::process::all()
        .context("cannot list processes")?
        .into_iter()
        .filter(|process| process.pid != own && ours(process))
        .collect();
    for process in &found {
        process.terminate().with_context(|| format!("cannot end process {}", process.pid))?;
    }
    for process in &found {
        if tokio::time::timeout(PATIENCE, process.exited()).await.is_err() {
            process.kill().with_context(|| format!("cannot kill process {}", process.pid))?;
            process.exited().await.with_context(|| format!("cannot watch process {}", process.pid))?;
        }
    }
    Ok(())
}

/// All pods, through the runtime, which takes away their network and mounts; and then the runtime itself.
async fn containers(data_dir: &Path) -> Result<()> {
    let layout = Layout::under(data_dir);
    if !layout.config().exists() {
        return Ok(());
    }
    let usual = kubelet::Config::new("", data_dir);
    let containerd = Containerd::new(data_dir, usual.containerd, usual.cni_plugins)?;
    let running = containerd.ensure().await.context("the runtime is needed to take away its containers")?;
    let client = cri::Client::new(&layout.socket);
    let pods =
        client.list_pod_sandbox(ListPodSandboxRequest::default()).await.context("cannot list pods")?.items;
    for pod in &pods {
        let pod_sandbox_id = pod.id.clone();
        client
            .stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id })
            .await
            .context("cannot stop a pod")?;
        let pod_sandbox_id = pod.id.clone();
        client
            .remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id })
            .await
            .context("cannot remove a pod")?;
    }
    if !pods.is_empty() {
        println!("removed {} pods", pods.len());
    }
    containerd.stop(running).await?;
    Ok(())
}

fn cgroups(root: &str) -> Result<()> {
    let group = format!("{}/kubepods", root.trim_end_matches('/'));
    let hierarchy = Hierarchy::detect().context("cannot find cgroups")?;
    hierarchy.remove(&group).with_context(|| format!("cannot remove the cgroup {group}"))
}

/// Links, virtual services, tables of the packet filter, and the route that held the pods' range.
async fn network(cluster_cidr: &str) -> Result<()> {
    host::ipvs::clear().await.context("cannot remove virtual services")?;
    for link in listed("ip", &["-json", "link", "show"], &["/ifname"]).await? {
        // A pair goes with its other end.
        if link[0].starts_with(PREFIX) && ip(&["link", "delete", &link[0]]).await.is_err() {
            let still = listed("ip", &["-json", "link", "show"], &["/ifname"]).await?;
            if still.contains(&link) {
                bail!("cannot remove the link {}", link[0]);
            }
        }
    }
    let routes = listed("ip", &["-json", "route", "show", "type", "unreachable"], &["/dst"]).await?;
    if routes.iter().any(|route| route[0] == cluster_cidr) {
        ip(&["route", "delete", "unreachable", cluster_cidr]).await?;
    }
    let tables =
        host::process::run("nft", &["--json", "list", "tables"]).await.context("cannot list tables")?;
    let tables: Value = serde_json::from_slice(&tables.stdout).context("nft printed something unexpected")?;
    for table in tables["nftables"].as_array().into_iter().flatten().map(|entry| &entry["table"]) {
        if let (Some(family), Some(name)) = (table["family"].as_str(), table["name"].as_str())
            && name.starts_with(PREFIX)
        {
            host::process::run("nft", &["delete", "table", family, name])
                .await
                .with_context(|| format!("cannot remove the table {name}"))?;
        }
    }
    iptables::clean().await
}

async fn ip(arguments: &[&str]) -> Result<()> {
    host::process::run("ip", arguments).await.with_context(|| format!("ip {}", arguments.join(" ")))?;
    Ok(())
}

/// Fields of every entry of a listing in JSON.
async fn listed(program: &str, arguments: &[&str], fields: &[&str]) -> Result<Vec<Vec<String>>> {
    let output =
        host::process::run(program, arguments).await.with_context(|| format!("{program} {arguments:?}"))?;
    let list: Value =
        serde_json::from_slice(&output.stdout).with_context(|| format!("{program} printed no JSON"))?;
    let entries = list.as_array().into_iter().flatten();
    Ok(entries
        .map(|entry| {
            let field =
                |path: &&str| entry.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            fields.iter().map(field).collect()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_found_in_arguments() {
        let found = |text: &str| data_dir_of(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for text in ["--x --data-dir /d", "-d /d --y", "--data-dir=/d", "--node-ip 1.2.3.4 --root-dir /d"] {
            assert_eq!(found(text).as_deref(), Some(Path::new("/d")), "{text}");
        }
        assert_eq!(found("--node-name --data-dirs=/d"), None);
    }

    #[test]
    fn files_go_and_may_be_gone_already() {
        let root = tempfile::tempdir().expect("a folder");
        let unit = root.path().join(UNITS).join("skiff-agent.service");
        std::fs::create_dir_all(unit.parent().expect("a folder")).expect("a folder");
        std::fs::write(&unit, "x").expect("a file");
        files(root.path()).expect("removed");
        assert!(!unit.exists());
        files(root.path()).expect("again");
    }
}
