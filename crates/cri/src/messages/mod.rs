//! Messages of `runtime.v1`, one module per subject. Names and field numbers are the published ones; fields that
//! nobody here reads or sets are left out, which protobuf allows in both directions.
#![expect(missing_docs, reason = "the names are the CRI's own and are documented there")]

mod container;
mod events;
mod image;
mod node;
mod sandbox;
mod stats;

pub use container::*;
pub use events::*;
pub use image::*;
pub use node::*;
pub use sandbox::*;
pub use stats::*;

/// String maps are ordered here, so that equal messages have equal bytes.
pub type StringMap = std::collections::BTreeMap<String, String>;

/// An optional integer on the wire.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Int64Value {
    #[prost(int64, tag = "1")]
    pub value: i64,
}

/// An optional unsigned integer on the wire.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct UInt64Value {
    #[prost(uint64, tag = "1")]
    pub value: u64,
}
