//! The watch cache: one watch on the store feeds every resource's current objects and recent events; watchers are
//! cursors into rings that only hold what they may want.
//!
//! Nothing here decodes an object unless somebody selects by label or field or looks it up as a value; objects stay the
//! bytes that the store holds. Nothing here writes.

mod cache;
mod field_index;
mod object;
mod resource;
mod selection;
mod stream;

pub use cache::{Cache, Freshness};
pub use object::{Cached, Index};
pub use resource::{Event, Next, ResourceCache, Subscription, TooOld};
pub use selection::Selection;
pub use stream::{Converting, Render, Start, WatchPlan, WatchRequest, watch_body};
