//! Bare metal: machines are what their nodes say, and load balancers are addresses from a pool. Something in the cluster
//! announces an address from a node; the service proxy takes its connections.
//!
//! The only memory of allocations is the status of Services: it is read once at start, before the first allocation.
//!
//! Deliberately absent: routes (nodes route to each other) and volumes; and any check that a machine exists: nodes are
//! never deleted, a person does that.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::Deserialize;

use crate::provider::{
    Answer, Ingress, InstanceMetadata, Instances, LoadBalancerSpec, LoadBalancers, NodeRef, Provider,
    ProviderError, Routes, ServiceId, Volumes,
};

/// The section `bareMetal` of the cloud's configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BareMetalConfig {
    /// Addresses for load balancers, as `192.0.2.10-192.0.2.20`, `192.0.2.0/28` or `192.0.2.7`.
    #[serde(default)]
    pub pools: Vec<String>,
}

impl BareMetalConfig {
    /// The first pool that has addresses in common with a range, or with an address: nodes would announce what is somebody
    /// else's.
    pub fn overlap(&self, range: &str) -> Result<Option<&str>, PoolError> {
        let other = Range::whole(range)?;
        for pool in &self.pools {
            let own = Range::parse(pool)?;
            if own.first <= other.last && other.first <= own.last {
                return Ok(Some(pool));
            }
        }
        Ok(None)
    }
}

/// Why a pool is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// It cannot be read.
    #[error("pool {0:?} is not FIRST-LAST, ADDRESS/BITS or ADDRESS, in IPv4")]
    Syntax(String),
    /// Two have addresses in common.
    #[error("pools {0} and {1} overlap")]
    Overlap(String, String),
}

/// Addresses from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
}

impl std::fmt::Display for Range {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-{}", Ipv4Addr::from(self.first), Ipv4Addr::from(self.last))
    }
}

impl Range {
    /// The addresses that can be given.
    fn parse(text: &str) -> Result<Self, PoolError> {
        let Self { first, last } = Self::whole(text)?;
        // The network's own address and the broadcast address are nobody's, where there are such.
        let inner = u32::from(text.contains('/') && last - first > 1);
        Ok(Self { first: first + inner, last: last - inner })
    }

    /// All addresses.
    fn whole(text: &str) -> Result<Self, PoolError> {
        let syntax = || PoolError::Syntax(text.to_owned());
        let address = |text: &str| text.trim().parse::<Ipv4Addr>().map(u32::from).map_err(|_| syntax());
        let range = if let Some((first, last)) = text.split_once('-') {
            Self { first: address(first)?, last: address(last)? }
        } else if let Some((base, bits)) = text.split_once('/') {
            let bits: u32 = bits.trim().parse().ok().filter(|bits| *bits <= 32).ok_or_else(syntax)?;
            let hosts = u32::MAX.checked_shr(bits).unwrap_or(0);
            let base = address(base)? & !hosts;
            Self { first: base, last: base | hosts }
        } else {
            Self { first: address(text)?, last: address(text)? }
        };
        if range.first <= range.last { Ok(range) } else { Err(syntax()) }
    }
}

/// Who has which address of the pools. Pure but for its own memory.
#[derive(Debug)]
struct Pools {
    ranges: Vec<Range>,
    held: BTreeMap<u32, ServiceId>,
}

impl Pools {
    fn new(pools: &[String]) -> Result<Self, PoolError> {
        let mut ranges = pools.iter().map(|text| Range::parse(text)).collect::<Result<Vec<_>, _>>()?;
        ranges.sort_by_key(|range| range.first);
        for pair in ranges.windows(2) {
            if pair[1].first <= pair[0].last {
                return Err(PoolError::Overlap(pair[0].to_string(), pair[1].to_string()));
            }
        }
        Ok(Self { ranges, held: BTreeMap::new() })
    }

    fn contains(&self, address: u32) -> bool {
        self.ranges.iter().any(|range| (range.first..=range.last).contains(&address))
    }

    fn describe(&self) -> String {
        self.ranges.iter().map(Range::to_string).collect::<Vec<_>>().join(", ")
    }

    fn of(&self, service: &ServiceId) -> Option<u32> {
        self.held.iter().find(|(_, holder)| holder.uid == service.uid).map(|(address, _)| *address)
    }

