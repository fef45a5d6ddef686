//! The store that is an etcd: the same contract over a cluster of members, any of which may fail.
//!
//! Keeps nothing but the newest revision that it heard of. Reads and writes are decided by a quorum or fail within
//! seconds; a write whose answer got lost is looked up, never done twice; watches go on by themselves. There is no leader among the
//! servers that share an etcd: each compares before it writes.

mod cluster;
mod compaction;
mod failure;
mod messages;
mod newest;
mod open;
mod options;
mod transport;
mod txn;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

pub use self::options::{EtcdOptions, EtcdTls};

use self::cluster::{BUDGET, Cluster, Tries};
use self::compaction::Compaction;
use self::failure::Failure;
use self::messages::{KeyValue, RangeRequest, RangeResponse, TxnRequest, TxnResponse, revision, signed};
use self::newest::Newest;
use crate::api::{Item, ListOptions, Listing, Outcome, Revision, Store, Txn, Watch};
use crate::cipher::{Cipher, Random};
use crate::{StoreError, group};

const RANGE: &str = "/etcdserverpb.KV/Range";
const TXN: &str = "/etcdserverpb.KV/Txn";
/// How long a check of health may take.
const CHECK: Duration = Duration::from_secs(2);

/// A store in etcd. Dropping it lets go of all connections.
#[derive(Debug)]
pub struct EtcdStore(Arc<Inner>);

struct Inner {
    cluster: Cluster,
    cipher: Cipher,
    random: Random,
    newest: Newest,
    compaction: Compaction,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Inner").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Finds the cluster and makes sure that it is ours and that we can read it.
    ///
    /// # Errors
    /// Nobody answers, or what answers is too old, damaged, another cluster's, or encrypted with other keys.
    pub async fn open(options: EtcdOptions) -> Result<EtcdStore, StoreError> {
        let inner = Inner {
            cluster: Cluster::new(&options)?,
            cipher: Cipher::new(&options.encryption, options.random.clone())?,
            random: options.random.clone(),
            newest: Newest::default(),
            compaction: Compaction::default(),
        };
        open::check(&inner, &options).await?;
        tracing::info!(
            revision = inner.cluster.revision(),
            "opened etcd at {}",
            options.endpoints.join(", ")
        );
        Ok(EtcdStore(Arc::new(inner)))
    }
}

/// What became of a request that was sent until it was answered.
enum Answered {
    /// It happened, at this revision.
    Done(Revision),
    /// It did not, and this is what stood against it.
    Not(Vec<Option<KeyValue>>),
}

impl Inner {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Failure> {
        let large = request.limit != 1 && !request.range_end.is_empty();
        self.cluster.read(self.cluster.patience(), RANGE, request, large).await
    }

    /// What a failed read is to callers who asked for `asked`.
    async fn failed(&self, failure: Failure, asked: Revision) -> StoreError {
        match failure {
            Failure::Compacted => StoreError::Compacted { asked, oldest: self.compacted_revision().await },
            Failure::Future => StoreError::Future { asked, current: self.cluster.revision() },
            Failure::Final(error) => error,
            Failure::Refused(words) | Failure::Unknown(words) => StoreError::Unavailable(words),
        }
    }

    /// Sixteen random bytes: what a transaction is called.
    fn name(&self) -> Result<Bytes, StoreError> {
        let mut name = [0; 16];
        (self.random)(&mut name).map_err(|error| StoreError::io("drawing a name", error))?;
        Ok(Bytes::copy_from_slice(&name))
    }

