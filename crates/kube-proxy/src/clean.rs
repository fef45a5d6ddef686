//! After a change of modes: takes away what the others left in the kernel. While two modes are there each translates what
//! the other would, so that new connections are answered throughout. Those that the virtual server translates end with it.

use host::iptables;
use host::nft::{Nft, NftProgram};
use host::process::ProcessError;
use tokio_util::task::TaskTracker;

use crate::ProxyMode;
use crate::apply::ApplyError;
use crate::iptables::ours;
use crate::rules::TABLE;

/// What modes other than this one left. The modes `nftables` and `ipvs` have one table in common, which is brought from
/// the one to the other by the difference.
pub async fn others(mode: ProxyMode) -> Result<(), ApplyError> {
    if mode != ProxyMode::Ipvs && host::ipvs::clear().await? {
        tracing::info!("removed the virtual services of the mode ipvs");
    }
    if mode == ProxyMode::Iptables {
        // It is made first, so that one that is not there can go.
        let script = format!("add table ip {TABLE}\ndelete table ip {TABLE}\n");
        NftProgram::new(TaskTracker::new()).apply(&script).await?;
    }
    if mode != ProxyMode::Iptables {
        remove_chains().await?;
    }
    Ok(())
}

async fn remove_chains() -> Result<(), ApplyError> {
    let saved = match iptables::save().await {
        // A machine without the program has no chains.
        Err(ProcessError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(());
        }
        saved => saved?,
    };
    if let Some(script) = iptables::removal(&saved, ours) {
        iptables::restore(&script, |_| {}).await?;
        tracing::info!("removed the chains of the mode iptables");
    }
    Ok(())
}
