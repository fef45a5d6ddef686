//! Transactions in etcd's terms, and its answers in ours.
//!
//! Pure. Every transaction also writes a name of its own to one key. By it an attempt whose answer got lost is
//! found in the history of that key, and it costs no more than a small value.

use std::sync::Arc;

use bytes::Bytes;

use super::messages::{self, CompareResult, CompareTarget, KeyValue, Request, Target, revision, signed};
use crate::StoreError;
use crate::api::{Compare, Item, Op, Outcome, Revision, Txn};
use crate::cipher::{Cipher, OpenError};

/// Where each transaction leaves its name.
pub(crate) const OUTCOME: &str = "/skiff/outcome";

/// A read of one key.
pub(crate) fn get(key: &str) -> messages::RangeRequest {
    messages::RangeRequest { key: key.into(), ..Default::default() }
}

/// The request for a transaction that is called `name`. If it fails then it reads what it had compared.
pub(crate) fn request(txn: &Txn, cipher: &Cipher, name: &Bytes) -> Result<messages::TxnRequest, StoreError> {
    let compare = txn.compares.iter().map(|(key, compare)| condition(key, *compare)).collect();
    let mut success = Vec::with_capacity(txn.ops.len() + 1);
    for op in &txn.ops {
        success.push(match op {
            Op::Put(key, value) => put(key, sealed(key, value, cipher)?),
            Op::Delete(key) => {
                Request::DeleteRange(messages::DeleteRangeRequest { key: key.as_bytes().into() }).into()
            }
        });
    }
    success.push(put(OUTCOME, name.clone()));
    let compared = txn.compares.iter().map(|(key, _)| &**key);
    let failure = compared.chain([OUTCOME]).map(|key| Request::Range(get(key)).into()).collect();
    Ok(messages::TxnRequest { compare, success, failure })
}

fn put(key: &str, value: Bytes) -> messages::RequestOp {
    Request::Put(messages::PutRequest { key: key.into(), value }).into()
}

fn condition(key: &str, compare: Compare) -> messages::Compare {
    let (target, union) = match compare {
        Compare::ModRevision(revision) => (CompareTarget::Mod, Target::ModRevision(signed(revision))),
        Compare::Absent => (CompareTarget::Version, Target::Version(0)),
    };
    messages::Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.into(),
        target_union: Some(union),
    }
}

/// Whether a second copy cannot have an effect after the first one had: it ends what it asks for itself.
pub(crate) fn ends_itself(txn: &Txn) -> bool {
    txn.compares.iter().any(|(key, compare)| {
        txn.ops.iter().any(|op| match (op, compare) {
            (Op::Put(changed, _), _) | (Op::Delete(changed), Compare::ModRevision(_)) => changed == key,
            (Op::Delete(_), Compare::Absent) => false,
        })
    })
}

/// The values that a failed transaction read: what was compared, and the newest transaction's name.
pub(crate) fn read(answer: messages::TxnResponse) -> Vec<Option<KeyValue>> {
    let ranges = answer.responses.into_iter().map(|response| response.range.unwrap_or_default());
    ranges.map(|range| range.kvs.into_iter().next()).collect()
}

/// Which comparison did not hold.
pub(crate) fn conflict(
    txn: &Txn,
    read: Vec<Option<KeyValue>>,
    cipher: &Cipher,
) -> Result<Outcome, StoreError> {
    for ((key, compare), found) in txn.compares.iter().zip(read) {
        let holds = match (compare, &found) {
            (Compare::Absent, found) => found.is_none(),
            (Compare::ModRevision(wanted), Some(found)) => revision(found.mod_revision) == *wanted,
            (Compare::ModRevision(_), None) => false,
        };
        if !holds {
            let current = found.map(|found| item(found, cipher)).transpose()?;
            return Ok(Outcome::Conflict { key: key.clone(), current });
        }
    }
    Err(StoreError::Unsuitable("etcd refused a transaction whose conditions hold".to_owned()))
}

/// What etcd is given to keep.
fn sealed(key: &str, value: &Bytes, cipher: &Cipher) -> Result<Bytes, StoreError> {
    if !cipher.covers(key) {
        return Ok(value.clone());
    }
    let mut out = Vec::new();
    cipher.seal(key, value, &mut out).map_err(|error| StoreError::io("encrypting a value", error))?;
    Ok(out.into())
}

