//! The node process beside the control plane. It is not a child in the sense that matters: it has its own session and
//! outlives the server, and a restarted server adopts the one that runs.
//!
//! A lock on a file says whether one runs. The server takes the lock, hands the locked file to the agent as its standard
//! input and lets go; from then on the kernel keeps the lock exactly as long as the agent lives, and waiting for the
//! lock is waiting for the agent's end, without polling and whoever started it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use host::process::Daemon;
use tokio_util::sync::CancellationToken;

use crate::flags::AgentFlags;

/// How long after its end a node process is started again; doubles up to the second while it keeps ending at once.
const RESTART_FIRST: Duration = Duration::from_millis(100);
const RESTART_LAST: Duration = Duration::from_secs(10);
/// A node process that lived this long did not fail at its start.
const HEALTHY: Duration = Duration::from_secs(30);

/// Keeps one node process running until shutdown, which it survives.
pub async fn keep(flags: AgentFlags, shutdown: CancellationToken) -> Result<()> {
    let folder = flags.node.data_dir.join("agent");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let lock = folder.join("agent.lock");
    let mut delay = RESTART_FIRST;
    loop {
        let waited = tokio::time::Instant::now();
        let Some(held) = shutdown.run_until_cancelled(locked(lock.clone())).await else { return Ok(()) };
        let held = held?;
        if waited.elapsed() > HEALTHY {
            delay = RESTART_FIRST;
        }
        start(&flags, held, &folder)?;
        if shutdown.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
            return Ok(());
        }
        delay = (delay * 2).min(RESTART_LAST);
    }
}

/// Waits for the end of the node process that holds the lock, if there is one.
async fn locked(path: PathBuf) -> Result<File> {
    tokio::task::spawn_blocking(move || {
        let file = open(&path)?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    })
    .await
    .context("the thread that waits for the node process failed")?
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

fn start(flags: &AgentFlags, lock: File, folder: &Path) -> Result<()> {
    let program = program_file()?;
    let daemon = Daemon::new(program, folder.join("agent.log")).args(flags.to_arguments()).stdin(lock);
    let identity = daemon.spawn().context("cannot start the node process")?;
    tracing::info!(pid = identity.pid, "node process started");
    Ok(())
}

/// The file that this program was started from, as it is now: when it was replaced meanwhile, the node process is started
/// from its successor.
fn program_file() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    if own.exists() {
        return Ok(own);
    }
    // The kernel says so behind the path of a file that is gone.
    let path = own.to_str().and_then(|path| path.strip_suffix(" (deleted)"));
    Ok(path.map_or(own.clone(), PathBuf::from))
}
