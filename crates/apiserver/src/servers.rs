//! Where the Service `kubernetes` leads when several servers share a store: each keeps a Lease that says where it is, and
//! the Leases are what the Service's endpoints are made of. A server that no longer renews loses its Lease to any of the
//! others, by the time that these saw pass, not by its clock.
//!
//! Which server does what only one may do is not decided here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::rfc3339_micro;
use api_machinery::meta;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::bootstrap::{ensure, place, send, servers_at};
use crate::server::{ApiServer, StartError};
use crate::watch::{ResourceCache, Selection};

/// A server that did not renew for this long is gone.
const GONE: Duration = Duration::from_secs(15);
/// How often a server renews.
const RENEW: Duration = Duration::from_secs(5);
/// The pause after a write that failed.
const RETRY: Duration = Duration::from_secs(1);
/// How long a server that ends tries to say so.
const FAREWELL: Duration = Duration::from_secs(3);
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// By which the Leases of servers are known, as upstream's are.
const LABEL: (&str, &str) = ("apiserver.kubernetes.io/identity", "kube-apiserver");

/// A server's Lease as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    address: IpAddr,
    /// Of the Lease as it is now.
    revision: String,
    /// When it became so, as far as this server knows.
    since: Instant,
}

/// What is known of the servers, by the names of their Leases.
#[derive(Debug, Default)]
struct Servers(BTreeMap<String, Seen>);

impl Servers {
    /// Takes note of what there is: name, address and revision of each Lease.
    fn observe(&mut self, leases: Vec<(String, IpAddr, String)>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        for (name, address, revision) in leases {
            let known = before.remove(&name).filter(|seen| seen.revision == revision);
            let seen = known.unwrap_or(Seen { address, revision, since: now });
            self.0.insert(name, Seen { address, ..seen });
        }
    }

    /// While this server could not write, nor could the others: their time begins anew.
    fn forgive(&mut self, now: Instant) {
        self.0.values_mut().for_each(|seen| seen.since = now);
    }

    /// Those that are gone.
    fn gone(&self, own: &str, now: Instant) -> Vec<(String, String)> {
        let gone = self.0.iter().filter(|(name, seen)| *name != own && now >= seen.since + GONE);
        gone.map(|(name, seen)| (name.clone(), seen.revision.clone())).collect()
    }

    /// When the next one will be, unless it renews.
    fn next(&self, own: &str) -> Option<Instant> {
        self.0.iter().filter(|(name, _)| *name != own).map(|(_, seen)| seen.since + GONE).min()
    }

