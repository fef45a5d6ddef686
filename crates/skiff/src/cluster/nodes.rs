//! Starting and ending nodes.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use host::notify::Watch;
use host::process::Identity;

use super::init::{PREPARED, STATE};
use super::layout::{self, DATA_DIR, Description, Layout, PROGRAM, TOKEN};
use super::{etcd, switch};

/// What runs on a node has this long to end by itself.
const SHUTDOWN: Duration = Duration::from_secs(10);
/// A killed process is gone within this time.
const KILLED: Duration = Duration::from_secs(20);
/// Where a node's Skiff writes what it has to say.
pub const LOG: &str = "skiff.log";

/// The first process of a node, if it runs.
pub fn first_process(layout: &Layout, node: &str) -> Result<Option<Identity>> {
    let folder = layout.folder.to_string_lossy();
    let wanted = ["cluster", "run-node", &folder, node].map(str::to_owned);
    let found = host::machines::find(|words| words.get(1..) == Some(&wanted[..]));
    Ok(found.context("cannot read /proc")?.into_iter().next())
}

/// The first process of a node that must run.
pub fn running(layout: &Layout, node: &str) -> Result<Identity> {
    first_process(layout, node)?
        .with_context(|| format!("node {node} does not run (skiff cluster start {node})"))
}

/// Starts whatever of a node does not run.
pub async fn start(layout: &Layout, switch: Identity, known: &[String], node: &str) -> Result<()> {
    let number = layout::number(known, node)?;
    let description = layout.description()?;
    let first = power_on(layout, switch, known, node).await?;
    let role = if number < description.servers { "server" } else { "agent" };
    let skiff = |identity: &Identity| {
        let words = identity.arguments();
        words.first().is_some_and(|program| program == PROGRAM)
            && words.get(1).is_some_and(|word| word == role)
    };
    let others = host::machines::others_of(first).context("cannot read /proc")?;
    if others.iter().any(skiff) {
        return Ok(());
    }
    run_skiff(layout, &description, first, number, node).await
}

/// Starts a node's machine and connects it, unless it runs; what runs on it is another matter.
pub async fn power_on(layout: &Layout, switch: Identity, known: &[String], node: &str) -> Result<Identity> {
    if let Some(first) = first_process(layout, node)? {
        return Ok(first);
    }
    let first = start_machine(layout, node).await?;
    let internet = layout.description()?.internet;
    switch::connect(switch, layout::number(known, node)?, first, internet).await?;
    Ok(first)
}

/// Starts a node's member of the etcd, if it has one that does not run.
pub async fn start_store(layout: &Layout, switch: Identity, known: &[String], node: &str) -> Result<()> {
    let servers = layout.description()?.servers;
    if servers == 1 || layout::number(known, node)? >= servers {
        return Ok(());
    }
    let first = power_on(layout, switch, known, node).await?;
    etcd::start(layout, first, known, node).await
}

/// Starts a machine that is a node, without network.
async fn start_machine(layout: &Layout, node: &str) -> Result<Identity> {
    let own = layout.node(node);
    make(&layout.data_dir(node))?;
    let state = own.join(STATE);
    match std::fs::remove_file(&state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut watch = Watch::new(&own).context("cannot watch the node's folder")?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let words: [OsString; 4] =
        ["cluster".into(), "run-node".into(), layout.folder.clone().into(), node.into()];
    let log = own.join("machine.log");
    let machine = host::machines::start(&program, words, &log).context("cannot start a machine")?;
    let said = loop {
        if let Ok(said) = std::fs::read_to_string(&state) {
            break said;
        }
        tokio::select! {
            seen = watch.changed() => seen.context("cannot watch the node's folder")?,
            ended = machine.exited() => {
                ended.context("cannot wait for the machine")?;
                let words = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("the machine of {node} did not start: {}", words.trim());
            }
        }
    };
    if said != PREPARED {
        bail!("node {node}: {said}");
    }
    running(layout, node)
}

/// Makes a folder that only its owner may look into.
pub fn make(folder: &Path) -> Result<()> {
    host::files::make_dir(folder, 0o700).with_context(|| format!("cannot make {}", folder.display()))
}

/// Starts Skiff on a node that has its network.
async fn run_skiff(
    layout: &Layout,
    description: &Description,
    first: Identity,
    number: usize,
    node: &str,
) -> Result<()> {
    let network = clap::ValueEnum::to_possible_value(&description.pod_network);
    let network = network.map(|value| value.get_name().to_owned()).unwrap_or_default();
    let (address, cgroup) = (layout::address(number).to_string(), format!("{}/{node}", layout.cgroup()));
    let usual = [
        "--data-dir",
        DATA_DIR,
        "--node-name",
        node,
        "--node-ip",
        &address,
        "--cgroup-root",
        &cgroup,
        "--pod-network",
        &network,
    ];
    let words = [PROGRAM.to_owned()].into_iter().chain(role(description, number));
    let words = words.chain(usual.map(str::to_owned)).collect();
    let log = format!("{DATA_DIR}/{LOG}");
    run_daemon(first, &log, words).await.with_context(|| format!("cannot start Skiff on {node}"))
}

/// What a node is, and what only such nodes are told.
fn role(description: &Description, number: usize) -> Vec<String> {
    let endpoint = description.endpoint();
    if number >= description.servers {
        let token = format!("{DATA_DIR}/{TOKEN}");
        return ["agent", "--server", &endpoint, "--token-file", &token].map(str::to_owned).into();
    }
    let mut words = ["server", "--load-balancer-pool", layout::LOAD_BALANCERS].map(str::to_owned).to_vec();
    if description.servers > 1 {
        words.extend(["--control-plane-endpoint".to_owned(), endpoint]);
        words.extend(etcd::server_arguments(description.servers, number));
    }
    words
}

/// Starts a program on a node that goes on by itself; what it says goes to a file there.
pub async fn run_daemon(first: Identity, log: &str, words: Vec<String>) -> Result<()> {
    let line = format!("exec setsid --fork \"$0\" \"$@\" >>{log} 2>&1 </dev/null");
    let shell = ["sh", "-c", &line].map(str::to_owned);
    super::run_command(host::machines::inside(first, shell.into_iter().chain(words))).await
}

/// Cuts a node's power.
pub async fn kill(layout: &Layout, node: &str) -> Result<()> {
    let Some(first) = first_process(layout, node)? else { return Ok(()) };
    first.kill().with_context(|| format!("cannot kill {node}"))?;
    gone(first, node).await
}

/// Shuts a node down: everything on it is told to end, and may take a while for it.
pub async fn stop(layout: &Layout, node: &str) -> Result<()> {
    let Some(first) = first_process(layout, node)? else { return Ok(()) };
    let others = host::machines::others_of(first).context("cannot read /proc")?;
    for other in &others {
        other.terminate().with_context(|| format!("cannot end a process of {node}"))?;
    }
    let ended = async {
        for other in &others {
            other.exited().await?;
        }
        Ok::<_, std::io::Error>(())
    };
    match tokio::time::timeout(SHUTDOWN, ended).await {
        Ok(ended) => ended.with_context(|| format!("cannot wait for the processes of {node}"))?,
        Err(_) => tracing::info!(node, "something did not end by itself"),
    }
    kill(layout, node).await
}

/// Waits for the end of a process that was killed, and with it of all that it held.
pub async fn gone(process: Identity, what: &str) -> Result<()> {
    let ended = tokio::time::timeout(KILLED, process.exited()).await;
    ended.with_context(|| format!("{what} does not end"))?.with_context(|| format!("cannot wait for {what}"))
}
