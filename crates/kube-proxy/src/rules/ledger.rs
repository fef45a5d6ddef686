//! Who needs what: the rule set of all Services, kept so that a change of one costs what it changes. Elements are
//! claimed by ports; when two claim the same (an external IP used twice) the first by name has it. Shared maps and
//! chains are counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Chain, Fragment, Key, Map, MapName, Ruleset, Shared, Transaction, Translator, Value};
use crate::plan::{Changes, PortName, PortPlan, Ranges};

type Element = (MapName, Key);

/// The rule set that is wanted, by who wants it.
pub struct Ledger {
    translator: Translator,
    base: Ruleset,
    /// Claims in the order of their owners; never empty.
    elements: BTreeMap<Element, Vec<(Arc<PortName>, Value)>>,
    /// How many ports need it; never zero.
    shared: BTreeMap<Shared, usize>,
    chains: BTreeMap<String, Chain>,
    sets: BTreeMap<String, String>,
}

/// What was there before a change, of all that it touches.
#[derive(Default)]
struct Touched {
    elements: BTreeMap<Element, Option<Value>>,
    shared: BTreeMap<Shared, bool>,
    chains: BTreeMap<String, Option<Chain>>,
    sets: BTreeMap<String, Option<String>>,
}

impl Ledger {
    /// Without any Service.
    pub fn new(translator: Translator, ranges: &Ranges) -> Self {
        Self {
            base: translator.base(ranges),
            translator,
            elements: BTreeMap::new(),
            shared: BTreeMap::new(),
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
        }
    }

    /// Takes changes in, and says what they are for the kernel.
    pub fn apply(&mut self, changes: &Changes) -> Transaction {
        let mut touched = Touched::default();
        for (name, change) in changes {
            let of = |plan: &Option<PortPlan>| {
                plan.as_ref().map(|plan| self.translator.fragment(name, plan)).unwrap_or_default()
            };
            let (old, new) = (of(&change.old), of(&change.new));
            self.remember(&mut touched, &old);
            self.remember(&mut touched, &new);
            let owner = Arc::new(name.clone());
            self.release(&owner, old);
            self.claim(&owner, new);
        }
        self.transaction(&touched)
    }

    fn remember(&self, touched: &mut Touched, fragment: &Fragment) {
        for element in fragment.elements.keys() {
            touched.elements.entry(*element).or_insert_with(|| self.value(element));
        }
        for shared in &fragment.shared {
            touched.shared.entry(*shared).or_insert_with(|| self.shared.contains_key(shared));
        }
        for name in fragment.chains.keys() {
            touched.chains.entry(name.clone()).or_insert_with(|| self.chains.get(name).cloned());
        }
        for name in fragment.sets.keys() {
            touched.sets.entry(name.clone()).or_insert_with(|| self.sets.get(name).cloned());
        }
    }

    fn value(&self, element: &Element) -> Option<Value> {
        let (_, value) = self.elements.get(element)?.first()?;
        Some(value.clone())
    }

    fn release(&mut self, owner: &Arc<PortName>, fragment: Fragment) {
        for element in fragment.elements.keys() {
            if let Some(claims) = self.elements.get_mut(element) {
                claims.retain(|(other, _)| other != owner);
                if claims.is_empty() {
                    self.elements.remove(element);
                }
            }
        }
        for shared in fragment.shared {
            let count = self.shared.get_mut(&shared).expect("what is released was claimed");
            *count -= 1;
            if *count == 0 {
                self.shared.remove(&shared);
            }
        }
        for name in fragment.chains.keys() {
            self.chains.remove(name);
        }
        for name in fragment.sets.keys() {
            self.sets.remove(name);
        }
    }

    fn claim(&mut self, owner: &Arc<PortName>, fragment: Fragment) {
        for (element, value) in fragment.elements {
            let claims = self.elements.entry(element).or_default();
            let place = claims.partition_point(|(other, _)| other < owner);
            claims.insert(place, (owner.clone(), value));
        }
        for shared in fragment.shared {
            *self.shared.entry(shared).or_default() += 1;
        }
        self.chains.extend(fragment.chains);
        self.sets.extend(fragment.sets);
    }

    /// All of it.
    pub fn ruleset(&self) -> Ruleset {
        let mut ruleset = self.base.clone();
        for shared in self.shared.keys() {
            match (shared, shared.chain()) {
                (_, Some((name, chain))) => drop(ruleset.chains.insert(name, chain)),
                (Shared::Map(map), None) => {
                    let empty = Map { kind: map.kind(), elements: BTreeMap::new() };
                    ruleset.maps.insert(map.to_string(), empty);
                }
                (_, None) => {}
            }
        }
        ruleset.chains.extend(self.chains.iter().map(|(name, chain)| (name.clone(), chain.clone())));
        for (name, kind) in &self.sets {
            ruleset.maps.insert(name.clone(), Map { kind: kind.clone(), elements: BTreeMap::new() });
        }
        let mut current: Option<(MapName, BTreeMap<Key, Value>)> = None;
        for ((map, key), claims) in &self.elements {
            let (_, value) = claims.first().expect("an element has a claim");
            if current.as_ref().is_none_or(|(name, _)| name != map) {
                fill(&mut ruleset, current.take());
            }
            current.get_or_insert_with(|| (*map, BTreeMap::new())).1.insert(*key, value.clone());
        }
        fill(&mut ruleset, current);
        ruleset
    }

    fn transaction(&self, touched: &Touched) -> Transaction {
        let mut transaction = Transaction::default();
        let (mut written, mut lost_chains, mut lost_maps) = (Vec::new(), Vec::new(), Vec::new());
        for (shared, before) in &touched.shared {
            let now = self.shared.contains_key(shared);
            match (before, now, shared.chain(), shared) {
                (false, true, Some(chain), _) => written.push((chain.0, None, chain.1)),
                (true, false, Some((name, _)), _) => lost_chains.push(name),
                (false, true, None, Shared::Map(map)) => transaction.add_map(&map.to_string(), &map.kind()),
                (true, false, None, Shared::Map(map)) => lost_maps.push(map.to_string()),
                _ => {}
            }
        }
        for (name, before) in &touched.sets {
            match (before, self.sets.get(name)) {
                (None, Some(kind)) => transaction.add_map(name, kind),
                (Some(_), None) => lost_maps.push(name.clone()),
                _ => {}
            }
        }
        for (name, before) in &touched.chains {
            match (before, self.chains.get(name)) {
                (before, Some(chain)) => written.push((name.clone(), before.clone(), chain.clone())),
                (Some(_), None) => lost_chains.push(name.clone()),
                (None, None) => {}
            }
        }
        for (name, _, chain) in written.iter().filter(|(_, before, _)| before.is_none()) {
            transaction.add_chain(name, &chain.hook);
        }
        for (name, before, chain) in &written {
            transaction.rewrite(name, before.as_ref(), chain);
        }
        for (element @ (map, key), before) in &touched.elements {
            transaction.element(&map.to_string(), *key, before.clone(), self.value(element));
        }
        let lost_chains: Vec<&str> = lost_chains.iter().map(String::as_str).collect();
        transaction.delete(&lost_chains, lost_maps.iter().map(String::as_str));
        transaction
    }
}

fn fill(ruleset: &mut Ruleset, elements: Option<(MapName, BTreeMap<Key, Value>)>) {
    if let Some((name, elements)) = elements {
        let map = || Map { kind: name.kind(), elements: BTreeMap::new() };
        ruleset.maps.entry(name.to_string()).or_insert_with(map).elements = elements;
    }
}
