//! The way out of a cluster, for one that was made with `--internet`: a cable between the switch and this machine, and rules
//! that let what leaves look as if the machine at the cable's other end had sent it. The switch translates, so that clusters
//! that have the same addresses, or those of a network around, are no trouble; this machine translates again.
//!
//! The cable ends with the switch. What else there is on this machine (a table of the packet filter, forwarding, and a second
//! table that says that forwarding was off) is taken away by [`close`], however far [`open`] got. Nothing outside can begin
//! to talk to a node, and forwarding that was switched on for clusters forwards nothing else.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use host::links;
use host::process::{Command, Identity, run};

use super::layout::Layout;

/// The switch's end of the cable.
const UPLINK: &str = "uplink";
/// How the names of cables, and of tables, begin on this machine. (Not as what `skiff uninstall` looks for.)
const PREFIX: &str = "cluster-";
/// How the name of a table ends that says that forwarding was off.
const GUARD: &str = "-guard";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// How many cables there can be.
const CABLES: u32 = 8192;

/// What this machine and the switch are told of one cable.
struct Cable {
    /// Its name here, and that of its table.
    name: String,
    here: Ipv4Addr,
    there: Ipv4Addr,
}

/// Opens the way, unless it is open.
pub async fn open(layout: &Layout, switch: Identity) -> Result<()> {
    let name = name(layout);
    let _turn = turn().await?;
    let links = links::all().await.context("cannot see the links of this machine")?;
    // It is switched on when all else is done.
    let own = links.iter().find(|link| link.name == name);
    if own.is_some_and(|link| link.up) {
        return Ok(());
    }
    if own.is_some() {
        run("ip", &["link", "delete", &name]).await?;
    }
    let cable = Cable::new(name, layout.mark(), &links)?;
    cable.lay(switch).await.context("cannot lead a cable out of the switch")?;
    let tables = tables().await?;
    let here: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
    let forwards =
        std::fs::read_to_string(FORWARDING).context("cannot read whether packets are forwarded")?;
    let off = forwards.trim() == "0" || tables.iter().any(|table| table.ends_with(GUARD));
    let guard = if off { cable.guard(&here) } else { String::new() };
    // As an argument, by which it is found if this process is killed meanwhile.
    run("nft", &[&format!("{}{guard}", cable.rules())]).await.context("cannot translate what leaves")?;
    forward(true)?;
    run("ip", &["link", "set", &cable.name, "up"]).await.context("cannot switch the cable on")?;
    Ok(())
}

/// Takes away what there is of it; safe to repeat.
pub async fn close(layout: &Layout) -> Result<()> {
    let name = name(layout);
    let _turn = turn().await?;
    let of_ours = |words: &[String]| {
        let program = words.first().is_some_and(|program| program == "ip" || program == "nft");
        program && words.iter().any(|word| word.contains(&name))
    };
    // Of one who was killed while he opened it.
    for late in host::machines::find(of_ours).context("cannot read /proc")? {
        super::nodes::gone(late, "a program that opens the way out").await?;
    }
    let laid = async || Ok::<_, anyhow::Error>(links::all().await?.iter().any(|link| link.name == name));
    if laid().await? {
        let deleted = run("ip", &["link", "delete", &name]).await;
        // It goes with the switch, perhaps just now.
        if laid().await? {
            deleted.context("cannot take the cable away")?;
        }
    }
    let tables = tables().await?;
    let guard = format!("{name}{GUARD}");
    let guards = tables.iter().filter(|table| table.ends_with(GUARD));
    if tables.contains(&guard) && guards.count() == 1 {
        forward(false)?;
    }
    for table in [name, guard].iter().filter(|table| tables.contains(*table)) {
        run("nft", &["delete", "table", "ip", table]).await.context("cannot remove a table")?;
    }
    Ok(())
}

/// What the switch does on its side, in its own network: it forwards, what is from the bridge looks as if it had sent it, and
/// nobody outside begins.
pub async fn prepare_switch(bridge: &str) -> Result<()> {
    forward(true)?;
    // Between nodes it is a wire: their packets are none of the filter's business.
    let bridged = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if bridged.exists() {
        std::fs::write(bridged, "0").context("cannot keep the filter out of the bridge")?;
    }
    let rules = format!(
        "table ip {UPLINK} {{
           chain translate {{ type nat hook postrouting priority srcnat; oifname {UPLINK} masquerade; }}
           chain pass {{ type filter hook forward priority filter; policy drop
             iifname {bridge} accept
             ct state established,related accept
           }}
         }}"
    );
    run("nft", &[&rules]).await.context("the switch cannot translate what leaves")?;
    Ok(())
}

impl Cable {
    /// With addresses that no link has: of those for links alone, but not where clouds have theirs.
    fn new(name: String, mark: u64, links: &[links::Link]) -> Result<Cable> {
        let taken: BTreeSet<u32> =
            links.iter().flat_map(|link| &link.addresses).map(|address| u32::from(*address) / 4).collect();
        let first = u32::from(Ipv4Addr::new(169, 254, 0, 0)) / 4;
        let wanted = u32::try_from(mark % u64::from(CABLES)).unwrap_or_default();
        let free =
            (0..CABLES).map(|more| first + (wanted + more) % CABLES).find(|four| !taken.contains(four));
        let four = free.context("all addresses for cables are taken")? * 4;
        Ok(Cable { name, here: Ipv4Addr::from(four + 1), there: Ipv4Addr::from(four + 2) })
    }

