//! The `iptables` programs of this machine: rules are listed and changed as text, a table at a time. Knows nothing of
//! what the rules mean.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use crate::process::{Command, LinuxRunner, ProcessError, Runner};

/// Output of a listing beyond this is not read: some million rules.
const LIST_LIMIT: usize = 256 << 20;

/// All tables, as `iptables-save` prints them.
pub async fn save() -> Result<String, ProcessError> {
    let command = Command { output_limit: LIST_LIMIT, ..Command::new("iptables-save") };
    let output = LinuxRunner.run(&command).await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Applies a script of `iptables-restore`: each of its tables in one transaction. Chains that it does not name stay.
/// `started` is told the number of the process before it can have changed anything.
#[expect(clippy::disallowed_methods, reason = "the host crate is where processes are started")]
pub async fn restore(script: &str, started: impl FnOnce(u32)) -> Result<(), ProcessError> {
    const PROGRAM: &str = "iptables-restore";
    let fail = |source| ProcessError::Io { program: PROGRAM.to_owned(), source };
    // `--wait`: another program may hold the lock of the older kind of iptables.
    let mut child = tokio::process::Command::new(PROGRAM)
        .args(["--wait", "5", "--noflush"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(fail)?;
    if let Some(process) = child.id() {
        started(process);
    }
    let mut stdin = child.stdin.take().expect("stdin was asked for as a pipe");
    let feed = async move { stdin.write_all(script.as_bytes()).await };
    let (fed, output) = tokio::join!(feed, child.wait_with_output());
    let output = output.map_err(fail)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().chars().take(2000).collect();
        let status = output.status.code().unwrap_or(-1);
        return Err(ProcessError::Failed { program: PROGRAM.to_owned(), status, stderr });
    }
    fed.map_err(fail)
}
