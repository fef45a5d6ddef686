//! What can go wrong at the store's boundary.

use crate::Revision;

/// Why the store did not do what it was asked. A failed comparison is not an error but an [`crate::Outcome`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The revision asked for has been compacted.
    #[error("revision {asked} has been compacted; the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest revision that can be read.
        oldest: Revision,
    },
    /// The revision asked for has not happened yet.
    #[error("revision {asked} is in the future; the store is at {current}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The last transaction.
        current: Revision,
    },
    /// The disk is full. Nothing was written, reads go on, and writes will again when there is room.
    #[error("no space left on device: {0}")]
    DiskFull(String),
    /// The disk failed in another way; nothing was written.
    #[error("disk: {0}")]
    Disk(String),
    /// A write may or may not have reached the disk; the store takes no more of them until it is opened again.
    #[error("the store has stopped: {0}")]
    Stopped(String),
    /// A file does not hold what was written to it.
    #[error("{file} is corrupt at byte {offset}: {what}")]
    Corrupt {
        /// Name of the file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// Another process has the store open.
    #[error("{0} is in use by another process; only one server can use a data directory")]
    InUse(String),
    /// A transaction names a key twice, or is too large.
    #[error("bad transaction: {0}")]
    BadTransaction(String),
    /// The options, or the key file that they come from, cannot work.
    #[error("{0}")]
    InvalidOptions(String),
    /// Nobody who could decide was reached in time: reads have no answer and nothing was written.
    #[error("etcdserver: request timed out, the store cannot be reached or has no quorum: {0}")]
    Unavailable(String),
    /// A change was sent, no answer came in time, and it could not be found out whether it happened.
    #[error("etcdserver: request timed out, the change may or may not have happened: {0}")]
    OutcomeUnknown(String),
    /// What is there must not be used: another cluster's data, an unknown version, damage.
    #[error("{0}")]
    Unsuitable(String),
    /// A stored value is encrypted with a key that was not given.
    #[error("the value of {key} is encrypted with key {key_id}, which the store was not given")]
    UnknownEncryptionKey {
        /// Whose value.
        key: String,
        /// The id of the missing key.
        key_id: u32,
    },
}

impl StoreError {
    pub(crate) fn io(doing: impl std::fmt::Display, error: std::io::Error) -> StoreError {
        StoreError::Disk(format!("{doing}: {error}"))
    }

    pub(crate) fn stopped(why: impl Into<String>) -> StoreError {
        StoreError::Stopped(why.into())
    }

    pub(crate) fn corrupt(file: impl Into<String>, offset: u64, what: impl Into<String>) -> StoreError {
        StoreError::Corrupt { file: file.into(), offset, what: what.into() }
    }
}

/// Whether it is only space that was missing.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