    fn allocate(&mut self, service: &ServiceId, requested: Option<&str>) -> Answer<Ipv4Addr> {
        let current = self.of(service);
        let address = match requested {
            Some(requested) => self.requested(service, requested)?,
            None => match current.filter(|address| self.contains(*address)) {
                Some(address) => address,
                None => self.free()?,
            },
        };
        self.held.retain(|held, holder| holder.uid != service.uid || *held == address);
        self.held.insert(address, service.clone());
        Ok(address.into())
    }

    fn requested(&self, service: &ServiceId, requested: &str) -> Answer<u32> {
        let no = |what: String| Err(ProviderError::Permanent(what));
        let Ok(address) = requested.parse::<Ipv4Addr>() else {
            return no(format!("loadBalancerIP {requested:?} is not an IPv4 address"));
        };
        if !self.contains(address.into()) {
            return no(format!("address {address} is in none of the pools {}", self.describe()));
        }
        match self.held.get(&address.into()) {
            Some(holder) if holder.uid != service.uid => {
                no(format!("address {address} is already that of service {}", holder.key))
            }
            _ => Ok(address.into()),
        }
    }

    fn free(&self) -> Answer<u32> {
        for range in &self.ranges {
            let mut next = range.first;
            // Those that are held come in order: the first gap is free.
            for (held, _) in self.held.range(range.first..=range.last) {
                if *held != next {
                    return Ok(next);
                }
                let Some(after) = next.checked_add(1) else { break };
                next = after;
            }
            if next <= range.last && !self.held.contains_key(&next) {
                return Ok(next);
            }
        }
        Err(ProviderError::Permanent(match self.ranges.is_empty() {
            true => "there is no address pool for load balancers".to_owned(),
            false => format!("no address is left in {}: all {} are in use", self.describe(), self.held.len()),
        }))
    }
}

/// The provider.
#[derive(Debug)]
pub struct BareMetal {
    pools: Mutex<Pools>,
    /// Machines are somebody else's to tell about.
    addresses_only: bool,
}

impl BareMetal {
    /// A provider with these pools.
    pub fn new(config: &BareMetalConfig) -> Result<Self, PoolError> {
        Ok(Self { pools: Mutex::new(Pools::new(&config.pools)?), addresses_only: false })
    }

    /// One that has no machines, for clusters whose nodes say all that there is to know about themselves.
    #[must_use]
    pub fn addresses_only(self) -> Self {
        Self { addresses_only: true, ..self }
    }

    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider for BareMetal {
    fn name(&self) -> &'static str {
        "bare-metal"
    }

    fn instances(&self) -> Option<&dyn Instances> {
        (!self.addresses_only).then_some(self as &dyn Instances)
    }

    fn load_balancers(&self) -> Option<&dyn LoadBalancers> {
        Some(self)
    }

    fn routes(&self) -> Option<&dyn Routes> {
        None
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        None
    }
}

#[async_trait]
impl Instances for BareMetal {
    async fn exists(&self, _: &NodeRef) -> Answer<bool> {
        Ok(true)
    }

    async fn is_shut_down(&self, _: &NodeRef) -> Answer<bool> {
        Ok(false)
    }

    async fn metadata(&self, node: &NodeRef) -> Answer<InstanceMetadata> {
        Ok(InstanceMetadata {
            provider_id: format!("bare-metal://{}", node.name),
            addresses: node.addresses.clone(),
            ..InstanceMetadata::default()
        })
    }
}

#[async_trait]
impl LoadBalancers for BareMetal {
    fn restore(&self, held: &[(ServiceId, Vec<Ingress>)]) {
        let mut pools = self.pools();
        // What this one remembers of an earlier time may be another's by now.
        pools.held.clear();
        for (service, ingresses) in held {
            for ingress in ingresses {
                let Some(IpAddr::V4(address)) = ingress.ip else { continue };
                let holder = pools.held.entry(address.into()).or_insert_with(|| service.clone());
                if holder.uid != service.uid {
                    tracing::warn!(%address, service = %service.key, holder = %holder.key, "two services have one address");
                }
            }
        }
    }

    async fn ensure(&self, spec: &LoadBalancerSpec) -> Answer<Vec<Ingress>> {
        let address = self.pools().allocate(&spec.service, spec.requested_address.as_deref())?;
        Ok(vec![Ingress { ip: Some(address.into()), hostname: None }])
    }

