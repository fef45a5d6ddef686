//! What is left in iptables when all pods are gone: the chains that the port plugin shares between them, and those of the
//! service proxy in its iptables mode. Which rules go is decided from the listing alone.

use anyhow::{Context as _, Result};
use host::iptables::removal;
use host::process::{Command, LinuxRunner, Runner};
use serde_json::Value;

/// Chains that are ours begin so. Others have the right names to themselves on this machine.
const PREFIXES: [&str; 3] = ["CNI-HOSTPORT-", "KUBE-", "SKIFF-"];

fn ours(chain: &str) -> bool {
    PREFIXES.iter().any(|prefix| chain.starts_with(prefix))
}

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
    let Some(script) = removal(&String::from_utf8_lossy(&saved.stdout), ours) else { return Ok(()) };
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
