//! Load balancers without a cloud: the server gives Services addresses of a pool, and nodes elect who answers for each on their
//! link. Off without a pool, so that another implementation can have the Services.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use cloud::bare_metal::{BareMetal, BareMetalConfig};
use component::Context;
use host::arp::{PacketSocket, Wire};

use crate::datastore::run_while_leading;
use crate::flags::ServerFlags;

/// The name of the Lease, where servers elect one that gives addresses.
const LEASE: &str = "cloud-controller-manager";

/// What a server is told of load balancers.
#[derive(Args, Clone, Debug, Default)]
pub struct LoadBalancerFlags {
    /// Addresses for Services of type LoadBalancer, which nodes announce on their link by ARP: FIRST-LAST, ADDRESS/BITS or
    /// ADDRESS, several with commas between them
    #[arg(long = "load-balancer-pool", env = "SKIFF_LOAD_BALANCER_POOL", value_delimiter = ',')]
    pub pools: Vec<String>,
}

/// The provider of addresses, if there are any to give. `node` is the server's own address.
pub fn provider(flags: &ServerFlags, node: IpAddr) -> Result<Option<Arc<BareMetal>>> {
    let config = BareMetalConfig { pools: flags.load_balancers.pools.clone() };
    if config.pools.is_empty() {
        return Ok(None);
    }
    let provider = BareMetal::new(&config).context("--load-balancer-pool")?;
    let node = node.to_string();
    for (what, range) in [
        ("--cluster-cidr", &flags.node.cluster_cidr),
        ("--service-cidr", &flags.service_cidr),
        ("the node's own address", &node),
    ] {
        // Ranges of IPv6 have nothing in common with pools of IPv4.
        if let Some(pool) = config.overlap(range).ok().flatten() {
            bail!("--load-balancer-pool: {pool} overlaps with {what} {range}");
        }
    }
    Ok(Some(Arc::new(provider.addresses_only())))
}

/// Gives addresses until shutdown; where servers elect, while this one leads.
pub async fn give(context: Context, provider: Arc<BareMetal>, elect: bool) -> Result<()> {
    if elect {
        // What was given is read anew from the Services by whoever begins to lead.
        let run = |context| cloud::run(context, cloud::Config::new(provider.clone()));
        return run_while_leading(context, LEASE, run).await;
    }
    cloud::run(context.clone(), cloud::Config::new(provider)).await;
    context.tasks.close();
    context.tasks.wait().await;
    Ok(())
}

/// Answers on a link for the addresses that this node was elected for, until shutdown.
pub async fn announce(context: Context, node_name: String, link: String) -> Result<()> {
    let open = || PacketSocket::open(&link).map(|socket| Arc::new(socket) as Arc<dyn Wire>);
    announcer::run(context, announcer::Config { node_name }, open).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::flags::{Command, Flags};

    fn made(pool: &[&str]) -> Result<bool, String> {
        let words = ["skiff", "server", "--cluster-cidr", "10.42.0.0/16"].iter().chain(pool);
        let Command::Server(flags) = Flags::parse_from(words).command else { panic!("a server") };
        let made = provider(&flags, IpAddr::from([192, 0, 2, 7]));
        made.map(|provider| provider.is_some()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn pools_are_checked_before_anything_begins() {
        assert_eq!(made(&[]), Ok(false));
        assert_eq!(made(&["--load-balancer-pool", "192.0.2.8-192.0.2.20,198.51.100.0/24"]), Ok(true));
        for (pool, words) in [
            ("nonsense", "--load-balancer-pool: pool \"nonsense\" is not FIRST-LAST"),
            ("192.0.2.9-192.0.2.8", "--load-balancer-pool: pool \"192.0.2.9-192.0.2.8\" is not"),
            ("192.0.2.8/30,192.0.2.10", "--load-balancer-pool: pools 192.0.2.9-192.0.2.10 and 192.0.2.10"),
            ("192.0.2.0/24", "192.0.2.0/24 overlaps with the node's own address 192.0.2.7"),
            ("10.42.7.1-10.42.7.9", "10.42.7.1-10.42.7.9 overlaps with --cluster-cidr 10.42.0.0/16"),
            ("10.0.0.0/8", "10.0.0.0/8 overlaps with --cluster-cidr 10.42.0.0/16"),
            ("10.43.0.99", "10.43.0.99 overlaps with --service-cidr 10.43.0.0/16"),
        ] {
            let error = made(&["--load-balancer-pool", pool]).expect_err("refused");
            assert!(error.contains(words), "{error}");
        }
    }
}