/// What etcd kept.
pub(crate) fn opened(key: &str, value: Bytes, cipher: &Cipher, at: Revision) -> Result<Bytes, StoreError> {
    if !cipher.covers(key) {
        return Ok(value);
    }
    match cipher.open(key, &value) {
        Ok(value) => Ok(value.into()),
        Err(OpenError::UnknownKey(key_id)) => {
            Err(StoreError::UnknownEncryptionKey { key: key.to_owned(), key_id })
        }
        Err(OpenError::Damaged) => {
            Err(StoreError::corrupt(format!("etcd's value of {key}"), at, "it does not decrypt"))
        }
    }
}

/// A key and its value.
pub(crate) fn item(found: KeyValue, cipher: &Cipher) -> Result<Item, StoreError> {
    let mod_revision = revision(found.mod_revision);
    let key = text(found.key)?;
    let value = opened(&key, found.value, cipher, mod_revision)?;
    Ok(Item { key, value, mod_revision })
}

/// A key as text: ours always are.
pub(crate) fn text(key: Vec<u8>) -> Result<Arc<str>, StoreError> {
    match String::from_utf8(key) {
        Ok(key) => Ok(key.into()),
        Err(error) => Err(StoreError::Unsuitable(format!(
            "etcd holds a key that is not text ({}): somebody else writes there too",
            String::from_utf8_lossy(error.as_bytes())
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::{Encryption, EncryptionKey, system_random};

    #[test]
    fn a_transaction_that_changes_what_it_asks_for_may_be_sent_again() {
        let base = || Txn::new().when("/a", Compare::ModRevision(3));
        assert!(ends_itself(&base().put("/a", "1")));
        assert!(ends_itself(&base().delete("/a")));
        assert!(ends_itself(&base().when("/b", Compare::Absent).put("/b", "1")));
        assert!(!ends_itself(&base().put("/b", "1")), "the condition would hold again");
        assert!(!ends_itself(&Txn::new().put("/a", "1")));
        assert!(!ends_itself(&Txn::new().when("/a", Compare::Absent).delete("/a")));
    }

    #[test]
    fn secrets_leave_sealed_and_nothing_else_does() {
        let encryption = Encryption {
            prefixes: vec!["/s/".to_owned()],
            keys: vec![EncryptionKey { id: 1, secret: [1; 32] }],
        };
        let cipher = Cipher::new(&encryption, system_random()).expect("valid");
        let txn = Txn::new().put("/s/a", "hunter2").put("/p/a", "open");
        let sent = request(&txn, &cipher, &Bytes::from_static(b"n")).expect("encrypted");
        let values: Vec<Bytes> = sent
            .success
            .iter()
            .map(|op| match &op.request {
                Some(Request::Put(put)) => put.value.clone(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(!String::from_utf8_lossy(&values[0]).contains("hunter2"));
        assert_eq!(values[1..], ["open", "n"]);
        let kept = KeyValue { key: "/s/a".into(), value: values[0].clone(), mod_revision: 7, version: 1 };
        assert_eq!(item(kept.clone(), &cipher).expect("opened").value, "hunter2");
        let moved = KeyValue { key: "/s/b".into(), ..kept };
        assert!(matches!(item(moved, &cipher), Err(StoreError::Corrupt { .. })), "values cannot be swapped");
    }

    #[test]
    fn the_first_condition_that_does_not_hold_is_told() {
        let cipher = Cipher::new(&Encryption::default(), system_random()).expect("valid");
        let found = |key: &str, mod_revision| {
            Some(KeyValue { key: key.into(), value: "v".into(), mod_revision, version: 1 })
        };
        let txn = Txn::new().when("/a", Compare::ModRevision(3)).when("/b", Compare::Absent);
        let told = conflict(&txn, vec![found("/a", 3), found("/b", 9), None], &cipher);
        let current = Some(Item { key: "/b".into(), value: "v".into(), mod_revision: 9 });
        assert_eq!(told, Ok(Outcome::Conflict { key: "/b".into(), current }));
        let told = conflict(&txn, vec![None, None, None], &cipher);
        assert_eq!(told, Ok(Outcome::Conflict { key: "/a".into(), current: None }));
    }
}
