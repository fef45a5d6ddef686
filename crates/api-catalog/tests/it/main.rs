//! Tests of the catalogue: fixtures as data, a walk over every entry, and rules under arbitrary input.

mod custom;
mod defaults;
mod discovery;
mod fixture;
mod invalid;
mod published;
mod survive;
mod tables;
mod walk;

/// What the process holds, so that a test can say what something costs.
#[global_allocator]
static HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;
