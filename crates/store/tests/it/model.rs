//! Any series of steps against a model that keeps every state of every revision and knows nothing of logs.

use std::collections::BTreeMap;

use futures::FutureExt;
use proptest::prelude::*;
use store::simdisk::SimDisk;
use store::{
    Compare, EmbeddedStore, Event, Item, ListOptions, Listing, Options, Outcome, Retention, Revision, Store,
    StoreError, Txn,
};

use crate::support::{open, run, small};

#[derive(Clone, Debug)]
enum Step {
    /// Conditions and changes, by number of the key.
    Commit { conditions: Vec<(u8, Condition)>, changes: BTreeMap<u8, Option<u16>> },
    /// Forget what is older than so many revisions.
    Compact(u64),
    /// Close and open.
    Reopen,
    /// Open after the process was killed.
    Kill,
    /// Open after the power went.
    PowerLoss,
    /// Compare everything that can be read.
    Look { back: u64, limit: usize, prefix: u8 },
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    Absent,
    Current,
    Stale,
}

fn step() -> impl Strategy<Value = Step> {
    let condition = prop_oneof![Just(Condition::Absent), Just(Condition::Current), Just(Condition::Stale)];
    let conditions = prop::collection::vec((0..12_u8, condition), 0..2);
    let changes = prop::collection::btree_map(0..12_u8, prop::option::weighted(0.7, 0..1500_u16), 0..4);
    let commit = (conditions, changes).prop_map(|(conditions, changes)| Step::Commit { conditions, changes });
    let look =
        (0..30_u64, 0..5_usize, 0..4_u8).prop_map(|(back, limit, prefix)| Step::Look { back, limit, prefix });
    prop_oneof![
        12 => commit,
        1 => (0..10_u64).prop_map(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => Just(Step::PowerLoss),
        4 => look,
    ]
}

fn key(number: u8) -> String {
    format!("/{}/{number:02}", number % 3)
}

type State = BTreeMap<String, Item>;

/// What a store should be.
struct Model {
    /// The state at revision 1 and at each one after.
    states: Vec<State>,
    events: Vec<Event>,
}

impl Model {
    fn revision(&self) -> Revision {
        self.states.len() as Revision
    }

    fn at(&self, revision: Revision) -> &State {
        &self.states[usize::try_from(revision).expect("small") - 1]
    }

    fn commit(&mut self, txn: &Txn) -> Outcome {
        let now = self.at(self.revision()).clone();
        for (key, compare) in &txn.compares {
            let current = now.get(&**key).cloned();
            let mod_revision = current.as_ref().map(|item| item.mod_revision);
            let expected = match compare {
                Compare::Absent => None,
                Compare::ModRevision(revision) => Some(*revision),
            };
            if mod_revision != expected {
                return Outcome::Conflict { key: key.clone(), current };
            }
        }
        let (mut next, revision) = (now.clone(), self.revision() + 1);
        let mut effective = false;
        for op in &txn.ops {
            let before = now.get(&**op.key());
            let value = match op {
                store::Op::Put(_, value) => Some(value.clone()),
                store::Op::Delete(_) if before.is_none() => continue,
                store::Op::Delete(_) => None,
            };
            effective = true;
            let key = op.key().clone();
            self.events.push(Event {
                revision,
                key: key.clone(),
                value: value.clone(),
                prev_value: before.map(|item| item.value.clone()),
                prev_revision: before.map_or(0, |item| item.mod_revision),
            });
            match value {
                Some(value) => next.insert(key.to_string(), Item { key, value, mod_revision: revision }),
                None => next.remove(&*key),
            };
        }
        if effective {
            self.states.push(next);
        }
        Outcome::Committed { revision: self.revision() }
    }

    fn list(&self, prefix: &str, revision: Revision, limit: usize, after: Option<&str>) -> Listing {
        let all = self
            .at(revision)
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        let mut items: Vec<Item> = all.map(|(_, item)| item.clone()).collect();
        let limit = if limit == 0 { usize::MAX } else { limit };
        let remaining = items.len().saturating_sub(limit);
        items.truncate(limit);
        Listing { revision, items, more: remaining > 0, remaining: remaining as u64 }
    }
}

fn options() -> Options {
    Options { retention: Retention { max_events: 40, ..Retention::manual() }, ..small(3) }
}

struct Run {
    disk: SimDisk,
    store: EmbeddedStore,
    model: Model,
    compacted: Revision,
}

impl Run {
    fn new() -> Run {
        let disk = SimDisk::new(3);
        let store = open(&disk, options()).expect("opened");
        Run { disk, store, model: Model { states: vec![State::new()], events: Vec::new() }, compacted: 1 }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Commit { conditions, changes } => self.commit(conditions, changes).await,
            Step::Compact(back) => {
                let revision = self.model.revision().saturating_sub(back);
                self.store.compact(revision).await.expect("compacted");
                self.compacted = self.compacted.max(revision);
                assert!(self.store.compacted_revision() >= self.compacted);
            }
            Step::Reopen => {
                self.store.close().await.expect("closed");
                self.reopen(self.disk.clone());
            }
            Step::Kill => self.reopen(self.disk.kill()),
            Step::PowerLoss => self.reopen(self.disk.lose_power()),
            Step::Look { back, limit, prefix } => self.look(back, limit, prefix).await,
        }
        assert_eq!(self.store.current_revision(), self.model.revision());
    }

    fn reopen(&mut self, disk: SimDisk) {
        self.store = open(&disk, options()).expect("opened");
        self.disk = disk;
        self.compacted = 1;
    }

    async fn commit(&mut self, conditions: Vec<(u8, Condition)>, changes: BTreeMap<u8, Option<u16>>) {
        let now = self.model.at(self.model.revision());
        let mut txn = Txn::new();
        for (number, condition) in conditions {
            let current = now.get(&key(number)).map_or(1, |item| item.mod_revision);
            txn = txn.when(
                key(number),
                match condition {
                    Condition::Absent => Compare::Absent,
                    Condition::Current => Compare::ModRevision(current),
                    Condition::Stale => Compare::ModRevision(current.saturating_sub(1)),
                },
            );
        }
        for (number, length) in changes {
            txn = match length {
                Some(length) => txn.put(key(number), vec![b'a' + number; usize::from(length)]),
                None => txn.delete(key(number)),
            };
        }
        assert_eq!(self.store.commit(txn.clone()).await, Ok(self.model.commit(&txn)));
    }

    /// Lists a revision page by page, and watches from it to the end.
    async fn look(&self, back: u64, limit: usize, prefix: u8) {
        let prefix = if prefix == 3 { "/".to_owned() } else { format!("/{prefix}/") };
        let revision = self.model.revision().saturating_sub(back);
        let oldest = self.store.compacted_revision();
        if revision < oldest {
            let gone = StoreError::Compacted { asked: revision, oldest };
            assert_eq!(
                self.store.list(&prefix, ListOptions { at: Some(revision), limit, after: None }).await,
                Err(gone.clone())
            );
            assert_eq!(self.store.watch(&prefix, revision).await.err(), Some(gone));
            return;
        }
        let mut page = self
            .store
            .list(&prefix, ListOptions { at: Some(revision), limit, after: None })
            .await
            .expect("listed");
        assert_eq!(page, self.model.list(&prefix, revision, limit, None));
        while page.more {
            let after = page.items.last().map(|item| &*item.key);
            let next = self
                .store
                .list(&prefix, ListOptions { at: Some(revision), limit, after })
                .await
                .expect("listed");
            assert_eq!(next, self.model.list(&prefix, revision, limit, after));
            page = next;
        }
        let mut watch = self.store.watch(&prefix, revision).await.expect("watched");
        let mut told = Vec::new();
        while let Some(event) = watch.next().now_or_never() {
            told.push(event.expect("open").expect("not compacted"));
        }
        let due = |event: &&Event| event.revision > revision && event.key.starts_with(&prefix);
        assert_eq!(told, self.model.events.iter().filter(due).cloned().collect::<Vec<_>>());
        for (key, item) in self.model.at(self.model.revision()) {
            assert_eq!(self.store.get(key).await.as_ref(), Ok(&Some(item.clone())));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_model(steps in prop::collection::vec(step(), 1..300)) {
        run(async {
            let mut run = Run::new();
            for step in steps {
                run.step(step).await;
            }
            run.step(Step::Look { back: 0, limit: 0, prefix: 3 }).await;
        });
    }
}
