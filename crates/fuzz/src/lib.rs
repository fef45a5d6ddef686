//! What outside bytes can do to every decoder that they reach: one [`Target`] for each, the search for inputs that do harm,
//! and (in `corpus/`) inputs that are worth trying again, among them every one that once did.
//!
//! `tests/it` tries the corpus and some changes of it whenever tests run, and a minute of changes for each target under
//! `make soak`. Deliberately absent: instrumented builds. What guides the search is what a target says of an input: it keeps
//! inputs of which something new was said, as others keep those that reach new code.

pub mod harm;
pub mod mutation;
pub mod search;
pub mod targets;

pub use targets::{TARGETS, Target};
