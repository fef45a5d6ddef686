//! The controllers against a small API in memory, on paused time: their wiring, and that they act on nothing old.

mod api;
mod machines;
mod node_ranges;
mod workloads;
