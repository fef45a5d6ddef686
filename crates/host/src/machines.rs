//! Machines made of namespaces: started, entered, found again by their first process, and ended with it. What runs in one
//! and how it is wired to others is the caller's business.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{WaitOptions, wait};

use crate::process::{Command, Daemon, Identity, ProcessError};

/// The namespaces that a machine has of its own.
const OWN: [&str; 5] = ["--net", "--mount", "--uts", "--pid", "--ipc"];

/// Starts a machine whose first process is `program`. It ends when that process ends, or when the process that this
/// returns does.
///
/// # Errors
/// `unshare` cannot be started. Whether it succeeded, the first process tells.
pub fn start<A: Into<OsString>>(
    program: &Path,
    arguments: impl IntoIterator<Item = A>,
    log: &Path,
) -> Result<Identity, ProcessError> {
    let how = ["--fork", "--kill-child", "--mount-proc", "--propagation", "private", "--"];
    let words = OWN.into_iter().chain(how).map(OsString::from);
    let words = words.chain([program.into()]).chain(arguments.into_iter().map(Into::into));
    Daemon::new("unshare", log).args(words).spawn()
}

/// A command that runs inside a machine, from the root folder.
#[must_use]
pub fn inside<A: Into<OsString>>(first: Identity, words: impl IntoIterator<Item = A>) -> Command {
    let target = format!("--target={}", first.pid);
    let how = [target.as_str(), "--wd=/"].into_iter().chain(OWN).chain(["--"]);
    Command::new("nsenter").args(how).args(words)
}

/// A command that runs in the network namespace of a process, with everything else as it is here.
#[must_use]
pub fn in_network_of<A: Into<OsString>>(process: Identity, words: impl IntoIterator<Item = A>) -> Command {
    let namespace = format!("--net=/proc/{}/ns/net", process.pid);
    Command::new("nsenter").args([namespace.as_str(), "--"]).args(words)
}

/// This process becomes the command, with the terminal that it has. Returns only when that fails.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the crate that starts programs")]
pub fn become_command(command: &Command) -> io::Error {
    use std::os::unix::process::CommandExt;
    std::process::Command::new(&command.program).args(&command.args).envs(&command.env).exec()
}

/// The processes whose arguments, program included, satisfy `is`. Ended ones that nobody waited for have none.
///
/// # Errors
/// `/proc` cannot be read.
pub fn find(is: impl Fn(&[String]) -> bool) -> io::Result<Vec<Identity>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        found.extend(Identity::of(pid).filter(|identity| is(&identity.arguments())));
    }
    found.sort_by_key(|identity| identity.pid);
    Ok(found)
}

/// The other processes of a machine.
///
/// # Errors
/// `/proc` cannot be read.
pub fn others_of(first: Identity) -> io::Result<Vec<Identity>> {
    let own = namespace(first, "pid");
    let mut all = find(|_| true)?;
    all.retain(|other| *other != first && own.is_some() && namespace(*other, "pid") == own);
    Ok(all)
}

/// Networks of machines: those of these processes, without this machine's.
#[must_use]
pub fn networks_of(processes: &[Identity]) -> BTreeSet<PathBuf> {
    let mut networks: BTreeSet<PathBuf> =
        processes.iter().filter_map(|process| namespace(*process, "net")).collect();
    if let Ok(own) = std::fs::read_link("/proc/self/ns/net") {
        networks.remove(&own);
    }
    networks
}

/// The processes that are in these networks, whatever else of a machine they have.
///
/// # Errors
/// `/proc` cannot be read.
pub fn in_networks(networks: &BTreeSet<PathBuf>) -> io::Result<Vec<Identity>> {
    let mut all = find(|_| true)?;
    all.retain(|process| namespace(*process, "net").is_some_and(|network| networks.contains(&network)));
    Ok(all)
}

fn namespace(process: Identity, kind: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{}/ns/{kind}", process.pid)).ok()
}

/// Names the machine.
///
/// # Errors
/// The system refuses.
pub fn set_hostname(name: &str) -> io::Result<()> {
    rustix::system::sethostname(name.as_bytes()).map_err(io::Error::from)
}

/// Takes note of every child that has ended, so that nothing is left of it. (Of any session: what runs in a machine has
/// one of its own.)
///
/// # Errors
/// The system refuses.
pub fn reap() -> io::Result<()> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
