//! Compaction by one of the servers that share an etcd, as upstream's API servers agree on it: how often one key was
//! written is a common clock, and whoever advances it compacts this time. The others take note and wait for the next.

use std::sync::atomic::{AtomicI64, Ordering};

use super::cluster::BUDGET;
use super::failure::Failure;
use super::messages::{
    self, CompactionRequest, CompactionResponse, CompareResult, CompareTarget, PutRequest, Request, Target,
    TxnRequest, TxnResponse, revision, signed,
};
use super::{Inner, TXN, txn};
use crate::{Revision, StoreError};

/// Upstream's key: stock API servers on the same etcd would take part.
const KEY: &str = "compact_rev_key";
const COMPACT: &str = "/etcdserverpb.KV/Compact";

/// How often the key had been written when we last looked.
#[derive(Debug, Default)]
pub(crate) struct Compaction(AtomicI64);

impl Inner {
    /// Compacts, unless another server has since we last looked.
    pub(crate) async fn compact(&self, until: Revision) -> Result<(), StoreError> {
        let current = self.newest.get(&self.cluster, BUDGET).await?;
        if until > current {
            return Err(StoreError::Future { asked: until, current });
        }
        if !self.our_turn(until).await? {
            return Ok(());
        }
        let question = CompactionRequest { revision: signed(until) };
        match self.cluster.read::<_, CompactionResponse>(BUDGET, COMPACT, question, true).await {
            Ok(_) | Err(Failure::Compacted) => Ok(()),
            Err(failure) => Err(self.failed(failure, until).await),
        }
    }

    /// Advances the common clock if nobody else has.
    async fn our_turn(&self, until: Revision) -> Result<bool, StoreError> {
        let known = self.compaction.0.load(Ordering::Acquire);
        let put = PutRequest { key: KEY.into(), value: until.to_string().into() };
        let request = TxnRequest {
            compare: vec![messages::Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Version.into(),
                key: KEY.into(),
                target_union: Some(Target::Version(known)),
            }],
            success: vec![Request::Put(put).into()],
            failure: vec![Request::Range(txn::get(KEY)).into()],
        };
        // A second copy after a lost answer loses against the first: then nobody compacts this time, which is no loss.
        let answer = match self.cluster.read::<_, TxnResponse>(BUDGET, TXN, request, false).await {
            Ok(answer) => answer,
            Err(failure) => return Err(self.failed(failure, until).await),
        };
        if answer.succeeded {
            self.compaction.0.store(known + 1, Ordering::Release);
            return Ok(true);
        }
        let found = txn::read(answer).into_iter().next().flatten();
        self.compaction.0.store(found.map_or(0, |found| found.version), Ordering::Release);
        Ok(false)
    }

    /// The last revision that a server is known to have compacted at; 0 when that cannot be found out.
    pub(crate) async fn compacted_revision(&self) -> Revision {
        let found = self.range(txn::get(KEY)).await.ok().and_then(|answer| answer.kvs.into_iter().next());
        let text = found.map(|found| String::from_utf8_lossy(&found.value).into_owned());
        text.and_then(|text| text.parse().ok()).map_or(0, revision)
    }
}
