//! `skiff upgrade`: a newer binary in place of the installed one, while everything goes on. The server is restarted first and
//! then the node process; containers and packet rules are touched by neither. When the new one does not become ready, the old
//! one is put back.
//!
//! One machine at a time, servers first: which machines there are is for the caller to know. Deliberately absent: anything
//! that moves pods away, since none notices.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser};
use host::process::ProcessError;
use serde_json::Value;

use crate::flags::{Command, Flags};
use crate::install::{BINARY, PREVIOUS, ROLES, UNITS, place, systemctl, systemd_runs, unit_name};
use crate::join;
use crate::join::skew::{self, Skew};
use crate::uninstall::{end, is_skiff};

/// How long after a question that had another answer than the wanted one it is asked again: there is nothing to watch while
/// a server is away.
const AGAIN: Duration = Duration::from_millis(250);
/// One question is answered within this time.
const ANSWERED: Duration = Duration::from_secs(5);

/// What becomes of this machine.
#[derive(Args, Clone, Debug)]
pub struct UpgradeFlags {
    /// The new binary; by default the one that runs this command
    #[arg(long)]
    pub binary: Option<PathBuf>,
    /// Seconds until what was restarted must be ready; otherwise the old binary is put back
    #[arg(long, default_value_t = 120)]
    pub timeout: u64,
}

/// Checks, replaces, restarts, and waits until the new one is ready.
pub async fn run(flags: UpgradeFlags) -> Result<()> {
    let installed = Path::new("/").join(BINARY);
    let has_unit = |role: &&str| Path::new("/").join(UNITS).join(unit_name(role)).exists();
    let role = ROLES.into_iter().find(has_unit).context("nothing is installed here (skiff install)")?;
    if !systemd_runs() {
        bail!("systemd does not run this machine: replace {}, and restart what runs it", installed.display());
    }
    let new = match flags.binary {
        Some(file) => file.canonicalize().with_context(|| format!("--binary {}", file.display()))?,
        None => std::env::current_exe().context("cannot find this program's own file")?,
    };
    if installed.canonicalize().is_ok_and(|installed| installed == new) {
        bail!("{} is what is installed: give the new one by --binary", new.display());
    }
    let (from, to) = (version_of(&installed).await?, version_of(&new).await?);
    skew::upgrade(&from, &to).map_err(anyhow::Error::msg)?;
    let machine = Installed::find(role, Duration::from_secs(flags.timeout))?;
    machine.check(&to).await?;
    replace(&machine, &installed, &new, &from, &to).await?;
    println!("{} is of version {to} now, before of {from}", unit_name(role));
    Ok(())
}

/// What a program says that it is, if that is Skiff.
async fn version_of(program: &Path) -> Result<String> {
    let name = program.display();
    let words = program.to_str().with_context(|| format!("{name} is not a name in UTF-8"))?;
    let output = host::process::run(words, &["--version"]).await.map_err(|error| match error {
        ProcessError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("{name} is not executable (chmod +x)")
        }
        other => anyhow::Error::new(other).context(format!("{name} cannot be run on this machine")),
    })?;
    let said = String::from_utf8_lossy(&output.stdout);
    match said.trim().strip_prefix("skiff ") {
        Some(version) if version.starts_with('v') => Ok(version.to_owned()),
        _ => bail!("{name} is not Skiff: asked for its version, it says {:?}", said.trim()),
    }
}

/// A machine on which something is restarted; a trait so that tests can be one.
trait Machine {
    /// Restarts everything from the file that is installed now, and waits until it is ready in this version.
    async fn restart(&self, version: &str) -> Result<()>;
}

