//! All members of one etcd: which of them is asked, for how long, and who is asked next.
//!
//! What may be asked again is the caller's to decide.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::failure::{Failure, classify};
use super::messages::{Answer, ResponseHeader, revision};
use super::options::EtcdOptions;
use super::transport::Member;
use crate::{Revision, StoreError};

/// A call ends after this, with an answer or an error: after two elections, and well before the ten seconds that are promised.
pub(crate) const BUDGET: Duration = Duration::from_secs(6);
/// While nobody answered the last call either, reads try no longer than this.
const BUDGET_WHILE_DOWN: Duration = Duration::from_millis(1500);
/// How long each attempt may take, the last one again and again. A frozen member must not use up what the others need,
/// and a proposal that a dying leader took with it is never answered; later ones have more time, for an etcd that is only slow.
const SHORT: &[Duration] = &[QUICK, QUICK, QUICK, QUICK, QUICK, Duration::from_secs(2)];
const QUICK: Duration = Duration::from_millis(600);
/// The same for answers that may be large.
const LONG: &[Duration] = &[Duration::from_secs(3), BUDGET];
/// Pause when all members have refused: an election takes a second or so.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// The members, and what their answers told.
#[derive(Debug)]
pub(crate) struct Cluster {
    members: Vec<Member>,
    preferred: AtomicUsize,
    /// Of the first answer; 0 before it.
    id: AtomicU64,
    /// The newest revision in any answer.
    revision: AtomicU64,
    /// Whether the last call was answered by nobody.
    down: AtomicBool,
}

impl Cluster {
    pub(crate) fn new(options: &EtcdOptions) -> Result<Cluster, StoreError> {
        let members: Vec<Member> = options
            .endpoints
            .iter()
            .map(|endpoint| Member::new(endpoint, options.tls.as_ref()))
            .collect::<Result<_, _>>()?;
        if members.is_empty() {
            return Err(StoreError::InvalidOptions("no datastore endpoint is given".to_owned()));
        }
        Ok(Cluster {
            members,
            preferred: AtomicUsize::new(0),
            id: AtomicU64::new(0),
            revision: AtomicU64::new(0),
            down: AtomicBool::new(false),
        })
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The newest revision that any answer told.
    pub(crate) fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// The member that answered last.
    pub(crate) fn preferred(&self) -> &Member {
        &self.members[self.preferred.load(Ordering::Relaxed) % self.members.len()]
    }

    /// The next call begins with another member.
    pub(crate) fn avoid(&self, member: &Member) {
        let at = self.preferred.load(Ordering::Relaxed);
        if self.members[at % self.members.len()].address == member.address {
            let next = (at + 1) % self.members.len();
            let order = Ordering::Relaxed;
            if self.preferred.compare_exchange(at, next, order, order).is_err() {
                tracing::trace!("somebody else has turned away from it already");
            }
        }
    }

    /// How long a read tries.
    pub(crate) fn patience(&self) -> Duration {
        if self.down.load(Ordering::Acquire) { BUDGET_WHILE_DOWN } else { BUDGET }
    }

    /// Takes note of who answered, and refuses what comes from another cluster than the first answer did.
    pub(crate) fn note(&self, member: &Member, header: Option<ResponseHeader>) -> Result<(), Failure> {
        let Some(header) = header else { return Ok(()) };
        let pinned = self.id.compare_exchange(0, header.cluster_id, Ordering::AcqRel, Ordering::Acquire);
        if let Err(pinned) = pinned
            && pinned != header.cluster_id
        {
            return Err(Failure::Unknown(format!(
                "{} belongs to etcd cluster {:x}, the others to {pinned:x}",
                member.address, header.cluster_id
            )));
        }
        self.revision.fetch_max(revision(header.revision), Ordering::AcqRel);
        Ok(())
    }

    /// Asks one member once.
    pub(crate) async fn ask<Q, A>(
        &self,
        member: &Member,
        limit: Duration,
        path: &'static str,
        question: Q,
    ) -> Result<A, Failure>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Answer + Default + 'static,
    {
        let answer = match tokio::time::timeout(limit, member.unary::<Q, A>(path, question)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(status)) => return Err(classify(&status)),
            Err(_) => return Err(Failure::Unknown(format!("no answer within {limit:.1?}"))),
        };
        self.note(member, answer.header())?;
        self.down.store(false, Ordering::Release);
        Ok(answer)
    }

    /// Asks one member after another until one answers; `large` says that this may take a while.
    pub(crate) async fn read<Q, A>(
        &self,
        patience: Duration,
        path: &'static str,
        question: Q,
        large: bool,
    ) -> Result<A, Failure>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Answer + Default + 'static,
    {
        let mut tries = Tries::new(self, patience).large(large);
        while let Some((member, limit)) = tries.next().await {
            match self.ask(&member, limit, path, question.clone()).await {
                Err(failure @ (Failure::Refused(_) | Failure::Unknown(_))) => tries.failed(&member, &failure),
                decided => return decided,
            }
        }
        Err(Failure::Final(StoreError::Unavailable(tries.words())))
    }
}

/// The attempts of one call.
pub(crate) struct Tries<'a> {
    cluster: &'a Cluster,
    deadline: Instant,
    limits: &'static [Duration],
    made: usize,
    /// What each member said last.
    said: BTreeMap<Arc<str>, String>,
}

impl<'a> Tries<'a> {
    pub(crate) fn new(cluster: &'a Cluster, patience: Duration) -> Tries<'a> {
        let deadline = Instant::now() + patience;
        Tries { cluster, deadline, limits: SHORT, made: 0, said: BTreeMap::new() }
    }

    /// For a call whose answer may be large.
    fn large(self, large: bool) -> Tries<'a> {
        if large { Tries { limits: LONG, ..self } } else { self }
    }

    /// Who is asked next and for how long; `None` when the time is up.
    pub(crate) async fn next(&mut self) -> Option<(Member, Duration)> {
        let whole_round = self.made > 0 && self.made.is_multiple_of(self.cluster.members.len());
        if whole_round {
            tokio::time::sleep_until(self.deadline.min(Instant::now() + PAUSE)).await;
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.cluster.down.store(true, Ordering::Release);
            return None;
        }
        let limit = self.limits[self.made.min(self.limits.len() - 1)];
        self.made += 1;
        Some((self.cluster.preferred().clone(), limit.min(left)))
    }

    /// How much time is left.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(crate) fn failed(&mut self, member: &Member, failure: &Failure) {
        tracing::debug!(member = %member.address, failure = failure.words(), "etcd did not answer");
        self.cluster.avoid(member);
        self.said.insert(member.address.clone(), failure.words());
    }

    /// What went wrong, member by member.
    pub(crate) fn words(&self) -> String {
        let said: Vec<String> =
            self.said.iter().map(|(member, words)| format!("{member}: {words}")).collect();
        said.join("; ")
    }
}
