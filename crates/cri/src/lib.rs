//! The Container Runtime Interface, v1: messages and a client over a unix socket.
//!
//! Only what the kubelet uses is here, written from the published names and field numbers. There is no code
//! generation, no server, no retry and no policy: what a failed call means is for the caller to decide.

mod client;
mod error;
pub mod messages;

pub use client::{Client, IMAGE_PULL_LIMIT, Streaming};
pub use error::Error;
