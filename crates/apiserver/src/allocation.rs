//! Addresses and node ports of Services, given out in the transaction that stores the Service.
//!
//! Each is a key of its own that must not exist yet, so two servers, or two requests, can never give out the same one, and a
//! crash leaves neither a Service without its address nor an address without its Service. There is no in-memory
//! bitmap and nothing to repair.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::{Value, json};
use store::{Compare, ListOptions, Txn};

use crate::request::commit::store_error;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;

const ADDRESSES: &str = "/skiff/allocations/service-addresses/";
const PORTS: &str = "/skiff/allocations/node-ports/";
/// Claims that are read from the store at a time.
const PAGE: usize = 1000;

/// What must be claimed and released together with a write.
#[derive(Debug, Default)]
pub struct Claims {
    claim: Vec<String>,
    release: Vec<String>,
    owner: String,
}

impl Claims {
    /// The transaction with the claims in it.
    pub fn join(self, mut txn: Txn) -> Txn {
        let owner = bytes::Bytes::from(self.owner);
        for key in self.claim {
            let key: Arc<str> = key.into();
            txn = txn.when(key.clone(), Compare::Absent).put(key, owner.clone());
        }
        self.release.into_iter().fold(txn, |txn, key| txn.delete(key))
    }
}

/// What a Service holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    addresses: BTreeSet<String>,
    ports: BTreeSet<u16>,
}

impl Held {
    fn of(service: &Value) -> Held {
        let addresses = service.pointer("/spec/clusterIPs").and_then(Value::as_array).into_iter().flatten();
        let addresses = addresses.chain(service.pointer("/spec/clusterIP")).filter_map(Value::as_str);
        let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
        let ports =
            ports.filter_map(|port| port.get("nodePort")).chain(service.pointer("/spec/healthCheckNodePort"));
        Held {
            addresses: addresses
                .filter(|address| !matches!(*address, "" | "None"))
                .map(str::to_owned)
                .collect(),
            ports: ports
                .filter_map(Value::as_u64)
                .filter_map(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0)
                .collect(),
        }
    }

    fn keys(&self) -> BTreeSet<String> {
        let addresses = self.addresses.iter().map(|address| format!("{ADDRESSES}{address}"));
        addresses.chain(self.ports.iter().map(|port| format!("{PORTS}{port}"))).collect()
    }
}

/// Completes `new` with what it needs and says what the write has to claim and release. Kinds that hold nothing pass through.
pub async fn plan(
    server: &ApiServer,
    call: &ResourceCall,
    old: Option<&Value>,
    new: Option<&mut Value>,
) -> Result<Claims, ApiError> {
    if !(call.stored.group.is_empty() && call.stored.plural == "services") {
        return Ok(Claims::default());
    }
    let before = old.map(Held::of).unwrap_or_default();
    let mut owner = String::new();
    let after = match new {
        Some(service) => {
            let allocator = Allocator { server, before: &before };
            allocator.complete(service).await?;
            owner = format!("{}/{}", meta::namespace(service), meta::name(service));
            Held::of(service)
        }
        None => Held::default(),
    };
    let (old_keys, new_keys) = (before.keys(), after.keys());
    Ok(Claims {
        claim: new_keys.difference(&old_keys).cloned().collect(),
        release: old_keys.difference(&new_keys).cloned().collect(),
        owner,
    })
}

struct Allocator<'a> {
    server: &'a ApiServer,
    before: &'a Held,
}

