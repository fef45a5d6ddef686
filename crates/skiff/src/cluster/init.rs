//! The first process of a node: it prepares the folders, says so, and from then on does nothing but take note of what has
//! ended. Everything on the node ends with it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use host::mount::{LinuxMounts, Mounts};

use super::layout::{Layout, PROGRAM, SWITCH};

/// Where it says that the node is prepared, or why not.
pub const STATE: &str = "state";
/// Where a machine says who knows names.
pub const RESOLVER: &str = "/etc/resolv.conf";
/// What it says when all is well.
pub const PREPARED: &str = "prepared";

/// Runs until it is killed.
pub fn run(folder: &Path, node: &str) -> Result<()> {
    let layout = Layout::at(folder)?;
    let own = layout.node(node);
    // The folder itself may be hidden by what is mounted.
    let handle = File::open(&own).with_context(|| format!("cannot open {}", own.display()))?;
    let prepared = prepare(&layout, node);
    let words = match &prepared {
        Ok(()) => PREPARED.to_owned(),
        Err(error) => format!("{error:#}"),
    };
    let state = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd())).join(STATE);
    host::files::write_atomic(&state, words.as_bytes(), 0o600)
        .context("cannot say that the node is prepared")?;
    prepared?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the async runtime")?.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut ended = signal(SignalKind::child()).context("cannot listen for SIGCHLD")?;
        loop {
            host::machines::reap().context("cannot take note of what has ended")?;
            ended.recv().await;
        }
    })
}

/// Names are asked of the switch, which asks this machine's own name servers: they may listen where no node reaches them.
fn ask_the_switch(mounts: &LinuxMounts) -> std::io::Result<()> {
    let ours = Path::new("/run/skiff/resolv.conf");
    std::fs::write(ours, format!("nameserver {SWITCH}\n"))?;
    let usual = Path::new(RESOLVER);
    if !usual.exists() {
        // This machine's is a link into a folder that is the node's own.
        let leads = Path::new("/etc").join(std::fs::read_link(usual)?);
        leads.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        File::create(leads)?;
    }
    mounts.bind(ours, usual)
}

/// Folders that are the node's own: /var/lib lasts, the others are empty at each start.
fn prepare(layout: &Layout, node: &str) -> Result<()> {
    let mounts = LinuxMounts;
    let own = layout.var_lib(node);
    mounts.bind(&own, Path::new("/var/lib")).context("cannot mount /var/lib")?;
    for empty in ["/run", "/tmp"] {
        mounts.tmpfs(Path::new(empty), None).with_context(|| format!("cannot mount {empty}"))?;
    }
    let program = Path::new(PROGRAM);
    std::fs::create_dir_all(program.parent().unwrap_or(program))
        .context("cannot make a folder below /run")?;
    File::create(program).with_context(|| format!("cannot make {PROGRAM}"))?;
    // Whatever file this process runs, wherever that was.
    mounts.bind(Path::new("/proc/self/exe"), program).with_context(|| format!("cannot mount {PROGRAM}"))?;
    if layout.description()?.internet {
        ask_the_switch(&mounts).with_context(|| format!("cannot mount {RESOLVER}"))?;
    }
    host::machines::set_hostname(node).context("cannot name the node")
}
