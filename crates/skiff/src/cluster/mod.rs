//! `skiff cluster`: a cluster of several nodes on this machine. Each node is a machine of namespaces with its own address,
//! folders and runtime; a switch in a network namespace of its own connects them, so that nothing of it is a link, route
//! or rule of this machine's, and no packet leaves it, unless somebody asks for a way out.
//!
//! What runs is found by looking for it, not by files that say so: a cluster whose making was killed half-way is
//! deleted like any other. Deliberately absent: any daemon; each command ends when it is done.

mod balancer;
mod create;
mod etcd;
mod init;
mod internet;
mod kubeconfig;
mod layout;
mod load;
mod nodes;
mod remove;
mod switch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use host::process::{LinuxRunner, Runner};
use layout::Layout;
use tokio_util::sync::CancellationToken;

use crate::flags::PodNetwork;

/// What `skiff cluster` is told.
#[derive(Args, Clone, Debug)]
pub struct ClusterFlags {
    /// Name of the cluster
    #[arg(long, global = true, env = "SKIFF_CLUSTER", default_value = "default")]
    name: String,
    /// Clusters are kept below this folder; ~/.local/share/skiff/clusters by default
    #[arg(long, global = true, env = "SKIFF_CLUSTERS")]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum ClusterCommand {
    /// Make a cluster and wait until its nodes are ready
    Create(CreateFlags),
    /// List the clusters and what runs of them
    List,
    /// End a cluster and leave nothing of it
    Delete,
    /// Import images from an archive into every node
    LoadImage {
        /// The archive, as `docker save` or `ctr images export` make it
        file: PathBuf,
    },
    /// Print the kubeconfig by which this machine reaches the cluster
    Kubeconfig,
    /// Run a command on a node
    Exec {
        /// The node
        node: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run kubectl with the cluster's kubeconfig
    Kubectl {
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Shut nodes down; all of them by default
    Stop(Nodes),
    /// Cut the power of nodes; of all of them by default
    Kill(Nodes),
    /// Start nodes, or what does not run on them; all of them by default
    Start(Nodes),
    /// Let no packet pass between a node and the others
    Partition {
        /// The node
        node: String,
    },
    /// Let packets pass again
    Heal(Nodes),
    #[command(hide = true)]
    RunSwitch { folder: PathBuf },
    #[command(hide = true)]
    RunNode { folder: PathBuf, node: String },
}

/// What a new cluster is like.
#[derive(Args, Clone, Debug)]
struct CreateFlags {
    /// How many nodes; the first ones are servers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    nodes: u8,
    /// How many of them have a control plane, an odd number; several share an etcd, of which each has a member
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
    servers: u8,
    /// Image archives to import into every node
    #[arg(long)]
    image: Vec<PathBuf>,
    /// How pods reach pods on other nodes
    #[arg(long, value_enum, default_value_t = PodNetwork::Vxlan)]
    pod_network: PodNetwork,
    /// Let nodes and pods reach what this machine reaches, under its address; otherwise there is no way out
    #[arg(long)]
    internet: bool,
    /// Seconds until all nodes must be ready
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

#[derive(Args, Clone, Debug)]
struct Nodes {
    /// Names of nodes
    nodes: Vec<String>,
}

/// The processes that a cluster consists of; `None` for the commands that a user gives.
pub fn run_process(flags: &ClusterFlags) -> Option<Result<()>> {
    match &flags.command {
        ClusterCommand::RunSwitch { folder } => Some(switch::run(folder)),
        ClusterCommand::RunNode { folder, node } => Some(init::run(folder, node)),
        _ => None,
    }
}

/// Runs one command.
pub async fn run(flags: ClusterFlags, shutdown: CancellationToken) -> Result<()> {
    let root = layout::root(flags.data_dir)?;
    if let ClusterCommand::List = flags.command {
        return list(&root);
    }
    let layout = Layout::new(&root, &flags.name)?;
    if let ClusterCommand::Create(create) = flags.command {
        return create::create(&layout, &create, &shutdown).await;
    }
    if let ClusterCommand::Delete = flags.command {
        return remove::remove(&layout).await;
    }
    let known = layout.nodes()?;
    match flags.command {
        ClusterCommand::LoadImage { file } => load::load(&layout, &known, &file).await,
        ClusterCommand::Kubeconfig => {
            print!("{}", kubeconfig::text(&layout)?);
            Ok(())
        }
        ClusterCommand::Exec { node, command } => exec(&layout, &known, &node, command),
        ClusterCommand::Kubectl { arguments } => kubectl(&layout, arguments),
        ClusterCommand::Stop(chosen) => {
            for node in chosen.of(&known)? {
                nodes::stop(&layout, &node).await?;
            }
            Ok(())
        }
        ClusterCommand::Kill(chosen) => {
            for node in chosen.of(&known)? {
                nodes::kill(&layout, &node).await?;
            }
            Ok(())
        }
        ClusterCommand::Start(chosen) => {
            let switch = switch::ensure(&layout).await?;
            let chosen = chosen.of(&known)?;
            // No server starts before its etcd has a quorum.
            for node in &chosen {
                nodes::start_store(&layout, switch, &known, node).await?;
            }
            for node in chosen {
                nodes::start(&layout, switch, &known, &node).await?;
            }
            Ok(())
        }
        ClusterCommand::Partition { node } => switch::plug(&layout, &known, &node, false).await,
        ClusterCommand::Heal(chosen) => {
            for node in chosen.of(&known)? {
                switch::plug(&layout, &known, &node, true).await?;
            }
            Ok(())
        }
        _ => bail!("not a command of a cluster that exists"),
    }
}

impl Nodes {
    /// Those chosen; all where none is.
    fn of(self, known: &[String]) -> Result<Vec<String>> {
        if self.nodes.is_empty() {
            return Ok(known.to_vec());
        }
        for node in &self.nodes {
            layout::number(known, node)?;
        }
        Ok(self.nodes)
    }
}

fn list(root: &std::path::Path) -> Result<()> {
    println!("{:<20} {:<8} {:<10} SERVER", "NAME", "NODES", "RUNNING");
    for name in layout::clusters(root)? {
        let layout = Layout::new(root, &name)?;
        let nodes = layout.nodes().unwrap_or_default();
        let mut running = 0;
        for node in &nodes {
            running += usize::from(nodes::first_process(&layout, node)?.is_some());
        }
        let server = switch::port(&layout).map_or_else(|| "-".to_owned(), kubeconfig::url);
        println!("{name:<20} {:<8} {running:<10} {server}", nodes.len());
    }
    Ok(())
}

fn exec(layout: &Layout, known: &[String], node: &str, command: Vec<String>) -> Result<()> {
    layout::number(known, node)?;
    let first = nodes::running(layout, node)?;
    let error = host::machines::become_command(&host::machines::inside(first, command));
    Err(error).context("cannot run nsenter")
}

fn kubectl(layout: &Layout, arguments: Vec<String>) -> Result<()> {
    let command = host::process::Command::new("kubectl")
        .args(["--kubeconfig".into(), layout.kubeconfig().into_os_string()])
        .args(arguments);
    Err(host::machines::become_command(&command)).context("cannot run kubectl")
}

/// Runs a command to its end.
async fn run_command(command: host::process::Command) -> Result<()> {
    LinuxRunner.run(&command.limit(Duration::from_secs(60))).await?;
    Ok(())
}
