//! Linux, as far as Skiff touches it: processes, mounts, cgroups, files and facts about the machine.
//!
//! This is the only crate that may hold `unsafe` or start a process. It decides nothing: no Kubernetes object is
//! known here, and what callers must be able to fake is behind a trait.

pub mod arp;
pub mod cgroup;
pub mod files;
pub mod iptables;
pub mod ipvs;
pub mod links;
pub mod machines;
pub mod memory;
pub mod mount;
pub mod names;
mod netlink;
pub mod network;
pub mod nft;
pub mod notify;
pub mod pause;
pub mod process;
pub mod system;
