//! The stage at which things become true: one transaction in the store.
//!
//! Whoever calls this runs in a task of the server, so that what was committed is also finished.

use api_machinery::apply::Tracked;
use api_machinery::encode;
use api_machinery::status::{ApiError, Reason};
use bytes::Bytes;
use serde_json::Value;
use store::{Compare, Outcome, StoreError, Txn};

use crate::server::ApiServer;

/// What a transaction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// At this revision.
    Done(u64),
    /// Something that it was based on has changed; nothing was written.
    Conflict,
}

/// Commits a transaction.
pub async fn commit(server: &ApiServer, txn: Txn) -> Result<Committed, ApiError> {
    match attempt(server, txn).await? {
        Outcome::Committed { revision } => Ok(Committed::Done(revision)),
        Outcome::Conflict { .. } => Ok(Committed::Conflict),
    }
}

/// The same for those who want to know what was in the way.
pub async fn attempt(server: &ApiServer, txn: Txn) -> Result<Outcome, ApiError> {
    let outcome = server.store().commit(txn).await;
    server.note_store(outcome.as_ref().err());
    outcome.map_err(store_error)
}

/// The bytes that are stored for an object.
pub fn encode(object: &Value) -> Result<Bytes, ApiError> {
    encode::stored(object).map_err(ApiError::internal)
}

/// The same with these owners of its fields, whatever the object says of them.
pub fn encode_with(object: &Value, owners: &Tracked) -> Result<Bytes, ApiError> {
    encode::stored_with(object, &owners.json).map_err(ApiError::internal)
}

/// A transaction that makes an object that must not exist yet.
pub fn creation(key: &str, bytes: Bytes) -> Txn {
    Txn::new().when(key, Compare::Absent).put(key, bytes)
}

/// A transaction that replaces an object that must still be at `revision`.
pub fn replacement(key: &str, revision: u64, bytes: Bytes) -> Txn {
    Txn::new().when(key, Compare::ModRevision(revision)).put(key, bytes)
}

/// A transaction that removes an object that must still be at `revision`.
pub fn removal(key: &str, revision: u64) -> Txn {
    Txn::new().when(key, Compare::ModRevision(revision)).delete(key)
}

/// What a failure of the store is to a client.
pub fn store_error(error: StoreError) -> ApiError {
    match error {
        StoreError::DiskFull(_) => {
            tracing::warn!(%error, "a write was refused");
            let text = format!("Internal error occurred: nothing was stored: {error}");
            ApiError::new(Reason::InternalError, text).with_code(507)
        }
        StoreError::Compacted { .. } => ApiError::expired(EXPIRED_LIST),
        // Upstream hands etcd's words on with a bare 500, and so that nobody repeats what may have happened without looking,
        // nothing is said about trying again.
        StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_) => {
            tracing::warn!(%error, "the store did not answer");
            ApiError::new(Reason::Unknown, error.to_string()).with_code(500)
        }
        StoreError::BadTransaction(_) => ApiError::new(Reason::Unknown, error.to_string()).with_code(500),
        other => {
            tracing::error!(error = %other, "the store failed");
            ApiError::internal(format_args!("the store failed: {other}"))
        }
    }
}

/// Upstream's words for a continue token whose revision is gone.
pub const EXPIRED_LIST: &str = "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.";
