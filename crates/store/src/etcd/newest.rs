//! The newest revision by the word of a quorum, asked for once for all who wait at the same time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::cluster::Cluster;
use super::failure::Failure;
use super::messages::{RangeRequest, RangeResponse, revision};
use super::{RANGE, txn};
use crate::{Revision, StoreError};

/// Who comes while a question is under way waits for the next one, which then answers all who came.
#[derive(Debug)]
pub(crate) struct Newest {
    tickets: AtomicU64,
    turn: Mutex<Turn>,
}

/// The last answer, and the last ticket that had been drawn when its question was asked.
#[derive(Debug)]
struct Turn {
    covers: u64,
    answer: Result<Revision, StoreError>,
}

impl Default for Newest {
    fn default() -> Newest {
        Newest { tickets: AtomicU64::new(1), turn: Mutex::new(Turn { covers: 0, answer: Ok(0) }) }
    }
}

impl Newest {
    /// A revision that is not older than anything acknowledged before this call.
    pub(crate) async fn get(&self, cluster: &Cluster, patience: Duration) -> Result<Revision, StoreError> {
        let ticket = self.tickets.fetch_add(1, Ordering::AcqRel);
        let late = |_| StoreError::Unavailable(format!("no answer within {patience:.1?}"));
        let waiting = tokio::time::timeout(patience, self.turn.lock());
        let mut turn = waiting.await.map_err(late)?;
        if turn.covers >= ticket {
            return turn.answer.clone();
        }
        let covers = self.tickets.load(Ordering::Acquire) - 1;
        let answer = ask(cluster, patience).await;
        *turn = Turn { covers, answer: answer.clone() };
        answer
    }
}

async fn ask(cluster: &Cluster, patience: Duration) -> Result<Revision, StoreError> {
    let known = cluster.revision();
    let question = RangeRequest { keys_only: true, ..txn::get(txn::OUTCOME) };
    let answer: RangeResponse = match cluster.read(patience, RANGE, question, false).await {
        Ok(answer) => answer,
        Err(Failure::Final(error)) => return Err(error),
        Err(other) => return Err(StoreError::Unavailable(other.words())),
    };
    let newest = answer.header.map_or(0, |header| revision(header.revision));
    if newest < known {
        return Err(StoreError::Unsuitable(format!(
            "etcd went back from revision {known} to {newest}, as after a restore from a backup: restart every API server"
        )));
    }
    Ok(newest)
}
