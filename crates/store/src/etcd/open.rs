//! What must be so before an etcd is used: new enough, whole, ours, and readable with our keys.

use std::time::Duration;

use tokio::time::Instant;

use super::cluster::PAUSE;
use super::messages::{self, RangeRequest, StatusRequest, StatusResponse};
use super::{Answered, Inner, txn};
use crate::StoreError;
use crate::api::{Compare, Revision, Txn};
use crate::cipher::OpenError;

use super::failure::Failure;
use super::options::EtcdOptions;

const STATUS: &str = "/etcdserverpb.Maintenance/Status";
/// The oldest version whose behaviour is known here.
const OLDEST: (u32, u32) = (3, 4);
/// Whose etcd it is.
const CLUSTER: &str = "/skiff/cluster";
/// A value that is sealed as all are.
const SEALED: &str = "/skiff/encryption";
/// What it says.
const SEALED_TEXT: &[u8] = b"these keys are the cluster's";
/// Where objects are.
const REGISTRY: &str = "/registry/";
/// How long a member may take to say how it is.
const QUICK: Duration = Duration::from_secs(2);

/// Everything, in the order in which it makes sense. Waits for an etcd that starts, or elects a leader, at the same time.
pub(crate) async fn check(inner: &Inner, options: &EtcdOptions) -> Result<(), StoreError> {
    let deadline = Instant::now() + options.patience;
    let mut told = false;
    loop {
        let outcome = once(inner, options).await;
        let (Err(StoreError::Unavailable(why) | StoreError::OutcomeUnknown(why)), true) =
            (&outcome, Instant::now() < deadline)
        else {
            return outcome;
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!("waiting up to {:.0?} for etcd: {why}", options.patience);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn once(inner: &Inner, options: &EtcdOptions) -> Result<(), StoreError> {
    members(inner).await?;
    identity(inner, &options.identity).await?;
    keys(inner, options).await
}

/// Looks at all members that answer; one must.
async fn members(inner: &Inner) -> Result<(), StoreError> {
    let asked = inner.cluster.members().iter().map(|member| async move {
        let answer = inner.cluster.ask::<_, StatusResponse>(member, QUICK, STATUS, StatusRequest {}).await;
        (&*member.address, answer)
    });
    let mut found = 0;
    let mut silent = Vec::new();
    for (address, answer) in futures::future::join_all(asked).await {
        match answer {
            Ok(status) => {
                suitable(address, &status)?;
                found += 1;
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(failure) => silent.push(format!("{address}: {}", failure.words())),
        }
    }
    if found == 0 {
        return Err(StoreError::Unavailable(silent.join("; ")));
    }
    silent.iter().for_each(|member| tracing::warn!("an etcd member does not answer: {member}"));
    Ok(())
}

/// Whether a member can be worked with.
fn suitable(address: &str, status: &StatusResponse) -> Result<(), StoreError> {
    let mut numbers = status.version.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next()).unwrap_or_default();
    if version < OLDEST {
        return Err(StoreError::Unsuitable(format!(
            "the etcd at {address} has version {:?}, which is too old: at least {}.{} is needed",
            status.version, OLDEST.0, OLDEST.1
        )));
    }
    if let Some(alarm) = status.errors.iter().find(|error| error.contains("CORRUPT")) {
        return Err(StoreError::Unsuitable(format!(
            "the etcd at {address} says that the data of a member is damaged ({}); replace that member, then disarm the \
             alarm",
            alarm.trim()
        )));
    }
    for alarm in status.errors.iter().filter(|error| error.contains("NOSPACE")) {
        tracing::error!(member = address, alarm = alarm.trim(), "etcd has no space left: it takes no writes");
    }
    Ok(())
}

/// Leaves our mark in an empty etcd; one with another's mark, or with objects and no mark, is not ours.
async fn identity(inner: &Inner, ours: &str) -> Result<(), StoreError> {
    let mine = Txn::new().when(CLUSTER, Compare::Absent).put(CLUSTER, ours.to_owned());
    if let Some(theirs) = value(inner, CLUSTER).await? {
        return same(ours, &theirs);
    }
    let registry = RangeRequest {
        range_end: messages::prefix_end(REGISTRY.as_bytes()),
        count_only: true,
        ..txn::get(REGISTRY)
    };
    let objects = match inner.range(registry).await {
        Ok(answer) => answer.count,
        Err(failure) => return Err(inner.failed(failure, 0).await),
    };
    if objects > 0 {
        return Err(StoreError::Unsuitable(format!(
            "this etcd holds {objects} keys under {REGISTRY} of a cluster that is not ours; give this cluster an etcd of \
             its own"
        )));
    }
    if commit(inner, &mine).await? {
        return Ok(());
    }
    same(ours, &value(inner, CLUSTER).await?.unwrap_or_default())
}

fn same(ours: &str, theirs: &[u8]) -> Result<(), StoreError> {
    if theirs == ours.as_bytes() {
        return Ok(());
    }
    Err(StoreError::Unsuitable(format!(
        "this etcd belongs to cluster {}, and this server to cluster {ours}; servers of one cluster share its certificate \
         authority: copy the first server's credentials, or use another etcd",
        String::from_utf8_lossy(theirs)
    )))
}

/// A server with other keys could not read what the others wrote, nor they what it writes.
async fn keys(inner: &Inner, options: &EtcdOptions) -> Result<(), StoreError> {
    let Some(first) = options.encryption.keys.first() else { return Ok(()) };
    let seal = || -> Result<Vec<u8>, StoreError> {
        let mut sealed = Vec::new();
        let done = inner.cipher.seal(SEALED, SEALED_TEXT, &mut sealed);
        done.map_err(|error| StoreError::io("encrypting a value", error))?;
        Ok(sealed)
    };
    let stranger = |which: String| {
        StoreError::InvalidOptions(format!(
            "what this cluster encrypts in etcd is encrypted with {which}, which this server does not have; copy the \
             encryption keys from another server of the cluster"
        ))
    };
    if value(inner, SEALED).await?.is_none() {
        commit(inner, &Txn::new().when(SEALED, Compare::Absent).put(SEALED, seal()?)).await?;
    }
    let found = read(inner, SEALED).await?;
    let (sealed, revision) = found.ok_or_else(|| StoreError::Unavailable(format!("{SEALED} has gone")))?;
    match inner.cipher.open(SEALED, &sealed) {
        Ok(text) if text == SEALED_TEXT => {}
        Err(OpenError::UnknownKey(id)) => return Err(stranger(format!("key {id}"))),
        Ok(_) | Err(OpenError::Damaged) => {
            return Err(stranger("another key of the same number".to_owned()));
        }
    }
    // After a rotation this must not be what still needs the old key.
    if !sealed.starts_with(&first.id.to_le_bytes()) {
        let anew = Txn::new().when(SEALED, Compare::ModRevision(revision)).put(SEALED, seal()?);
        commit(inner, &anew).await?;
    }
    Ok(())
}

async fn value(inner: &Inner, key: &str) -> Result<Option<bytes::Bytes>, StoreError> {
    Ok(read(inner, key).await?.map(|(value, _)| value))
}

async fn read(inner: &Inner, key: &str) -> Result<Option<(bytes::Bytes, Revision)>, StoreError> {
    match inner.range(txn::get(key)).await {
        Ok(answer) => {
            let found = answer.kvs.into_iter().next();
            Ok(found.map(|found| (found.value, messages::revision(found.mod_revision))))
        }
        Err(failure) => Err(inner.failed(failure, 0).await),
    }
}

/// Whether the conditions held.
async fn commit(inner: &Inner, txn: &Txn) -> Result<bool, StoreError> {
    let name = inner.name()?;
    let request = txn::request(txn, &inner.cipher, &name)?;
    Ok(matches!(inner.decide(request, &name, txn::ends_itself(txn)).await?, Answered::Done(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: &str, errors: &[&str]) -> StatusResponse {
        let errors = errors.iter().map(|error| (*error).to_owned()).collect();
        StatusResponse { header: None, version: version.to_owned(), errors }
    }

    #[test]
    fn members_that_cannot_be_worked_with_are_told_by_what_they_say() {
        let said = |version: &str, errors: &[&str]| {
            suitable("https://a:2379", &status(version, errors)).map_err(|error| error.to_string())
        };
        for good in ["3.4.23", "3.5.0", "3.6.0-rc.1", "4.0.0", "3.4.0+git"] {
            assert_eq!(said(good, &[]), Ok(()), "{good}");
        }
        for old in ["3.3.27", "2.3.8", "3", "", "nonsense"] {
            let words = said(old, &[]).expect_err(old);
            assert!(words.contains("too old") && words.contains("https://a:2379"), "{words}");
        }
        let words = said("3.4.23", &["memberID:81 alarm:CORRUPT "]).expect_err("damaged");
        assert!(words.contains("damaged") && words.contains("memberID:81"), "{words}");
        assert_eq!(said("3.4.23", &["memberID:81 alarm:NOSPACE "]), Ok(()), "reads still work");
    }
}
