//! What writers were told, and what must therefore be found after a crash. Knows nothing of how a store works.
//!
//! Each writer has keys of its own and one transaction at a time, whose value names it; so after a crash the state of
//! its keys is that of its last acknowledged transaction, or of the one after that, wholly.

use std::collections::BTreeMap;
use std::fmt::Write;

use store::{Item, Revision};

/// Number of writers.
pub const WRITERS: usize = 8;
/// Keys of each.
const KEYS: u64 = 3;

/// The keys of one writer and their values.
type State = BTreeMap<String, String>;

/// One transaction that a writer wants: `None` removes a key.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub writer: usize,
    pub changes: BTreeMap<String, Option<String>>,
    id: String,
}

/// What one writer knows.
#[derive(Clone, Debug, Default)]
struct Writer {
    state: State,
    outstanding: Option<Attempt>,
}

/// What all know.
#[derive(Debug, Default)]
pub struct Ledger {
    writers: [Writer; WRITERS],
    /// Which transaction has which revision.
    used: BTreeMap<Revision, String>,
    newest: Revision,
}

impl Ledger {
    /// A transaction of one to three changes, decided by `chance`.
    pub fn attempt(&mut self, writer: usize, chance: u64) -> Attempt {
        let id = format!("w{writer}c{chance:x}");
        let mut changes = BTreeMap::new();
        for position in 0..=chance % 3 {
            let key = format!(
                "/{}/{writer}/{}",
                ["plain", "secret"][writer % 2],
                (chance >> 8).wrapping_add(position) % KEYS
            );
            let value = match (chance >> (16 + position)) & 3 {
                0 if position > 0 => None,
                _ => Some(padded(&id, chance >> 24)),
            };
            changes.insert(key, value);
        }
        let attempt = Attempt { writer, changes, id };
        self.writers[writer].outstanding = Some(attempt.clone());
        attempt
    }

    /// The store answered to what this writer tried last.
    pub fn acknowledged_last(&mut self, writer: usize, revision: Revision) {
        let attempt = self.writers[writer].outstanding.clone().expect("an answer follows an attempt");
        self.acknowledged(&attempt, revision);
    }

    /// The store answered that the transaction is durable.
    pub fn acknowledged(&mut self, attempt: &Attempt, revision: Revision) {
        self.note(revision, &attempt.id);
        let writer = &mut self.writers[attempt.writer];
        writer.state = applied(&writer.state, attempt);
        writer.outstanding = None;
    }

    /// A watcher was shown a change, which is therefore durable too.
    pub fn shown(&mut self, revision: Revision, value: Option<&str>) {
        self.newest = self.newest.max(revision);
        if let Some(value) = value {
            self.note(revision, id(value));
        }
    }

    /// Compares with what is stored after a crash. What was not acknowledged may have happened; from then on it has.
    pub fn check(&mut self, current: Revision, items: &[Item]) {
        assert!(current >= self.newest, "revision {} was given out, the store is at {current}", self.newest);
        let mut found: [State; WRITERS] = Default::default();
        for item in items {
            let value = std::str::from_utf8(&item.value).expect("text");
            let writer: usize = item.key.split('/').nth(2).expect("a key").parse().expect("a number");
            found[writer].insert(item.key.to_string(), value.to_owned());
            self.note(item.mod_revision, id(value));
        }
        for (number, (writer, found)) in self.writers.iter_mut().zip(found).enumerate() {
            let outstanding = writer.outstanding.take();
            let possible = outstanding.as_ref().map(|attempt| applied(&writer.state, attempt));
            assert!(
                found == writer.state || Some(&found) == possible.as_ref(),
                "writer {number} knows {:?}, tried {outstanding:?}, found {found:?}",
                writer.state
            );
            writer.state = found;
        }
        self.newest = current;
    }

    fn note(&mut self, revision: Revision, id: &str) {
        let known = self.used.entry(revision).or_insert_with(|| id.to_owned());
        assert_eq!(known, id, "revision {revision} was used twice");
        self.newest = self.newest.max(revision);
    }
}

fn applied(state: &State, attempt: &Attempt) -> State {
    let mut state = state.clone();
    for (key, value) in &attempt.changes {
        match value {
            Some(value) => state.insert(key.clone(), value.clone()),
            None => state.remove(key),
        };
    }
    state
}

/// A value that names its transaction and is up to three sectors long.
fn padded(id: &str, chance: u64) -> String {
    let length = usize::try_from(chance % 1500).expect("small");
    let mut value = format!("{id}|");
    while value.len() < length {
        write!(value, "{id}.").expect("memory");
    }
    value
}

fn id(value: &str) -> &str {
    value.split('|').next().expect("a value names its transaction")
}
