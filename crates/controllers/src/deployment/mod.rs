//! Not written yet: starts nothing.

use component::Context;

use crate::Informers;

/// Starts the controller on tasks of the context.
pub fn start(_context: &Context, _informers: &Informers) {}
