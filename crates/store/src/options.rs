//! How an embedded store is opened: everything that varies comes in here, clock and randomness too.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::cipher::{Encryption, Random, system_random};
use crate::retention::Retention;

/// Time since some fixed moment. Only decides how long history is kept.
pub type Monotonic = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Who does the writing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writer {
    /// A thread of its own, so that no async worker ever waits for the disk.
    #[default]
    Thread,
    /// Whoever commits, without threads: the same calls in the same order give the same result. For simulation.
    Inline,
}

/// The options of [`EmbeddedStore::open`](crate::EmbeddedStore::open).
#[derive(Clone)]
pub struct Options {
    /// Who does the writing.
    pub mode: Writer,
    /// What is encrypted on disk.
    pub encryption: Encryption,
    /// How much history is kept.
    pub retention: Retention,
    /// A log segment is closed at this size.
    pub segment_bytes: u64,
    /// The log grows by so many zeros at a time, so that most syncs write no metadata.
    pub preallocate_bytes: u64,
    /// A snapshot is written when it frees this much of the log (or as much as the last snapshot was, if more).
    pub snapshot_after_bytes: u64,
    /// Time, for retention.
    pub clock: Monotonic,
    /// Nonces and salts.
    pub random: Random,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mode: Writer::Thread,
            encryption: Encryption::default(),
            retention: Retention::default(),
            segment_bytes: 16 << 20,
            preallocate_bytes: 1 << 20,
            snapshot_after_bytes: 16 << 20,
            clock: tokio_time(),
            random: system_random(),
        }
    }
}

impl Options {
    /// For a simulation: no threads, and chance from a seed.
    pub fn simulated(seed: u64) -> Options {
        Options { mode: Writer::Inline, random: crate::simdisk::seeded_random(seed), ..Options::default() }
    }
}

/// Follows tokio's clock, which a simulation may have paused.
fn tokio_time() -> Monotonic {
    let origin = tokio::time::Instant::now();
    Arc::new(move || origin.elapsed())
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("mode", &self.mode)
            .field("encryption", &self.encryption)
            .field("retention", &self.retention)
            .field("segment_bytes", &self.segment_bytes)
            .field("preallocate_bytes", &self.preallocate_bytes)
            .field("snapshot_after_bytes", &self.snapshot_after_bytes)
            .finish_non_exhaustive()
    }
}
