//! A cluster of one node on real containers, real packets and a real disk, used through stock kubectl. Needs root,
//! containerd and the images of `make images`; without them the tests say loudly that they were skipped, unless
//! SKIFF_REQUIRE_CONTAINERD demands them.

mod api;
mod bootstrap;
mod clients;
mod cloud;
mod cluster;
mod components;
mod custom;
mod etcd;
mod failures;
mod internet;
mod join;
mod load;
mod load_balancers;
mod machine;
mod neighbour;
mod outages;
mod pods;
mod refusals;
mod servers;
mod services;
mod streams;
mod system;
mod tunnel;
mod versions;
mod workloads;