    /// Where servers are; `own` is among them, whether its Lease was seen yet or not.
    fn addresses(&self, own: IpAddr) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = self.0.values().map(|seen| seen.address).chain([own]).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// This server as one of several.
pub(crate) struct Member {
    server: Arc<ApiServer>,
    client: kube::Client,
    leases: Arc<ResourceCache>,
    /// What holds where the Service leads: Endpoints and EndpointSlice.
    places: [Arc<ResourceCache>; 2],
    name: String,
    address: IpAddr,
    servers: Servers,
    /// When the own Lease is due.
    renew: Instant,
    /// Whether the last renewal failed.
    failing: bool,
}

impl Member {
    pub(crate) fn new(server: Arc<ApiServer>, client: kube::Client) -> Result<Member, StartError> {
        let address = server.config().advertise_address;
        let cache = |object: &Value| place(&server, object).map(|(_, cache)| cache.clone());
        let [endpoints, slice] = servers_at(&[address], server.config().port);
        Ok(Member {
            leases: cache(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}))?,
            places: [cache(&endpoints)?, cache(&slice)?],
            name: name(address),
            address,
            servers: Servers::default(),
            renew: Instant::now(),
            failing: false,
            server,
            client,
        })
    }

    /// Until the server stops; then says that it is no longer there.
    pub(crate) async fn run(mut self) {
        let shutdown = self.server.shutdown().clone();
        if shutdown.run_until_cancelled(self.keep()).await.is_none()
            && tokio::time::timeout(FAREWELL, self.leave()).await.is_err()
        {
            tracing::info!("the others will notice by themselves that this server has ended");
        }
    }

    async fn keep(&mut self) {
        let (all, one) = (Selection::all("kube-system"), Selection::one("default", "kubernetes"));
        loop {
            // What happens from here on wakes the wait below.
            let (leases, mut changed) = self.leases.list_and_subscribe(&all);
            let [(_, mut endpoints), (_, mut slices)] =
                self.places.each_ref().map(|cache| cache.list_and_subscribe(&one));
            let values = leases.iter().filter_map(|lease| lease.content());
            let known = values.filter_map(|lease| entry(&lease)).collect();
            self.servers.observe(known, Instant::now());
            let again = match self.act().await {
                Ok(()) => None,
                Err(error) => {
                    tracing::warn!(%error, "cannot say where the servers are");
                    Some(Instant::now() + RETRY)
                }
            };
            let next = again.into_iter().chain(self.servers.next(&self.name)).chain([self.renew]).min();
            let next = next.unwrap_or(self.renew).max(Instant::now());
            tokio::select! {
                () = changed.wait() => {}
                () = endpoints.wait() => {}
                () = slices.wait() => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    /// Renews, takes the Leases of those that are gone, and brings the endpoints up to date.
    async fn act(&mut self) -> Result<(), StartError> {
        if Instant::now() >= self.renew || !self.servers.0.contains_key(&self.name) {
            self.hold().await?;
        }
        for (name, revision) in self.servers.gone(&self.name, Instant::now()) {
            tracing::info!(lease = name, "a server is gone");
            let only = json!({"preconditions": {"resourceVersion": revision}});
            self.write(send("DELETE", &format!("{LEASES}/{name}"), &only), &[404, 409]).await?;
        }
        self.lead_to(self.servers.addresses(self.address)).await
    }

    /// Renews the own Lease.
    async fn hold(&mut self) -> Result<(), StartError> {
        let lease = self.lease();
        let path = format!("{LEASES}/{}", self.name);
        let began = Instant::now();
        let held = async {
            if !self.write(send("PUT", &path, &lease), &[404]).await? {
                self.write(send("POST", LEASES, &lease), &[409]).await?;
            }
            Ok(())
        };
        let outcome = held.await;
        if outcome.is_ok() && std::mem::take(&mut self.failing) {
            self.servers.forgive(Instant::now());
        }
        self.failing |= outcome.is_err();
        self.renew = began + if outcome.is_ok() { RENEW } else { RETRY };
        outcome
    }

    fn lease(&self) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.name, "namespace": "kube-system", "labels": {LABEL.0: LABEL.1}},
            "spec": {
                "holderIdentity": self.address.to_string(),
                "leaseDurationSeconds": GONE.as_secs(),
                "renewTime": rfc3339_micro(self.server.clock().now()),
            },
        })
    }

    /// The last words of a server that ends in order: the others see to the endpoints. The last server that ends leaves its
    /// address: nobody is served better by none.
    async fn leave(&mut self) {
        let path = format!("{LEASES}/{}", self.name);
        if let Err(error) = self.write(send("DELETE", &path, &json!({})), &[404]).await {
            tracing::info!(%error, "the others will notice by themselves that this server has ended");
        }
    }

    async fn lead_to(&self, addresses: Vec<IpAddr>) -> Result<(), StartError> {
        for object in servers_at(&addresses, self.server.config().port) {
            ensure(self.server.clone(), self.client.clone(), object).await?;
        }
        Ok(())
    }

    /// Whether a write was done; answers with one of these codes say that there was nothing to do.
    async fn write(&self, request: http::Request<Vec<u8>>, fine: &[u16]) -> Result<bool, StartError> {
        match self.client.request::<Value>(request).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if fine.contains(&status.code) => Ok(false),
            Err(error) => {
                let what = format!("Lease {}", self.name);
                Err(StartError::Bootstrap { what, error: error.to_string() })
            }
        }
    }
}

/// What the Lease of a server at an address is called.
fn name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("apiserver-{address}"),
        IpAddr::V6(address) => {
            let parts = address.segments().map(|part| format!("{part:x}"));
            format!("apiserver-{}", parts.join("-"))
        }
    }
}

/// Name, address and revision of a server's Lease; `None` for other Leases.
fn entry(lease: &Value) -> Option<(String, IpAddr, String)> {
    if lease["metadata"]["labels"][LABEL.0] != LABEL.1 {
        return None;
    }
    let address = lease["spec"]["holderIdentity"].as_str()?.parse().ok()?;
    Some((meta::name(lease).to_owned(), address, meta::resource_version(lease).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(last: u8, revision: u64) -> (String, IpAddr, String) {
        let address = IpAddr::from([192, 0, 2, last]);
        (name(address), address, revision.to_string())
    }

    #[test]
    fn who_does_not_renew_is_gone_by_the_time_that_was_seen_to_pass() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let own = lease(1, 1).0;
        let mut servers = Servers::default();
        servers.observe(vec![lease(1, 1), lease(2, 2), lease(3, 3)], at(0));
        servers.observe(vec![lease(1, 1), lease(2, 4), lease(3, 3)], at(10));
        assert_eq!(servers.next(&own), Some(at(15)));
        assert_eq!(servers.gone(&own, at(14)), []);
        assert_eq!(servers.gone(&own, at(20)), [(lease(3, 3).0, "3".to_owned())]);
        // Nobody could write in between.
        servers.forgive(at(20));
        assert_eq!(servers.gone(&own, at(34)), []);
        servers.observe(vec![lease(2, 4)], at(21));
        assert_eq!(servers.addresses(lease(1, 1).1), [lease(1, 1).1, lease(2, 4).1]);
    }

    #[test]
    fn leases_of_others_do_not_count() {
        let of = |label: &str, holder: &str| {
            entry(&json!({"metadata": {"name": "n", "resourceVersion": "7", "labels": {LABEL.0: label}},
                "spec": {"holderIdentity": holder}}))
        };
        assert_eq!(of("kube-apiserver", "192.0.2.1").map(|(_, _, revision)| revision).as_deref(), Some("7"));
        assert_eq!(of("kube-apiserver", "somebody"), None);
        assert_eq!(of("other", "192.0.2.1"), None);
        assert_eq!(name("2001:db8::1".parse().expect("an address")), "apiserver-2001-db8-0-0-0-0-0-1");
    }
}