/// Puts the new file in place of the installed one, or leaves the old one there and running.
async fn replace(machine: &impl Machine, installed: &Path, new: &Path, from: &str, to: &str) -> Result<()> {
    let previous = installed.with_file_name(PREVIOUS);
    place(installed, &previous)?;
    place(new, installed)?;
    if let Err(error) = machine.restart(to).await {
        std::fs::rename(&previous, installed)
            .with_context(|| format!("{error:#}; and then {} cannot be put back", previous.display()))?;
        println!("putting the old one back: {error:#}");
        machine.restart(from).await.with_context(|| {
            format!("{error:#}; the old one, {from}, was put back and does not become ready either")
        })?;
        return Err(error.context(format!("{to} does not work here; {from} was put back and is ready")));
    }
    std::fs::remove_file(&previous).with_context(|| format!("cannot remove {}", previous.display()))
}

/// This machine, as `skiff install` left it.
struct Installed {
    role: &'static str,
    /// Of the node on it, if there is one.
    node: Option<String>,
    data_dir: PathBuf,
    /// The server that the node has joined, which knows this machine as the node.
    joined: Option<String>,
    limit: Duration,
}

impl Installed {
    /// Learns from what runs how it was told to run.
    fn find(role: &'static str, limit: Duration) -> Result<Installed> {
        let binary = Path::new("/").join(BINARY);
        let running =
            host::process::all().context("cannot list processes")?.into_iter().find_map(|process| {
                let words = process.arguments();
                let ours = words.first().is_some_and(|program| Path::new(program) == binary)
                    && words.get(1).is_some_and(|word| word == role);
                ours.then_some(words)
            });
        let unit = unit_name(role);
        let running = running.with_context(|| format!("{unit} does not run: start it first"))?;
        let flags = Flags::try_parse_from(&running).with_context(|| format!("the command line of {unit}"))?;
        let (node, flags, joined) = match flags.command {
            Command::Server(flags) => (!flags.disable_agent, flags.node, None),
            Command::Agent(flags) => {
                let why = "the agent has joined no server: upgrade the server whose node it is";
                (true, flags.node, Some(flags.join.server.context(why)?))
            }
            _ => bail!("{unit} runs neither a server nor an agent"),
        };
        let node = node.then(|| flags.name()).transpose()?;
        Ok(Installed { role, node, data_dir: flags.data_dir, joined, limit })
    }

    /// Whether the new version goes with the rest of the cluster.
    async fn check(&self, new: &str) -> Result<()> {
        let needed = "what runs is asked first, and does not answer";
        if self.role == "agent" {
            let server = self.ask("/version").await.context(needed)?;
            let server = server["gitVersion"].as_str().unwrap_or_default();
            return skew::node_upgrade(new, server).map_err(anyhow::Error::msg);
        }
        let nodes = self.ask("/api/v1/nodes").await.context(needed)?;
        for node in nodes["items"].as_array().into_iter().flatten() {
            let version = node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or_default();
            if let Skew::Refused(why) = skew::judge(version, new) {
                bail!("node {}: {why}", node["metadata"]["name"].as_str().unwrap_or_default());
            }
        }
        Ok(())
    }

    /// An object of the API.
    async fn ask(&self, path: &str) -> Result<Value> {
        serde_json::from_str(&self.text(path).await?).with_context(|| format!("{path} is no JSON"))
    }

    async fn text(&self, path: &str) -> Result<String> {
        let client = match &self.joined {
            Some(server) => join::as_node(server, &self.data_dir)?,
            None => component::connect::from_kubeconfig(&self.data_dir.join("server/cred/admin.kubeconfig"))?,
        };
        let request = http::Request::get(path).body(Vec::new()).context("a request")?;
        let answer = tokio::time::timeout(ANSWERED, client.request_text(request)).await;
        answer.with_context(|| format!("no answer to {path} within {ANSWERED:?}"))?.context(path.to_owned())
    }

    /// Whether the server is ready in this version.
    async fn server_ready(&self, version: &str) -> Result<()> {
        let found = self.ask("/version").await?;
        if found["gitVersion"] != version {
            bail!("the server is of version {}", found["gitVersion"]);
        }
        self.text("/readyz").await.map(|_| ())
    }

