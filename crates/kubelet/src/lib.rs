//! The kubelet: the API above, a container runtime below.
//!
//! Everything that is promised about a pod is a pure function of its spec, what the runtime says, probe results and
//! the time (`lifecycle`). A worker a pod feeds that function and does what it says. State is rebuilt from the runtime
//! at start, so that a restart of the kubelet touches no container.

pub mod archive;
pub mod containerd;
pub mod lifecycle;
pub mod podspec;