    async fn update(&self, _: &LoadBalancerSpec) -> Answer<()> {
        Ok(())
    }

    async fn delete(&self, service: &ServiceId) -> Answer<()> {
        self.pools().held.retain(|_, holder| holder.uid != service.uid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use component::ObjectKey;

    fn pools(texts: &[&str]) -> Result<Pools, PoolError> {
        Pools::new(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    fn service(name: &str) -> ServiceId {
        ServiceId { key: ObjectKey::new("default", name), uid: format!("uid-{name}") }
    }

    #[test]
    fn pools_are_read_and_checked() {
        let described = |text: &str| pools(&[text]).map(|pools| pools.describe());
        assert_eq!(described("192.0.2.10 - 192.0.2.20").as_deref(), Ok("192.0.2.10-192.0.2.20"));
        assert_eq!(described("192.0.2.5/29").as_deref(), Ok("192.0.2.1-192.0.2.6"));
        assert_eq!(described("192.0.2.5/32").as_deref(), Ok("192.0.2.5-192.0.2.5"));
        assert_eq!(described("0.0.0.0/0").as_deref(), Ok("0.0.0.1-255.255.255.254"));
        for bad in ["", "x", "192.0.2.9-192.0.2.1", "192.0.2.0/33", "192.0.2.0/", "fd00::/64", "1.2.3.4-"] {
            assert_eq!(described(bad), Err(PoolError::Syntax(bad.to_owned())));
        }
        let overlap = pools(&["192.0.2.16/28", "192.0.2.0-192.0.2.17"]).expect_err("refused");
        assert_eq!(overlap.to_string(), "pools 192.0.2.0-192.0.2.17 and 192.0.2.17-192.0.2.30 overlap");
    }

    #[test]
    fn an_address_is_kept_given_back_and_never_given_twice() {
        let mut pools = pools(&["192.0.2.1-192.0.2.2", "192.0.2.9"]).expect("pools");
        let mut allocate = |name: &str, wanted: Option<&str>| {
            pools
                .allocate(&service(name), wanted)
                .map(|address| address.to_string())
                .map_err(|error| error.to_string())
        };
        let steps: [(&str, Option<&str>, Result<&str, &str>); 8] = [
            ("a", None, Ok("192.0.2.1")),
            ("b", Some("192.0.2.9"), Ok("192.0.2.9")),
            ("a", None, Ok("192.0.2.1")),
            ("c", Some("192.0.2.1"), Err("address 192.0.2.1 is already that of service default/a")),
            (
                "c",
                Some("192.0.2.3"),
                Err("address 192.0.2.3 is in none of the pools 192.0.2.1-192.0.2.2, 192.0.2.9-192.0.2.9"),
            ),
            ("a", Some("192.0.2.2"), Ok("192.0.2.2")),
            ("c", None, Ok("192.0.2.1")),
            (
                "d",
                None,
                Err("no address is left in 192.0.2.1-192.0.2.2, 192.0.2.9-192.0.2.9: all 3 are in use"),
            ),
        ];
        for (name, wanted, expected) in steps {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(allocate(name, wanted), expected, "{name} {wanted:?}");
        }
    }

    #[test]
    fn pools_that_meet_what_is_somebody_elses_are_found() {
        let texts = ["192.0.2.10-192.0.2.20", "198.51.100.0/24"];
        let config = BareMetalConfig { pools: texts.map(str::to_owned).into() };
        for (other, pool) in [
            ("192.0.2.20", Some(texts[0])),
            ("192.0.2.21", None),
            ("192.0.2.0/28", Some(texts[0])),
            ("192.0.2.0/29", None),
            ("198.51.100.255", None),
            ("198.51.0.0/16", Some(texts[1])),
            ("10.42.0.0/16", None),
        ] {
            assert_eq!(config.overlap(other), Ok(pool), "{other}");
        }
        assert_eq!(config.overlap("x"), Err(PoolError::Syntax("x".to_owned())));
    }

    #[test]
    fn an_address_outside_the_pools_is_given_up() {
        let mut pools = pools(&["192.0.2.1"]).expect("pools");
        pools.held.insert(Ipv4Addr::new(198, 51, 100, 1).into(), service("a"));
        assert_eq!(
            pools.allocate(&service("a"), None).map(|address| address.to_string()).as_deref(),
            Ok("192.0.2.1")
        );
        assert_eq!(pools.held.len(), 1);
    }
}
