//! The catalogue of built-in resources: one declarative entry each, and the small rules that are truly a kind's own.
//!
//! Names, scope, subresources, columns and selectable fields are data; defaulting and validation are pure functions
//! on JSON values, worded as upstream words them. Schemas come from `build.rs`. Nothing here does I/O, reads a clock,
//! or looks at other objects: what needs those (admission, allocation, authorization) is the API server's.

mod admission;
mod apiextensions;
mod apps;
pub mod at;
mod autoscaling;
mod batch;
mod catalog;
mod certificates;
mod check;
mod core;
pub mod custom;
mod devices;
mod entry;
pub mod fill;
mod flow_control;
mod groups;
mod migration;
mod networking;
mod print;
mod rbac;
mod registration;
mod schemas;
mod storage;

use std::sync::Arc;

use api_machinery::resource::Resource;
use api_machinery::schema::Arena;

pub use catalog::{Catalog, catalog};

/// All entries, in discovery's order of groups.
fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let mut all = core::entries(arena);
    all.extend(registration::entries(arena));
    all.extend(apps::entries(arena));
    all.extend(groups::events(arena));
    all.extend(groups::authentication(arena));
    all.extend(groups::authorization(arena));
    all.extend(autoscaling::entries(arena));
    all.extend(batch::entries(arena));
    all.extend(certificates::entries(arena));
    all.extend(networking::entries(arena));
    all.extend(groups::policy(arena));
    all.extend(rbac::entries(arena));
    all.extend(storage::entries(arena));
    all.extend(admission::entries(arena));
    all.extend(apiextensions::entries(arena));
    all.extend(groups::scheduling(arena));
    all.extend(groups::coordination(arena));
    all.extend(groups::node(arena));
    all.extend(groups::discovery(arena));
    all.extend(flow_control::entries(arena));
    all.extend(devices::entries(arena));
    all.extend(migration::entries(arena));
    all
}
