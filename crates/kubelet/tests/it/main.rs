//! The kubelet against a real containerd. Each test runs in network, mount and PID namespaces of its own, without a
//! route out; what it started dies with it. Without containerd the tests skip loudly, unless
//! `SKIFF_REQUIRE_CONTAINERD=1` demands it.

mod api;
mod containerd;
mod features;
mod machine;
mod pods;
mod sandbox;
mod server;
