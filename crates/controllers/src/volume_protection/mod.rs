//! The protection of volumes and claims: what is in use stays until it is not, although it was deleted.
//!
//! - [`claims`]: a claim stays while pods use it that have a node.
//! - [`volumes`]: a PersistentVolume stays while a claim is bound to it.
//! - [`classes`]: a VolumeAttributesClass stays while a volume has it, or a claim wants it.
//!
//! Each reads its kind, and pods where they matter, and writes nothing but its own finalizer. The API server puts it on what
//! is new (StorageObjectInUseProtection); what was made without gets it here.

pub mod claims;
pub mod classes;
mod plan;
#[cfg(test)]
mod tests;
pub mod volumes;

use component::controller::Next;

use crate::answers::{is_conflict, is_not_found};

/// Objects that are looked at side by side.
const WORKERS: usize = 2;

/// What is left to do after a write on top of what was seen: if that has changed meanwhile, the change queues the key again.
fn written<K>(answer: kube::Result<K>) -> kube::Result<Next> {
    match answer {
        Ok(_) => Ok(Next::Done),
        Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(Next::Done),
        Err(error) => Err(error),
    }
}
