//! What the tests share: small stores, short words for common steps.

use std::sync::Arc;

use bytes::Bytes;
use store::simdisk::SimDisk;
use store::{
    EmbeddedStore, Item, ListOptions, Options, Outcome, Retention, Revision, Store, StoreError, Txn,
};

/// A store without threads whose log is cut into small segments, so that few writes pass through every path.
pub fn small(seed: u64) -> Options {
    Options {
        segment_bytes: 4 << 10,
        preallocate_bytes: 2 << 10,
        snapshot_after_bytes: 8 << 10,
        retention: Retention { max_events: 20, ..Retention::manual() },
        ..Options::simulated(seed)
    }
}

pub fn open(disk: &SimDisk, options: Options) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(Arc::new(disk.clone()), options)
}

/// Writes one key without conditions.
pub async fn put(store: &dyn Store, key: &str, value: impl Into<Bytes>) -> Result<Revision, StoreError> {
    match store.commit(Txn::new().put(key, value)).await? {
        Outcome::Committed { revision } => Ok(revision),
        Outcome::Conflict { .. } => panic!("a conflict without a condition"),
    }
}

/// Everything that is stored now.
pub async fn all(store: &EmbeddedStore) -> Vec<Item> {
    store.list("", ListOptions::default()).await.expect("listed").items
}

/// Runs the future of a test on one thread.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// How many times as much to do: `SKIFF_SOAK`, as everywhere.
pub fn soak() -> u64 {
    std::env::var("SKIFF_SOAK").map_or(1, |factor| factor.parse().expect("SKIFF_SOAK is a number"))
}

/// Numbers that a seed decides.
#[derive(Clone)]
pub struct Chance(store::Random);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(store::simdisk::seeded_random(seed))
    }

    pub fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        (self.0)(&mut bytes).expect("seeded");
        u64::from_le_bytes(bytes)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Another one, for somebody else.
    pub fn fork(&mut self) -> Chance {
        Chance::new(self.next())
    }
}
