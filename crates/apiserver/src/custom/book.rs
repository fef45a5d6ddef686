//! What is known of all definitions, and which of them are to be judged: what is settled is passed by, since there may be a
//! thousand of which one changes. Pure; what comes of a judgement is written by the keeper.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::conditions::{self, Brief, Verdict};
use crate::watch::Cached;

/// A definition as it was last seen.
struct Known {
    revision: u64,
    brief: Brief,
    /// Whether its status is as it should be. It stays so until it changes itself, or others do while it lacks names.
    settled: bool,
}

/// The definitions by name.
#[derive(Default)]
pub struct Book(BTreeMap<String, Known>);

impl Book {
    /// Takes in what has changed.
    pub fn read(&mut self, all: &[Arc<Cached>]) {
        let names: BTreeSet<&str> = all.iter().map(|one| one.name()).collect();
        let mut groups = BTreeSet::new();
        self.0.retain(|name, known| {
            let stays = names.contains(name.as_str());
            if !stays {
                groups.insert(known.brief.group.clone());
            }
            stays
        });
        for one in all {
            let is_known = self.0.get(one.name()).is_some_and(|known| known.revision == one.revision);
            if let Some(definition) = (!is_known).then(|| one.content()).flatten() {
                let brief = Brief::of(&definition);
                groups.insert(brief.group.clone());
                let known = Known { revision: one.revision, brief, settled: false };
                self.0.insert(one.name().to_owned(), known);
            }
        }
        if groups.is_empty() {
            return;
        }
        for known in self.0.values_mut().filter(|known| known.settled) {
            known.settled = !(known.brief.lacks_names() && groups.contains(&known.brief.group));
        }
    }

    /// Whether the objects of a definition are to be deleted.
    pub fn is_to_be_cleared(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|known| known.brief.cleanup)
    }

    /// The definitions that are to be judged.
    pub fn open(&self) -> Vec<String> {
        self.0.iter().filter(|(_, known)| !known.settled).map(|(name, _)| name.clone()).collect()
    }

    /// The status that a definition should have; `None` if it has that.
    pub fn judge(&self, name: &str, now: &str) -> Option<Verdict> {
        let brief = &self.0.get(name)?.brief;
        let others = self.0.iter().filter(|(other, _)| *other != name).map(|(_, other)| &other.brief);
        conditions::judge(brief, others.filter(|other| other.group == brief.group), now)
    }

    /// What was judged has been written, if there was anything: it counts for those that are judged next. If somebody else
    /// was faster, there will be another revision to read.
    pub fn settle(&mut self, name: &str, verdict: Option<Verdict>) {
        let Some(known) = self.0.get_mut(name) else { return };
        known.settled = true;
        if let Some(verdict) = verdict {
            known.brief.accepted = verdict.accepted;
            known.brief.conditions = verdict.conditions;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition(at: usize, short: &str, revision: u64) -> Arc<Cached> {
        let name = format!("kinds{at}.example.com");
        let names =
            json!({"plural": format!("kinds{at}"), "kind": format!("Kind{at}"), "shortNames": [short]});
        let object = json!({"metadata": {"name": name}, "spec": {"group": "example.com", "names": names}});
        Arc::new(Cached::new(&name, object.to_string().into(), revision))
    }

    /// Judges all that are open; says which those were.
    fn judged(book: &mut Book, all: &[Arc<Cached>]) -> Vec<String> {
        book.read(all);
        let open = book.open();
        for name in &open {
            let verdict = book.judge(name, "2026-01-01T00:00:00Z");
            book.settle(name, verdict);
        }
        open
    }

    #[test]
    fn what_is_settled_is_not_judged_again_with_every_change() {
        let mut book = Book::default();
        let mut all: Vec<_> = (0..400).map(|at| definition(at, &format!("k{at}"), 1)).collect();
        assert_eq!(judged(&mut book, &all).len(), 400);
        assert!(judged(&mut book, &all).is_empty());
        all.push(definition(400, "new", 2));
        assert_eq!(judged(&mut book, &all), ["kinds400.example.com"]);
        all[7] = definition(7, "other", 3);
        assert_eq!(judged(&mut book, &all), ["kinds7.example.com"]);
        all.remove(3);
        assert!(judged(&mut book, &all).is_empty());
    }

    #[test]
    fn who_lacks_a_name_is_judged_when_others_of_the_group_change() {
        let mut book = Book::default();
        let mut all: Vec<_> = (0..4).map(|at| definition(at, &format!("k{at}"), 1)).collect();
        all.push(definition(4, "k0", 1));
        assert_eq!(judged(&mut book, &all).len(), 5);
        all[2] = definition(2, "k2", 2);
        assert_eq!(judged(&mut book, &all), ["kinds2.example.com", "kinds4.example.com"]);
        all.remove(0);
        assert_eq!(judged(&mut book, &all), ["kinds4.example.com"], "the name is free");
        all.remove(0);
        assert!(judged(&mut book, &all).is_empty(), "it lacks nothing any more");
    }
}
