//! Flow control: how many requests are served at a time. What is over a limit is refused at once with 429 and comes
//! again, so that nothing queues up here.
//!
//! Nodes and the cluster's own components have places of their own: no number of users keeps a lease from being renewed.

use std::sync::Arc;

use api_machinery::status::ApiError;
use tokio::sync::Semaphore;

use crate::authz::node::{LEASES, NODES};
use crate::types::{Permit, RequestInfo, UserInfo};

/// Seconds after which a refused client should come again.
const RETRY_AFTER: u32 = 1;

/// How many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Reads by users.
    pub readonly: usize,
    /// Writes by users.
    pub mutating: usize,
    /// Requests of nodes and of the cluster's own components.
    pub system: usize,
    /// Node leases, and nothing else.
    pub leases: usize,
    /// Logs and connections to pods, Services and nodes.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { readonly: 400, mutating: 200, system: 400, leases: 200, streams: 1000 }
    }
}

/// The places.
pub struct FlowControl {
    readonly: Arc<Semaphore>,
    mutating: Arc<Semaphore>,
    system: Arc<Semaphore>,
    leases: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

impl FlowControl {
    /// All places free.
    pub fn new(limits: Limits) -> FlowControl {
        let places = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        FlowControl {
            readonly: places(limits.readonly),
            mutating: places(limits.mutating),
            system: places(limits.system),
            leases: places(limits.leases),
            streams: places(limits.streams),
        }
    }

    /// A place, or 429.
    pub fn enter(&self, user: &UserInfo, info: &RequestInfo) -> Result<Permit, ApiError> {
        let places = self.places(user, info).clone();
        match places.try_acquire_owned() {
            Ok(place) => Ok(Permit::holding(place)),
            Err(_) => Err(too_many_requests()),
        }
    }

    fn places(&self, user: &UserInfo, info: &RequestInfo) -> &Arc<Semaphore> {
        if is_stream(info) {
            return &self.streams;
        }
        let node = user.in_group(NODES);
        if node && info.resource == "leases" && info.namespace == LEASES {
            return &self.leases;
        }
        if is_system(user) {
            return &self.system;
        }
        match info.verb.as_str() {
            "get" | "list" | "watch" => &self.readonly,
            _ => &self.mutating,
        }
    }
}

/// 429: all places are taken.
pub fn too_many_requests() -> ApiError {
    ApiError::too_many_requests("Too many requests, please try again later.", RETRY_AFTER)
}

/// Nodes and the cluster's own components.
pub fn is_system(user: &UserInfo) -> bool {
    user.in_group(NODES) || is_component(user)
}

/// The server itself, the scheduler, controllers and the proxy.
fn is_component(user: &UserInfo) -> bool {
    user.name == "system:apiserver"
        || user.name.starts_with("system:kube-")
        || user.name.starts_with("system:serviceaccount:kube-system:")
}

/// What goes on for as long as the client likes. A watch is none of them until it streams.
fn is_stream(info: &RequestInfo) -> bool {
    matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(verb: &str, namespace: &str, resource: &str, subresource: &str) -> RequestInfo {
        RequestInfo {
            verb: verb.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            is_resource: true,
            ..RequestInfo::default()
        }
    }

    #[test]
    fn users_do_not_keep_out_nodes() {
        let flow = FlowControl::new(Limits { readonly: 2, mutating: 1, system: 1, leases: 1, streams: 1 });
        let user = UserInfo::new("ann", &["system:masters"]);
        let node = UserInfo::new("system:node:a", &[NODES]);
        let scheduler = UserInfo::new("system:kube-scheduler", &[]);
        let list = info("list", "", "pods", "");
        let held: Vec<Permit> = (0..2).map(|_| flow.enter(&user, &list).expect("a place")).collect();
        let error = flow.enter(&user, &list).err().expect("full");
        assert_eq!((error.code(), error.retry_after()), (429, Some(1)));
        let write =
            flow.enter(&user, &info("create", "a", "pods", "")).expect("writes have places of their own");
        assert!(flow.enter(&user, &info("delete", "a", "pods", "")).is_err());
        let stream = flow.enter(&user, &info("get", "a", "pods", "log")).expect("streams do too");
        assert!(flow.enter(&user, &info("create", "a", "pods", "proxy")).is_err(), "and not without end");
        let own = flow.enter(&node, &list).expect("nodes have places of their own");
        assert!(flow.enter(&scheduler, &list).is_err(), "which they share with components");
        flow.enter(&node, &info("update", LEASES, "leases", "")).expect("leases have places of their own");
        assert!(flow.enter(&user, &info("update", LEASES, "leases", "")).is_err(), "but for nodes only");
        drop((held, write, own, stream));
        flow.enter(&user, &list).expect("places are given back");
        flow.enter(&scheduler, &list).expect("places are given back");
    }
}
