//! Making a cluster: all of it, or nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use component::Api;
use component::Context;
use component::informer::{Informer, Selection};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::init::RESOLVER;
use super::layout::{Description, Layout, TOKEN};
use super::{CreateFlags, kubeconfig, load, nodes, remove, switch};
use crate::datastore::SHARED;

/// Makes a cluster and waits for its nodes. What was made until something failed, or until the user asked to stop, is
/// removed.
pub async fn create(layout: &Layout, flags: &CreateFlags, shutdown: &CancellationToken) -> Result<()> {
    if flags.servers.is_multiple_of(2) || flags.servers > flags.nodes {
        bail!(
            "--servers {} of --nodes {}: must be an odd number of them, since an etcd of an even number survives no more",
            flags.servers,
            flags.nodes
        );
    }
    if flags.internet && !Path::new(RESOLVER).exists() {
        bail!("--internet: there is no {RESOLVER}, which says who knows names");
    }
    let exists = || format!("cluster {:?} exists already (skiff cluster delete --name {0})", layout.name);
    match std::fs::create_dir(&layout.folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => bail!(exists()),
        made => made.with_context(|| format!("cannot make {}", layout.folder.display()))?,
    }
    let outcome = match shutdown.run_until_cancelled(make(layout, flags)).await {
        Some(outcome) => outcome,
        None => Err(anyhow::anyhow!("interrupted")),
    };
    let Err(error) = outcome else { return Ok(()) };
    eprintln!("removing what was made of cluster {:?}", layout.name);
    tell_logs(layout);
    remove::remove(layout).await.with_context(|| format!("{error:#}; and then"))?;
    Err(error)
}

async fn make(layout: &Layout, flags: &CreateFlags) -> Result<()> {
    let names: Vec<String> = (1..=flags.nodes).map(|number| format!("node-{number}")).collect();
    let servers = usize::from(flags.servers);
    let description = Description {
        nodes: names.clone(),
        servers,
        pod_network: flags.pod_network,
        internet: flags.internet,
    };
    let text = serde_json::to_vec_pretty(&description).context("the description")?;
    host::files::write_atomic(&layout.description_file(), &text, 0o600)
        .context("cannot write the description")?;
    for node in &names {
        nodes::make(&layout.data_dir(node))?;
        flags.image.iter().try_for_each(|file| load::provide(layout, node, file))?;
    }
    let switch = switch::ensure(layout).await?;
    for server in &names[..servers] {
        nodes::start_store(layout, switch, &names, server).await?;
    }
    let (server, others) = names.split_first().context("a cluster has a node")?;
    nodes::start(layout, switch, &names, server).await?;
    // The other machines are prepared while the control plane starts.
    for node in others {
        nodes::power_on(layout, switch, &names, node).await?;
    }
    kubeconfig::write(layout, server).await?;
    let token = layout.node_token(server);
    kubeconfig::appears(&token).await?;
    for (number, node) in names.iter().enumerate().skip(1) {
        if number < servers {
            share(layout, server, node)?;
        } else {
            give(&token, &layout.data_dir(node).join(TOKEN))?;
        }
        nodes::start(layout, switch, &names, node).await?;
    }
    let limit = Duration::from_secs(flags.timeout);
    if let Err(waiting) = ready(layout, &names, limit).await? {
        bail!("not ready within {limit:?}: {waiting}");
    }
    println!("cluster {:?} is ready: {}", layout.name, names.join(", "));
    println!(
        "use it by `skiff cluster kubectl --name {} get nodes`, or with KUBECONFIG={}",
        layout.name,
        layout.kubeconfig().display()
    );
    Ok(())
}

/// Gives a further server what all servers of a cluster have.
fn share(layout: &Layout, server: &str, node: &str) -> Result<()> {
    let (from, to) = (layout.data_dir(server), layout.data_dir(node));
    SHARED.iter().try_for_each(|file| give(&from.join(file), &to.join(file)))
}

/// Copies a file that only its owner may read.
fn give(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    nodes::make(to.parent().context("a file is in a folder")?)?;
    host::files::write_atomic(to, &bytes, 0o600).with_context(|| format!("cannot write {}", to.display()))
}

/// Waits until all nodes are ready; else says which are not.
async fn ready(layout: &Layout, names: &[String], limit: Duration) -> Result<Result<(), String>> {
    let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
    let context = Context {
        client: component::connect::from_kubeconfig(&layout.kubeconfig())?,
        clock: Clock::system(),
        entropy: Entropy::from_os(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    };
    let known: Informer<Node> =
        Informer::start(&tasks, shutdown.clone(), Api::all(context.client), Selection::default());
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    known.on_change(move |_| notify.notify_one());
    let all = async {
        while !waiting(&known, names).is_empty() {
            changed.notified().await;
        }
    };
    let done = tokio::time::timeout(limit, all).await;
    let left = waiting(&known, names).join("; ");
    shutdown.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(done.map_err(|_| left))
}

/// The nodes that are not ready, and why.
fn waiting(known: &Informer<Node>, names: &[String]) -> Vec<String> {
    let all = known.list();
    let mut found = Vec::new();
    for name in names {
        let node = all.iter().find(|node| node.metadata.name.as_ref() == Some(name));
        let status = node.and_then(|node| node.status.as_ref());
        let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        match conditions.find(|condition| condition.type_ == "Ready") {
            Some(ready) if ready.status == "True" => {}
            Some(ready) => found.push(format!("{name}: {}", ready.message.as_deref().unwrap_or("not ready"))),
            None => found.push(format!("{name} has not joined")),
        }
    }
    found
}

/// The end of what each node had to say: the files are about to go.
fn tell_logs(layout: &Layout) {
    for node in layout.nodes().unwrap_or_default() {
        let text = std::fs::read_to_string(layout.data_dir(&node).join(nodes::LOG)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(5)..] {
            eprintln!("{node}: {line}");
        }
    }
}
