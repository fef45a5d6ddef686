//! The three patches of the API: JSON patch, JSON merge patch and strategic merge patch.
//!
//! Each turns a value and a patch into a new value and touches neither. What may be patched, and whether the result is
//! a good object, is decided elsewhere. Server-side apply is not here yet.

pub mod json;
pub mod merge;
pub mod strategic;
