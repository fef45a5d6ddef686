//! Rules about pods and nodes that several components share: pure functions over the typed objects, and for
//! what the API server needs too (`amounts`, `quota`) over objects as they are on the wire.
//!
//! Deliberately absent: the API, caches, time that is not handed in, and anything that only one component needs.

pub mod affinity;
pub mod amounts;
pub mod labels;
pub mod ports;
pub mod qos;
pub mod quota;
pub mod resources;
pub mod status;
pub mod taints;
