//! The store on real etcd members: what they may do to it, and what it refuses.

pub mod harness;
mod quorum;
mod refusals;
mod several;