    /// All but switching it on here.
    async fn lay(&self, switch: Identity) -> Result<()> {
        let Cable { name, here, there } = self;
        let pid = switch.pid.to_string();
        run("ip", &["link", "add", name, "type", "veth", "peer", "name", UPLINK, "netns", &pid]).await?;
        run("ip", &["address", "add", &format!("{here}/30"), "dev", name]).await?;
        let lines = format!(
            "link set {UPLINK} up\naddress add {there}/30 dev {UPLINK}\nroute add default via {here}\n"
        );
        let command: Command = host::machines::in_network_of(switch, ["ip", "-batch", "-"]).stdin(lines);
        super::run_command(command).await
    }

    /// In place of the table that there may be.
    fn rules(&self) -> String {
        let Cable { name, there, .. } = self;
        format!(
            "table ip {name}; delete table ip {name}
             table ip {name} {{
               chain translate {{ type nat hook postrouting priority srcnat; ip saddr {there} oifname != {name} masquerade; }}
               chain pass {{ type filter hook forward priority filter
                 ct state established,related accept
                 oifname {name} drop
               }}
             }}
             "
        )
    }

    /// Says that forwarding was off: it stays so for whoever begins to talk on a link that was there then.
    fn guard(&self, links: &BTreeSet<&str>) -> String {
        let name = format!("{}{GUARD}", self.name);
        let before = links.iter().filter(|link| **link != "lo" && !link.starts_with(PREFIX));
        let before: Vec<String> = before.map(|link| format!("\"{link}\"")).collect();
        let drop = match before.is_empty() {
            true => String::new(),
            false => format!("iifname {{ {} }} drop", before.join(", ")),
        };
        format!(
            "table ip {name}; delete table ip {name}
             table ip {name} {{
               chain pass {{ type filter hook forward priority filter
                 ct state established,related accept
                 ct status dnat accept
                 {drop}
               }}
             }}
             "
        )
    }
}

/// The cable's name on this machine: as long as a link's may be.
fn name(layout: &Layout) -> String {
    format!("{PREFIX}{:07x}", layout.mark() & 0xfff_ffff)
}

/// One at a time, of all clusters: whoever is the last one to close switches forwarding off.
async fn turn() -> Result<File> {
    let lock = tokio::task::spawn_blocking(|| {
        // One for each network that clusters can be made in, and no file that would be left.
        let file = File::open("/proc/self/ns/net")?;
        file.lock()?;
        Ok::<_, std::io::Error>(file)
    });
    lock.await.context("a thread failed")?.context("cannot wait for other clusters' commands")
}

/// Names of clusters' tables on this machine.
async fn tables() -> Result<BTreeSet<String>> {
    let listed = run("nft", &["list", "tables", "ip"]).await.context("cannot list tables")?;
    let text = String::from_utf8_lossy(&listed.stdout);
    let names = text.lines().filter_map(|line| line.strip_prefix("table ip "));
    Ok(names.filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect())
}

fn forward(on: bool) -> Result<()> {
    std::fs::write(FORWARDING, if on { "1" } else { "0" }).context("cannot set whether packets are forwarded")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, address: [u8; 4]) -> links::Link {
        links::Link { name: name.to_owned(), up: true, addresses: vec![Ipv4Addr::from(address)] }
    }

    #[test]
    fn a_cable_has_addresses_that_nobody_has() {
        let at = |mark, links: &[links::Link]| {
            let cable = Cable::new("cluster-1".to_owned(), mark, links).expect("there is room");
            (cable.here.octets(), cable.there.octets())
        };
        assert_eq!(at(0, &[]), ([169, 254, 0, 1], [169, 254, 0, 2]));
        assert_eq!(at(0, &[link("a", [169, 254, 0, 2])]), ([169, 254, 0, 5], [169, 254, 0, 6]));
        let last = u64::from(CABLES) - 1;
        assert_eq!(at(last, &[]), ([169, 254, 127, 253], [169, 254, 127, 254]));
        assert_eq!(at(last, &[link("a", [169, 254, 127, 253])]), ([169, 254, 0, 1], [169, 254, 0, 2]));
        let all: Vec<_> = (0..CABLES)
            .map(|four| {
                link("a", Ipv4Addr::from((u32::from(Ipv4Addr::new(169, 254, 0, 0))) + four * 4).octets())
            })
            .collect();
        assert!(Cable::new("cluster-1".to_owned(), 5, &all).is_err());
    }

    #[test]
    fn the_guard_is_about_links_that_were_there_and_no_cluster_s() {
        let cable = Cable::new("cluster-1".to_owned(), 0, &[]).expect("there is room");
        let rules = cable.guard(&BTreeSet::from(["lo", "eth0", "wlan0", "cluster-2"]));
        assert!(rules.contains("table ip cluster-1-guard {"), "{rules}");
        assert!(rules.contains(r#"iifname { "eth0", "wlan0" } drop"#), "{rules}");
        assert!(!cable.guard(&BTreeSet::from(["lo"])).contains("drop"));
    }

    #[test]
    fn a_link_s_name_has_room_for_that_of_a_cable() {
        let of = |root: &str| name(&Layout::new(Path::new(root), "dev").expect("fine"));
        assert!(of("/a").len() <= 15 && of("/a").starts_with(PREFIX), "{}", of("/a"));
        assert_ne!(of("/a"), of("/b"));
    }
}