impl Allocator<'_> {
    async fn complete(&self, service: &mut Value) -> Result<(), ApiError> {
        let text = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let kind = text("/spec/type").to_owned();
        if kind == "ExternalName" {
            return Ok(());
        }
        let mut errors = Errors::new();
        match text("/spec/clusterIP").to_owned().as_str() {
            "None" => {}
            "" => {
                let address = self.free_address(&mut errors).await?;
                if let Some(address) = address {
                    service["spec"]["clusterIP"] = address.to_string().into();
                    service["spec"]["clusterIPs"] = json!([address.to_string()]);
                }
            }
            chosen => self.check_address(chosen, &mut errors).await?,
        }
        let flag = service.pointer("/spec/allocateLoadBalancerNodePorts").and_then(Value::as_bool);
        let gives = kind == "NodePort" || (kind == "LoadBalancer" && flag != Some(false));
        self.ports(service, gives, &mut errors).await?;
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid("", "Service", meta::name(service), errors))
        }
    }

    /// An address of the upper part of the range, so that the lower is left for those who choose; then of the lower.
    async fn free_address(&self, errors: &mut Errors) -> Result<Option<Ipv4Addr>, ApiError> {
        let range = self.server.config().service_cidr;
        let taken = self.taken(ADDRESSES).await?;
        // Neither the network's own address, nor the first (the API server's), nor the broadcast address.
        let (first, end) = (2, range.size().saturating_sub(1));
        let band = (range.size() / 16).clamp(16, 256).min(end.saturating_sub(first));
        let upper = first + band;
        let is_free =
            |offset: &u64| range.nth(*offset).is_some_and(|address| !taken.contains(&address.to_string()));
        let found = self.pick(upper, end, is_free).or_else(|| self.pick(first, upper.min(end), is_free));
        let address = found.and_then(|offset| range.nth(offset));
        if address.is_none() {
            errors.internal(
                &Path::new("spec").child("clusterIPs"),
                "failed to allocate a serviceIP: range is full",
            );
        }
        Ok(address)
    }

    /// A place in `from..to`, starting anywhere so that a freed address is not used again at once.
    fn pick(&self, from: u64, to: u64, is_free: impl Fn(&u64) -> bool) -> Option<u64> {
        let size = to.checked_sub(from).filter(|size| *size > 0)?;
        let start = self.server.entropy().below(size);
        (0..size).map(|step| from + (start + step) % size).find(is_free)
    }

    async fn check_address(&self, chosen: &str, errors: &mut Errors) -> Result<(), ApiError> {
        if self.before.addresses.contains(chosen) {
            return Ok(());
        }
        let range = self.server.config().service_cidr;
        let inside = chosen.parse().is_ok_and(|address: Ipv4Addr| {
            range.contains(address)
                && Some(address) != range.nth(0)
                && Some(address) != range.nth(range.size() - 1)
        });
        let why = if !inside {
            format!("the provided IP is not in the valid range. The range of valid IPs is {range}")
        } else if self.is_taken(&format!("{ADDRESSES}{chosen}")).await? {
            "provided IP is already allocated".to_owned()
        } else {
            return Ok(());
        };
        let spec = Path::new("spec");
        errors.invalid(
            &spec.child("clusterIPs"),
            json!([chosen]),
            format!("failed to allocate IP {chosen}: {why}"),
        );
        Ok(())
    }

    async fn ports(&self, service: &mut Value, gives: bool, errors: &mut Errors) -> Result<(), ApiError> {
        let wanted = |port: &Value| port.get("nodePort").and_then(Value::as_u64).unwrap_or(0);
        let needs_health = service.pointer("/spec/type") == Some(&json!("LoadBalancer"))
            && service.pointer("/spec/externalTrafficPolicy") == Some(&json!("Local"))
            && service.pointer("/spec/healthCheckNodePort").and_then(Value::as_u64).unwrap_or(0) == 0;
        let mut mine = self.before.ports.clone();
        let Some(ports) = service.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else {
            return Ok(());
        };
        for (index, port) in ports.iter().enumerate() {
            if wanted(port) != 0 {
                self.check_port(index, wanted(port), &mut mine, errors).await?;
            }
        }
        let missing = gives && ports.iter().any(|port| wanted(port) == 0);
        if !missing && !needs_health {
            return Ok(());
        }
        let mut taken: BTreeSet<u16> =
            self.taken(PORTS).await?.iter().filter_map(|port| port.parse().ok()).collect();
        taken.extend(&mine);
        // The same number for the same port over several protocols, as upstream does for DNS and its like.
        let mut given: Vec<(u64, String, u16)> = Vec::new();
        for (index, port) in ports.iter_mut().enumerate().filter(|_| gives) {
            if wanted(port) != 0 {
                continue;
            }
            let number = port.get("port").and_then(Value::as_u64).unwrap_or(0);
            let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
            let shared = given.iter().find(|(other, with, _)| *other == number && *with != protocol);
            let chosen = shared.map(|(_, _, node)| *node).or_else(|| self.free_port(&taken));
            let Some(chosen) = chosen else {
                let path = Path::new("spec");
                let ports = path.child("ports");
                errors.internal(
                    &ports.index(index).child("nodePort"),
                    "failed to allocate a nodePort: range is full",
                );
                return Ok(());
            };
            taken.insert(chosen);
            given.push((number, protocol, chosen));
            port["nodePort"] = chosen.into();
        }
        if needs_health && let Some(port) = self.free_port(&taken) {
            service["spec"]["healthCheckNodePort"] = port.into();
        }
        Ok(())
    }

    async fn check_port(
        &self,
        index: usize,
        port: u64,
        mine: &mut BTreeSet<u16>,
        errors: &mut Errors,
    ) -> Result<(), ApiError> {
        let range = &self.server.config().node_ports;
        let small = u16::try_from(port).ok().filter(|port| range.contains(port));
        let why = match small {
            None => format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            ),
            Some(port) if mine.contains(&port) => return Ok(()),
            Some(port) if self.is_taken(&format!("{PORTS}{port}")).await? => {
                "provided port is already allocated".to_owned()
            }
            Some(port) => {
                mine.insert(port);
                return Ok(());
            }
        };
        let spec = Path::new("spec");
        let ports = spec.child("ports");
        errors.invalid(&ports.index(index).child("nodePort"), port, why);
        Ok(())
    }

    fn free_port(&self, taken: &BTreeSet<u16>) -> Option<u16> {
        let range = &self.server.config().node_ports;
        let (from, to) = (u64::from(*range.start()), u64::from(*range.end()) + 1);
        let is_free = |port: &u64| u16::try_from(*port).is_ok_and(|port| !taken.contains(&port));
        self.pick(from, to, is_free).and_then(|port| u16::try_from(port).ok())
    }

    async fn is_taken(&self, key: &str) -> Result<bool, ApiError> {
        Ok(self.server.store().get(key).await.map_err(store_error)?.is_some())
    }

    /// The last parts of all keys below a prefix.
    async fn taken(&self, prefix: &str) -> Result<BTreeSet<String>, ApiError> {
        let mut taken = BTreeSet::new();
        let mut after: Option<Arc<str>> = None;
        loop {
            let options = ListOptions { at: None, limit: PAGE, after: after.as_deref() };
            let page = self.server.store().list(prefix, options).await.map_err(store_error)?;
            after = page.items.last().map(|item| item.key.clone());
            taken.extend(page.items.iter().map(|item| item.key[prefix.len()..].to_owned()));
            if !page.more {
                return Ok(taken);
            }
        }
    }
}