    /// Sends a transaction until it is known what became of it. `again` says that a second copy could do no harm.
    async fn decide(&self, request: TxnRequest, name: &Bytes, again: bool) -> Result<Answered, StoreError> {
        let base = self.cluster.revision();
        let mut tries = Tries::new(&self.cluster, BUDGET);
        let mut doubt = false;
        while let Some((member, limit)) = tries.next().await {
            let answer = self.cluster.ask::<_, TxnResponse>(&member, limit, TXN, request.clone()).await;
            match answer {
                Ok(answer) if answer.succeeded => {
                    return Ok(Answered::Done(answer.header.map_or(0, |header| revision(header.revision))));
                }
                Ok(answer) => {
                    let read = txn::read(answer);
                    return if doubt {
                        self.settle(read, name, base, &tries).await
                    } else {
                        Ok(Answered::Not(read))
                    };
                }
                Err(failure @ (Failure::Refused(_) | Failure::Unknown(_))) => {
                    tries.failed(&member, &failure);
                    doubt |= matches!(failure, Failure::Unknown(_));
                    if doubt && !again {
                        break;
                    }
                }
                Err(failure) if doubt => return Err(StoreError::OutcomeUnknown(failure.words())),
                Err(failure) => return Err(self.failed(failure, base).await),
            }
        }
        let words = tries.words();
        Err(if doubt { StoreError::OutcomeUnknown(words) } else { StoreError::Unavailable(words) })
    }

    /// A later copy was refused. Perhaps because an earlier one, whose answer got lost, had happened.
    async fn settle(
        &self,
        mut read: Vec<Option<KeyValue>>,
        name: &Bytes,
        base: Revision,
        tries: &Tries<'_>,
    ) -> Result<Answered, StoreError> {
        let Some(newest) = read.pop().flatten() else { return Ok(Answered::Not(read)) };
        let last = revision(newest.mod_revision);
        if newest.value == *name {
            return Ok(Answered::Done(last));
        }
        let deadline = Instant::now() + tries.left();
        match watch::find(self, name, base, last, deadline).await {
            Ok(Some(revision)) => Ok(Answered::Done(revision)),
            Ok(None) => Ok(Answered::Not(read)),
            Err(failure) => Err(StoreError::OutcomeUnknown(failure.words())),
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Item>, StoreError> {
        match self.0.range(txn::get(key)).await {
            Ok(answer) => {
                answer.kvs.into_iter().next().map(|found| txn::item(found, &self.0.cipher)).transpose()
            }
            Err(failure) => Err(self.0.failed(failure, 0).await),
        }
    }

    async fn list(&self, prefix: &str, options: ListOptions<'_>) -> Result<Listing, StoreError> {
        let begin = match options.after {
            Some(after) if after >= prefix => [after.as_bytes(), &[0]].concat(),
            _ if prefix.is_empty() => vec![0],
            _ => prefix.into(),
        };
        let request = RangeRequest {
            key: begin,
            range_end: messages::prefix_end(prefix.as_bytes()),
            limit: i64::try_from(options.limit).unwrap_or(0),
            revision: signed(options.at.unwrap_or(0)),
            ..RangeRequest::default()
        };
        let answer = match self.0.range(request).await {
            Ok(answer) => answer,
            Err(failure) => return Err(self.0.failed(failure, options.at.unwrap_or(0)).await),
        };
        let newest = answer.header.map_or(0, |header| revision(header.revision));
        let found = u64::try_from(answer.kvs.len()).unwrap_or(u64::MAX);
        let items: Result<_, _> = answer.kvs.into_iter().map(|kv| txn::item(kv, &self.0.cipher)).collect();
        Ok(Listing {
            revision: options.at.unwrap_or(newest),
            items: items?,
            more: answer.more,
            remaining: revision(answer.count).saturating_sub(found),
        })
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        group::check(&txn)?;
        let name = self.0.name()?;
        let request = txn::request(&txn, &self.0.cipher, &name)?;
        match self.0.decide(request, &name, txn::ends_itself(&txn)).await? {
            Answered::Done(revision) => Ok(Outcome::Committed { revision }),
            Answered::Not(read) => txn::conflict(&txn, read, &self.0.cipher),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        // etcd would begin at a compacted revision or wait for a future one without a word.
        let probe = RangeRequest { revision: signed(after), keys_only: true, ..txn::get(txn::OUTCOME) };
        if let Err(failure) = self.0.range(probe).await {
            return Err(self.0.failed(failure, after).await);
        }
        Ok(watch::follow(self.0.clone(), prefix, after))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.0.compact(revision).await
    }

    fn current_revision(&self) -> Revision {
        self.0.cluster.revision()
    }

    async fn newest_revision(&self) -> Result<Revision, StoreError> {
        self.0.newest.get(&self.0.cluster, self.0.cluster.patience()).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.0.newest.get(&self.0.cluster, CHECK).await.map(|_| ())
    }
}
