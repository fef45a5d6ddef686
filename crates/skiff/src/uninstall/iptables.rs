//! What is left in iptables when all pods are gone: the chains that the port plugin shares between them, and those of the
//! service proxy in its iptables mode. Which rules go is decided from the listing alone.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Context as _, Result};
use host::process::{Command, LinuxRunner, Runner};
use serde_json::Value;

/// Chains that are ours begin so. Others have the right names to themselves on this machine.
const PREFIXES: [&str; 2] = ["CNI-HOSTPORT-", "KUBE-"];

/// What a host that never had pods with ports or an iptables proxy does not have either.
pub async fn clean() -> Result<()> {
    if !["/usr/sbin", "/sbin", "/usr/bin"]
        .iter()
        .any(|folder| std::path::Path::new(folder).join("iptables-save").exists())
    {
        return Ok(());
    }
    let runner = LinuxRunner;
    let saved = runner.run(&Command::new("iptables-save")).await.context("cannot list iptables")?;
    let Some(script) = removal(&String::from_utf8_lossy(&saved.stdout)) else { return Ok(()) };
    let restore = Command::new("iptables-restore").args(["--noflush"]).stdin(script);
    runner.run(&restore).await.context("cannot remove chains of iptables")?;
    // The programs above leave tables without rules behind, also for IPv6.
    for family in ["ip", "ip6"] {
        for table in ["nat", "filter", "mangle"] {
            drop_if_empty(family, table).await?;
        }
    }
    Ok(())
}

/// The script that removes our chains and every rule that leads to one.
fn removal(saved: &str) -> Option<String> {
    let ours = |chain: &str| PREFIXES.iter().any(|prefix| chain.starts_with(prefix));
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

async fn drop_if_empty(family: &str, table: &str) -> Result<()> {
    let list = Command::new("nft").args(["--json", "list", "table", family, table]);
    let output = LinuxRunner.output(&list).await.context("cannot list a table")?;
    if !output.success() {
        // There is none.
        return Ok(());
    }
    let listing: Value =
        serde_json::from_slice(&output.stdout).context("nft printed something unexpected")?;
    let entries = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let only_base_chains = entries.iter().all(|entry| {
        let chain = &entry["chain"];
        let accepting = chain["hook"].is_string() && chain["policy"] == "accept";
        entry.get("metainfo").is_some() || entry.get("table").is_some() || accepting
    });
    if only_base_chains {
        let delete = Command::new("nft").args(["delete", "table", family, table]);
        LinuxRunner.run(&delete).await.context("cannot remove an empty table")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_chains_and_the_ways_to_them_go() {
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n*nat\n:PREROUTING ACCEPT [0:0]\n\
                     :CNI-HOSTPORT-DNAT - [0:0]\n:CNI-HOSTPORT-MASQ - [0:0]\n:MINE - [0:0]\n\
                     -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n-A PREROUTING -j MINE\n\
                     -A CNI-HOSTPORT-DNAT -j CNI-HOSTPORT-MASQ\n-A MINE -j RETURN\nCOMMIT\n";
        assert_eq!(
            removal(saved).as_deref(),
            Some(
                "*nat\n-D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT\n-F CNI-HOSTPORT-DNAT\n\
                 -F CNI-HOSTPORT-MASQ\n-X CNI-HOSTPORT-DNAT\n-X CNI-HOSTPORT-MASQ\nCOMMIT\n"
            )
        );
        assert_eq!(removal("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"), None);
    }
}
