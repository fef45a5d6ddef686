//! The mode for hosts that expect upstream's layout: KUBE-* chains of iptables. A change rewrites the chains that it
//! changes, in one transaction a table, through `iptables-restore --noflush`.

mod layout;
pub mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use async_trait::async_trait;
use host::nft::{Nft, NftProgram};
use tokio::sync::mpsc;

pub use layout::{Part, Shared, Table, fixed, jumps, part};

use crate::apply::{ApplyError, Mode};
use crate::plan::{Changes, Plan, PortName, Ranges};

/// Chains by table and name, with their rules.
pub type Chains = BTreeMap<(Table, String), Vec<String>>;

/// How the chains that are ours begin.
const OURS: [&str; 2] = ["KUBE-", "SKIFF-"];

/// Brings the chains to a plan.
pub struct Iptables {
    /// Tells when somebody touches the tables: today's iptables keeps them in nftables.
    nft: Arc<NftProgram>,
    ranges: Ranges,
    parts: BTreeMap<PortName, Part>,
    /// The kernel holds what the parts say.
    sure: bool,
}

impl Iptables {
    /// Nothing is read or written yet.
    pub fn new(nft: Arc<NftProgram>, ranges: Ranges) -> Self {
        Self { nft, ranges, parts: BTreeMap::new(), sure: false }
    }

    /// Takes changes in, and says what they are for the kernel.
    fn take(&mut self, changes: &Changes) -> Edit {
        let mut edit = Edit::default();
        for (name, change) in changes {
            let new = change.new.as_ref().map(|plan| part(name, plan, &self.ranges)).unwrap_or_default();
            let old = match change.new {
                Some(_) => self.parts.insert(name.clone(), new.clone()),
                None => self.parts.remove(name),
            };
            edit.part(&old.unwrap_or_default(), &new);
        }
        for shared in std::mem::take(&mut edit.shared) {
            let (chain, rules) = self.shared(shared);
            edit.written.insert(chain, rules);
        }
        edit
    }

    fn shared(&self, shared: Shared) -> ((Table, String), Vec<String>) {
        let (table, name) = shared.chain();
        let rules = self.parts.values().filter_map(|part| part.shared.get(&shared)).flatten();
        let rules = rules.cloned().chain(shared.last().map(str::to_owned)).collect();
        ((table, name.to_owned()), rules)
    }

    /// Everything that the kernel should hold.
    fn wanted(&self) -> Chains {
        let mut chains = fixed(&self.ranges);
        chains.extend(Shared::ALL.map(|shared| self.shared(shared)));
        for part in self.parts.values() {
            chains.extend(part.own.iter().map(|(name, rules)| ((Table::Nat, name.clone()), rules.clone())));
        }
        chains
    }

    async fn restore(&self, script: &str) -> Result<(), ApplyError> {
        if script.is_empty() {
            return Ok(());
        }
        Ok(host::iptables::restore(script, |process| self.nft.disregard(process)).await?)
    }

    async fn reread(&mut self) -> Result<(), ApplyError> {
        let listing = host::iptables::save().await?;
        self.restore(&repair(&read(&listing), &self.wanted())).await?;
        self.sure = true;
        Ok(())
    }
}

#[async_trait]
impl Mode for Iptables {
    fn monitor(&self) -> Result<mpsc::Receiver<()>, ApplyError> {
        Ok(self.nft.monitor(&["nat", "filter"])?)
    }

    fn doubt(&mut self) {
        self.sure = false;
    }

    async fn establish(&mut self) -> Result<(), ApplyError> {
        let have = read(&host::iptables::save().await?);
        if have.chains.keys().any(|(_, name)| OURS.iter().any(|ours| name.starts_with(ours))) {
            return Ok(());
        }
        let nothing = Self::new(self.nft.clone(), self.ranges.clone());
        self.restore(&repair(&have, &nothing.wanted())).await
    }

    async fn reconcile(&mut self, _plan: &Plan, changes: &Changes) -> Result<(), ApplyError> {
        let edit = self.take(changes);
        if std::mem::take(&mut self.sure) {
            match self.restore(&edit.script()).await {
                Ok(()) => {
                    self.sure = true;
                    return Ok(());
                }
                Err(error) => tracing::debug!(%error, "the kernel holds something else than was believed"),
            }
        }
        self.reread().await
    }
}

