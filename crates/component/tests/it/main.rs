//! The control-loop kit against APIs that the tests play, on paused time.

mod api;
mod health;
mod informer;
mod lease;
