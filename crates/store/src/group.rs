//! Decides a group of transactions that will become durable together: each sees what those before it did.
//!
//! Pure: reads the index, writes bytes into a buffer, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::api::{Compare, Item, Op, Outcome, Revision, Txn};
use crate::cipher::Cipher;
use crate::index::Index;
use crate::{StoreError, record};

/// What a transaction may hold, keys and values together. A frame must stay far below 4 GiB.
pub(crate) const MAX_TXN_BYTES: usize = 32 << 20;

/// Refuses a transaction that could never be carried out.
pub(crate) fn check(txn: &Txn) -> Result<(), StoreError> {
    let mut keys = BTreeSet::new();
    if let Some(twice) = txn.ops.iter().map(Op::key).find(|key| !keys.insert(&***key)) {
        return Err(StoreError::BadTransaction(format!("it changes {twice} twice")));
    }
    let bytes = size(txn);
    if bytes > MAX_TXN_BYTES {
        return Err(StoreError::BadTransaction(format!(
            "it holds {bytes} bytes, at most {MAX_TXN_BYTES} fit"
        )));
    }
    Ok(())
}

/// Keys and values together.
pub(crate) fn size(txn: &Txn) -> usize {
    let of = |op: &Op| match op {
        Op::Put(key, value) => key.len() + value.len(),
        Op::Delete(key) => key.len(),
    };
    txn.ops.iter().map(of).sum()
}

/// A group in the making.
pub(crate) struct Group<'a> {
    index: &'a Index,
    cipher: &'a Cipher,
    /// What the transactions so far would leave of the keys that they touch.
    after: BTreeMap<Arc<str>, Option<Item>>,
    revision: Revision,
    effects: Vec<Vec<Op>>,
}

impl<'a> Group<'a> {
    pub(crate) fn new(index: &'a Index, cipher: &'a Cipher) -> Group<'a> {
        Group { index, cipher, after: BTreeMap::new(), revision: index.revision(), effects: Vec::new() }
    }

    /// What will become of the transaction if the group becomes durable. If it has an effect then its record is
    /// appended to `records`.
    pub(crate) fn add(&mut self, txn: Txn, records: &mut Vec<u8>) -> Result<Outcome, StoreError> {
        for (key, compare) in txn.compares {
            let current = self.get(&key);
            let holds = match compare {
                Compare::ModRevision(revision) => {
                    current.as_ref().is_some_and(|item| item.mod_revision == revision)
                }
                Compare::Absent => current.is_none(),
            };
            if !holds {
                return Ok(Outcome::Conflict { key, current });
            }
        }
        let mut ops = txn.ops;
        ops.retain(|op| matches!(op, Op::Put(..)) || self.get(op.key()).is_some());
        if ops.is_empty() {
            return Ok(Outcome::Committed { revision: self.revision });
        }
        record::encode_txn(&ops, self.cipher, records)
            .map_err(|error| StoreError::io("encrypting a value", error))?;
        self.revision += 1;
        for op in &ops {
            let item = match op {
                Op::Put(key, value) => {
                    Some(Item { key: Arc::clone(key), value: value.clone(), mod_revision: self.revision })
                }
                Op::Delete(_) => None,
            };
            self.after.insert(Arc::clone(op.key()), item);
        }
        self.effects.push(ops);
        Ok(Outcome::Committed { revision: self.revision })
    }

    /// The changes, a transaction each, to apply once they are durable.
    pub(crate) fn into_effects(self) -> Vec<Vec<Op>> {
        self.effects
    }

    fn get(&self, key: &str) -> Option<Item> {
        self.after.get(key).cloned().unwrap_or_else(|| self.index.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::{Encryption, system_random};

    #[test]
    fn a_transaction_sees_those_before_it_in_the_group() {
        let cipher = Cipher::new(&Encryption::default(), system_random()).expect("valid");
        let index = Index::new(1);
        let mut group = Group::new(&index, &cipher);
        let mut records = Vec::new();
        let mut add = |txn: Txn| group.add(txn, &mut records);
        let create = |value: &'static str| Txn::new().when("/a", Compare::Absent).put("/a", value);
        assert_eq!(add(create("first")), Ok(Outcome::Committed { revision: 2 }));
        let current = Some(Item { key: "/a".into(), value: "first".into(), mod_revision: 2 });
        assert_eq!(add(create("second")), Ok(Outcome::Conflict { key: "/a".into(), current }));
        assert_eq!(add(Txn::new().delete("/none")), Ok(Outcome::Committed { revision: 2 }));
        let removal = Txn::new().when("/a", Compare::ModRevision(2)).delete("/a").delete("/none");
        assert_eq!(add(removal), Ok(Outcome::Committed { revision: 3 }));
        assert_eq!(add(create("third")), Ok(Outcome::Committed { revision: 4 }));
        let effects = group.into_effects();
        assert_eq!(effects[1], [Op::Delete("/a".into())], "removals of nothing are left out");
        assert_eq!(effects.len(), 3);
        assert_eq!(index.revision(), 1, "nothing has happened yet");
    }

    #[test]
    fn refuses_what_could_never_be_carried_out() {
        assert!(check(&Txn::new().put("/a", "1").put("/b", "2")).is_ok());
        assert!(matches!(check(&Txn::new().put("/a", "1").delete("/a")), Err(StoreError::BadTransaction(_))));
        let large = Txn::new().put("/a", vec![0; MAX_TXN_BYTES]);
        assert!(matches!(check(&large), Err(StoreError::BadTransaction(_))));
    }
}
