//! The switch between nodes: a bridge in a network namespace that one process holds. The same process takes connections on
//! a loopback port of this machine, and on an address of the bridge, and passes them to the API servers. In a cluster with a
//! way out it passes on what nodes ask of name servers, too.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, RwLock};

use anyhow::{Context, Result, bail};
use api_machinery::entropy::Entropy;
use dns::forward::Upstreams;
use dns::server::Server;
use dns::zone::Zone;
use host::links;
use host::notify::Watch;
use host::process::{Command, Daemon, Identity};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::balancer::Balancer;
use super::internet;
use super::layout::{self, Layout, SERVER_PORT, SWITCH};

/// The bridge.
const BRIDGE: &str = "cluster0";
/// Where the process says on which port of this machine it listens.
const PORT: &str = "port";

/// Runs until it is killed.
pub fn run(folder: &Path) -> Result<()> {
    let description = Layout::at(folder)?.description()?;
    // Bound on this machine, before this thread, and with it all that the process does, moves elsewhere.
    let remembered =
        std::fs::read_to_string(folder.join(PORT)).ok().and_then(|text| text.trim().parse().ok());
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = bind(remembered.unwrap_or(0)).or_else(|_| bind(0)).context("cannot listen on loopback")?;
    listener.set_nonblocking(true).context("cannot listen on loopback")?;
    let port = listener.local_addr().context("cannot listen on loopback")?.port();
    // Its thread stays on this machine when this one moves.
    let stays = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let stays = description.internet.then(stays).transpose().context("cannot start the async runtime")?;
    host::network::isolate().context("cannot make a network namespace")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    runtime.block_on(make_bridge())?;
    if let Some(stays) = &stays {
        runtime.block_on(internet::prepare_switch(BRIDGE))?;
        // Listens here, and asks from there.
        stays.block_on(pass_questions())?;
    }
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).context("cannot listen on loopback")?;
        let inside = tokio::net::TcpListener::bind((SWITCH, SERVER_PORT)).await;
        let inside = inside.context("cannot listen on the bridge")?;
        let said = host::files::write_atomic(&folder.join(PORT), port.to_string().as_bytes(), 0o600);
        said.context("cannot say that the switch is ready")?;
        let servers = (0..description.servers).map(|number| IpAddr::V4(layout::address(number)));
        Balancer::new(servers, SERVER_PORT).run(vec![listener, inside]).await
    })
}

async fn make_bridge() -> Result<()> {
    let lines = [
        "link set lo up".to_owned(),
        format!("link add {BRIDGE} type bridge"),
        format!("address add {SWITCH}/24 dev {BRIDGE}"),
        format!("link set {BRIDGE} up"),
    ];
    links::ip(&lines).await.context("cannot make the bridge")
}

/// From now on questions about names are passed to this machine's name servers.
async fn pass_questions() -> Result<()> {
    let listen = SocketAddr::from((SWITCH, 53));
    let upstreams = Upstreams::of_this_machine(SWITCH.into());
    let config = dns::Config { listen, domain: String::from("cluster.local"), upstreams };
    let zone = Arc::new(RwLock::new(Arc::new(Zone::not_yet(&config.domain))));
    let server = Server::bind(&config, zone, Entropy::from_os()).await?;
    server.start(&TaskTracker::new(), &CancellationToken::new());
    Ok(())
}

/// The port on this machine, if the switch ever ran.
pub fn port(layout: &Layout) -> Option<u16> {
    std::fs::read_to_string(layout.folder.join(PORT)).ok()?.trim().parse().ok()
}

/// The process, if it runs.
pub fn process(layout: &Layout) -> Result<Option<Identity>> {
    let folder = layout.folder.to_string_lossy();
    let is =
        |words: &[String]| words.get(1..) == Some(&["cluster", "run-switch", &folder].map(str::to_owned)[..]);
    Ok(host::machines::find(is).context("cannot read /proc")?.into_iter().next())
}

/// The process; started if it does not run. The way out is open after that, where there is one.
pub async fn ensure(layout: &Layout) -> Result<Identity> {
    let switch = match process(layout)? {
        Some(running) => running,
        None => start(layout).await?,
    };
    if layout.description()?.internet {
        internet::open(layout, switch).await?;
    }
    Ok(switch)
}

async fn start(layout: &Layout) -> Result<Identity> {
    let mut watch = Watch::new(&layout.folder).context("cannot watch the cluster's folder")?;
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let log = layout.folder.join("switch.log");
    let words = ["cluster".into(), "run-switch".into(), layout.folder.clone().into_os_string()];
    let switch = Daemon::new(program, &log).args(words).spawn().context("cannot start the switch")?;
    let failed = || {
        let words = std::fs::read_to_string(&log).unwrap_or_default();
        format!("the switch did not start: {}", words.trim())
    };
    let port = layout.folder.join(PORT);
    let before = written(&port);
    while written(&port) == before {
        tokio::select! {
            seen = watch.changed() => seen.context("cannot watch the cluster's folder")?,
            ended = switch.exited() => {
                ended.context("cannot wait for the switch")?;
                bail!(failed());
            }
        }
    }
    Ok(switch)
}

/// Tells one writing of a file from another.
fn written(path: &Path) -> Option<(u64, std::time::SystemTime)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.modified().ok()?))
}

/// The switch's end of a node's cable.
fn link(number: usize) -> String {
    format!("node{}", number + 1)
}

/// Connects a node that was just started.
pub async fn connect(switch: Identity, number: usize, node: Identity, internet: bool) -> Result<()> {
    let link = link(number);
    let lines = format!(
        "link add {link} mtu 1500 type veth peer name eth0 mtu 1500 netns {}\nlink set {link} master {BRIDGE} up\n",
        node.pid
    );
    super::run_command(batch(switch, lines)).await.context("cannot connect the node to the switch")?;
    let address = layout::address(number);
    let route = if internet { format!("route add default via {SWITCH}\n") } else { String::new() };
    let lines = format!("link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\n{route}");
    super::run_command(batch(node, lines)).await.context("cannot give the node its address")
}

/// Plugs a node's cable in or out.
pub async fn plug(layout: &Layout, known: &[String], node: &str, into: bool) -> Result<()> {
    let number = layout::number(known, node)?;
    let switch = process(layout)?.context("the cluster does not run (skiff cluster start)")?;
    super::nodes::running(layout, node)?;
    let end = if into { format!("master {BRIDGE}") } else { "nomaster".to_owned() };
    let lines = format!("link set {} {end}\n", link(number));
    super::run_command(batch(switch, lines)).await.context("cannot change the switch")
}

fn batch(process: Identity, lines: String) -> Command {
    host::machines::in_network_of(process, ["ip", "-batch", "-"]).stdin(lines)
}