/// Chains to write anew and chains to delete.
#[derive(Debug, Default)]
struct Edit {
    written: Chains,
    deleted: BTreeSet<(Table, String)>,
    shared: BTreeSet<Shared>,
    jumps: Vec<(Table, String)>,
}

impl Edit {
    fn part(&mut self, old: &Part, new: &Part) {
        for (name, rules) in new.own.iter().filter(|(name, rules)| old.own.get(*name) != Some(rules)) {
            self.written.insert((Table::Nat, name.clone()), rules.clone());
        }
        let gone = old.own.keys().filter(|name| !new.own.contains_key(*name));
        self.deleted.extend(gone.map(|name| (Table::Nat, name.clone())));
        self.shared.extend(
            Shared::ALL.into_iter().filter(|shared| old.shared.get(shared) != new.shared.get(shared)),
        );
    }

    /// A line that names a chain makes it if need be, and empties it: all come first, since rules refer to chains.
    fn script(&self) -> String {
        let mut script = String::new();
        for table in [Table::Filter, Table::Nat] {
            let written = || self.written.iter().filter(|((of, _), _)| *of == table);
            let deleted = || self.deleted.iter().filter(|(of, _)| *of == table);
            let jumps: Vec<&String> =
                self.jumps.iter().filter(|(of, _)| *of == table).map(|(_, rule)| rule).collect();
            if written().next().is_none() && deleted().next().is_none() && jumps.is_empty() {
                continue;
            }
            let mut line = |text: std::fmt::Arguments<'_>| {
                writeln!(script, "{text}").expect("a String takes every write");
            };
            line(format_args!("*{}", table.name()));
            for name in written().map(|((_, name), _)| name).chain(deleted().map(|(_, name)| name)) {
                line(format_args!(":{name} - [0:0]"));
            }
            for ((_, name), rules) in written() {
                for rule in rules {
                    line(format_args!("-A {name} {rule}"));
                }
            }
            for jump in jumps {
                line(format_args!("-I {jump}"));
            }
            for (_, name) in deleted() {
                line(format_args!("-X {name}"));
            }
            line(format_args!("COMMIT"));
        }
        script
    }
}

/// What the kernel holds: how many rules each chain has, and which chains are jumped to from which.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    chains: BTreeMap<(Table, String), usize>,
    jumps: BTreeSet<(Table, String, String)>,
}

fn read(listing: &str) -> Held {
    let mut held = Held::default();
    let mut table = None;
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = [Table::Filter, Table::Nat].into_iter().find(|table| table.name() == name);
        }
        let Some(table) = table else { continue };
        if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split_whitespace().next().unwrap_or_default();
            held.chains.entry((table, name.to_owned())).or_default();
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let name = rule.split_whitespace().next().unwrap_or_default();
            *held.chains.entry((table, name.to_owned())).or_default() += 1;
            if let Some((_, target)) = rule.rsplit_once(" -j ") {
                held.jumps.insert((table, name.to_owned(), target.trim().to_owned()));
            }
        }
    }
    held
}

/// What brings the kernel to what is wanted: chains whose number of rules is another, jumps that are missing, and chains
/// of an earlier proxy that nobody needs. Nothing when all is there.
fn repair(held: &Held, wanted: &Chains) -> String {
    let mut edit = Edit::default();
    for (table, chain, to, matches) in jumps() {
        if !held.jumps.contains(&(table, chain.to_owned(), to.to_owned())) {
            edit.jumps.push((table, format!("{chain} {matches} -j {to}")));
        }
    }
    let gone = held.chains.keys().filter(|(_, name)| ours(name)).filter(|chain| !wanted.contains_key(*chain));
    edit.deleted = gone.cloned().collect();
    let same = wanted.iter().all(|(chain, rules)| held.chains.get(chain) == Some(&rules.len()));
    if !same || !edit.deleted.is_empty() {
        edit.written = wanted.clone();
    }
    edit.script()
}

/// Whether a chain is this mode's.
pub fn ours(name: &str) -> bool {
    OURS.iter().any(|ours| name.starts_with(ours)) && !layout::others(name)
}

#[cfg(test)]
mod tests;