    /// When the node last said that it lives.
    async fn renewed(&self, node: &str) -> Result<Value> {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}");
        Ok(self.ask(&path).await?["spec"]["renewTime"].take())
    }

    /// Whether the node is ready in this version, and has said since then that it lives.
    async fn node_ready(&self, node: &str, version: &str, since: &Value) -> Result<()> {
        let status = self.ask(&format!("/api/v1/nodes/{node}")).await?["status"].take();
        let found = &status["nodeInfo"]["kubeletVersion"];
        if found != version {
            bail!("node {node} is of version {found}");
        }
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        if !conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True") {
            bail!("node {node} is not ready");
        }
        if self.renewed(node).await? == *since {
            bail!("node {node} says nothing");
        }
        Ok(())
    }

    /// Asks until the answer is yes.
    async fn until<F: Future<Output = Result<()>>>(&self, question: impl Fn() -> F) -> Result<()> {
        let deadline = tokio::time::Instant::now() + self.limit;
        loop {
            match question().await {
                Err(error) if tokio::time::Instant::now() >= deadline => {
                    return Err(error.context(format!("not ready within {:?}", self.limit)));
                }
                Err(_) => tokio::time::sleep(AGAIN).await,
                Ok(()) => return Ok(()),
            }
        }
    }
}

impl Machine for Installed {
    async fn restart(&self, version: &str) -> Result<()> {
        systemctl(&["restart", &unit_name(self.role)]).await?;
        if self.role == "server" {
            self.until(|| self.server_ready(version)).await?;
            println!("the server is ready in version {version}");
        }
        let Some(node) = &self.node else { return Ok(()) };
        if self.role == "server" {
            // The server starts it again, from the file that is installed now.
            end(|process| is_skiff(process, &self.data_dir, "agent")).await?;
        }
        let since = self.renewed(node).await?;
        self.until(|| self.node_ready(node, version, &since)).await?;
        println!("node {node} is ready in version {version}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Where nothing starts from a file that says so.
    struct Fake(PathBuf);

    impl Machine for Fake {
        async fn restart(&self, version: &str) -> Result<()> {
            let found = std::fs::read_to_string(&self.0)?;
            if found != version {
                bail!("{found:?} does not start");
            }
            Ok(())
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn what_does_not_become_ready_is_taken_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let (installed, new) = (folder.path().join("skiff"), folder.path().join("new"));
        let machine = Fake(installed.clone());
        for (content, works) in [("broken", false), ("v2", true)] {
            std::fs::write(&installed, "v1").expect("a file");
            std::fs::write(&new, content).expect("a file");
            let outcome = runtime().block_on(replace(&machine, &installed, &new, "v1", "v2"));
            let now = std::fs::read_to_string(&installed).expect("a file");
            assert_eq!((outcome.is_ok(), now.as_str()), (works, if works { "v2" } else { "v1" }));
            assert!(!folder.path().join(PREVIOUS).exists());
            if let Err(error) = outcome {
                let said = format!("{error:#}");
                assert_eq!(
                    said,
                    "v2 does not work here; v1 was put back and is ready: \"broken\" does not start"
                );
            }
        }
    }

    #[test]
    fn what_is_not_skiff_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("program");
        let cases = [
            ("#!/bin/sh\necho skiff v1.2.3+skiff-4.5.6", 0o755, "v1.2.3+skiff-4.5.6"),
            (
                "#!/bin/sh\necho other 1.0",
                0o755,
                "is not Skiff: asked for its version, it says \"other 1.0\"",
            ),
            ("#!/bin/sh\nexit 3", 0o755, "cannot be run on this machine"),
            ("#!/bin/sh\necho skiff v1", 0o644, "is not executable"),
        ];
        for (text, mode, wanted) in cases {
            // Renamed, since a file that is open for writing in a child of another test cannot be run.
            host::files::write_atomic(&file, text.as_bytes(), mode).expect("a file");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("permissions");
            let said = runtime().block_on(version_of(&file)).unwrap_or_else(|error| format!("{error:#}"));
            assert!(said.contains(wanted), "{text:?}: {said}");
        }
        let gone = runtime().block_on(version_of(&folder.path().join("gone"))).expect_err("no file");
        assert!(format!("{gone:#}").contains("No such file"), "{gone:#}");
    }
}
