//! The `iptables` programs of this machine: rules are listed and changed as text, a table at a time. Knows nothing of
//! what the rules mean.

use std::collections::BTreeSet;
use std::fmt::Write;
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

/// The script that removes chains and every rule that leads to one, from a listing; `None` when there are none.
pub fn removal(saved: &str, ours: impl Fn(&str) -> bool) -> Option<String> {
    let (mut script, mut any) = (String::new(), false);
    for table in saved.split_inclusive("COMMIT\n") {
        let Some(name) = table.lines().find(|line| line.starts_with('*')) else { continue };
        let chains: BTreeSet<&str> = table
            .lines()
            .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
            .filter(|chain| ours(chain))
            .collect();
        if chains.is_empty() {
            continue;
        }
        any = true;
        let mut line = |text: &str| writeln!(script, "{text}").expect("writing to a string");
        line(name);
        for rule in table.lines().filter_map(|line| line.strip_prefix("-A ")) {
            let mut words = rule.split(' ');
            let foreign = words.next().is_some_and(|chain| !ours(chain));
            let leads_here = words.any(|word| chains.contains(word));
            if foreign && leads_here {
                line(&format!("-D {rule}"));
            }
        }
        // Emptied first, since they lead to each other.
        chains.iter().for_each(|chain| line(&format!("-F {chain}")));
        chains.iter().for_each(|chain| line(&format!("-X {chain}")));
        line("COMMIT");
    }
    any.then_some(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_chains_and_the_ways_to_them_go() {
        let ours = |chain: &str| chain.starts_with("CNI-HOSTPORT-");
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n\
                     :CNI-HOSTPORT-DNAT - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n:MINE - [0:0]\n\
                     -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n-A PREROUTING -j MINE\n\
                     -A CNI-HOSTPORT-DNAT -j CNI-HOSTPORT-MASQ\n-A MINE -j RETURN\nCOMMIT\n";
        assert_eq!(
            removal(saved, ours).as_deref(),
            Some(
                "*nat\n-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n-F CNI-HOSTPORT-DNAT\n\
                 -F CNI-HOSTPORT-MASQ\n-X CNI-HOSTPORT-DNAT\n-X CNI-HOSTPORT-MASQ\nCOMMIT\n"
            )
        );
        assert_eq!(removal("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n", ours), None);
    }
}
