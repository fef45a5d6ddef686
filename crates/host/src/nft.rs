//! The packet filter behind a trait: apply a script atomically, list a table, be told when somebody touches it. The
//! real one runs the `nft` program; the fake keeps what it was given. Knows nothing of what the rules mean.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Why a request to the packet filter failed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is missing or could not be started.
    #[error("cannot run nft: {0}")]
    Start(#[from] std::io::Error),
    /// The kernel or the program refused; nothing was applied.
    #[error("nft refused: {0}")]
    Refused(String),
    /// The listing was not JSON.
    #[error("nft printed something that is not JSON: {0}")]
    Listing(#[from] serde_json::Error),
    /// The monitor came to an end.
    #[error("nft monitor ended")]
    MonitorEnded,
}

/// A packet filter.
#[async_trait]
pub trait Nft: Send + Sync {
    /// Applies a script in one transaction: all of it or nothing.
    async fn apply(&self, script: &str) -> Result<(), NftError>;

    /// The table of the `ip` family as `nft --json` prints it, or `None` if there is no such table.
    async fn list(&self, table: &str) -> Result<Option<Value>, NftError>;

    /// A message whenever somebody else changed any rule of the machine. Bursts are merged; none is lost.
    fn monitor(&self) -> Result<mpsc::Receiver<()>, NftError>;
}

/// The `nft` program of this machine, in the network namespace of this process.
pub struct NftProgram {
    tasks: TaskTracker,
    stop: CancellationToken,
    /// The programs that we ran last: what they change is no news.
    own: Arc<Mutex<VecDeque<u32>>>,
    _stop_on_drop: DropGuard,
}

impl NftProgram {
    /// Monitors run on `tasks` and end with this value.
    pub fn new(tasks: TaskTracker) -> Self {
        let stop = CancellationToken::new();
        Self { tasks, stop: stop.clone(), own: Arc::default(), _stop_on_drop: stop.drop_guard() }
    }
}

#[expect(clippy::disallowed_methods, reason = "the host crate is where processes are started")]
fn nft(arguments: &[&str]) -> tokio::process::Command {
    use std::process::Stdio;
    let mut command = tokio::process::Command::new("nft");
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Each transaction ends with `# new generation 7 by process 4711 (nft)`; its single changes come before and are not
/// always printed (elements of maps younger than the monitor are not).
fn changed_by(line: &str) -> Option<u32> {
    let rest = line.trim_start().strip_prefix("# new generation ")?;
    rest.split_whitespace().nth(3)?.parse().ok()
}

const REMEMBERED: usize = 64;

fn remember(own: &Mutex<VecDeque<u32>>, process: Option<u32>) {
    let mut own = lock(own);
    own.extend(process);
    while own.len() > REMEMBERED {
        own.pop_front();
    }
}

fn lock(own: &Mutex<VecDeque<u32>>) -> std::sync::MutexGuard<'_, VecDeque<u32>> {
    own.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[async_trait]
impl Nft for NftProgram {
    async fn apply(&self, script: &str) -> Result<(), NftError> {
        let mut child = nft(&["-f", "-"]).stdin(std::process::Stdio::piped()).spawn()?;
        remember(&self.own, child.id());
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        match output.status.success() {
            true => Ok(()),
            false => Err(NftError::Refused(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    async fn list(&self, table: &str) -> Result<Option<Value>, NftError> {
        let output = nft(&["--json", "list", "table", "ip", table]).output().await?;
        if output.status.success() {
            return Ok(Some(serde_json::from_slice(&output.stdout)?));
        }
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        match complaint.contains("No such file or directory") {
            true => Ok(None),
            false => Err(NftError::Refused(complaint)),
        }
    }

    fn monitor(&self) -> Result<mpsc::Receiver<()>, NftError> {
        let mut child = nft(&["monitor"]).spawn()?;
        let stdout = child.stdout.take().ok_or(NftError::MonitorEnded)?;
        let (sender, receiver) = mpsc::channel(1);
        let (stop, own) = (self.stop.clone(), self.own.clone());
        self.tasks.spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            let follow = async {
                while let Ok(Some(line)) = lines.next_line().await {
                    if changed_by(&line).is_none_or(|process| lock(&own).contains(&process)) {
                        continue;
                    }
                    // A full channel already says what this line says.
                    if let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                        break;
                    }
                }
            };
            tokio::select! {
                () = follow => {}
                () = stop.cancelled() => {}
                () = sender.closed() => {}
            }
            if let Err(error) = child.kill().await {
                tracing::warn!(%error, "cannot stop nft monitor");
            }
        });
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitor_names_the_process_that_changed_something() {
        assert_eq!(changed_by("# new generation 10 by process 19539 (nft)"), Some(19539));
        assert_eq!(changed_by("delete table ip t"), None);
    }
}
