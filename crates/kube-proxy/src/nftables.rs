//! The mode that is the default: one table of nftables. Chains and maps are made by the `nft` program; elements, which
//! is all that most changes are, go to the kernel directly.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use host::nft::netlink::{Change, ElementChange, Verdict};
use host::nft::{Nft, NftError};
use k8s_openapi::serde_json::Value as Json;
use tokio::sync::mpsc;

use crate::apply::{ApplyError, Mode};
use crate::plan::{Changes, Plan, Ranges};
use crate::rules::{
    self, CLIENTS, Chain, Key, Ledger, Map, Rule, Ruleset, TABLE, Transaction, Translator, Value,
};

/// Brings the table to a plan.
pub struct Nftables {
    nft: Arc<dyn Nft>,
    base: Ruleset,
    ledger: Ledger,
    /// The kernel holds what the ledger says.
    sure: bool,
}

impl Nftables {
    /// Nothing is read or written yet.
    pub fn new(nft: Arc<dyn Nft>, ranges: &Ranges) -> Self {
        Self::with(nft, Translator::Maps, ranges)
    }

    /// The same, with somebody else who translates.
    pub fn with(nft: Arc<dyn Nft>, translator: Translator, ranges: &Ranges) -> Self {
        let base = translator.base(ranges);
        Self { nft, base, ledger: Ledger::new(translator, ranges), sure: false }
    }

    /// What the kernel should hold.
    pub fn wanted(&self) -> Ruleset {
        self.ledger.ruleset()
    }

    async fn apply(&self, transaction: &Transaction) -> Result<(), NftError> {
        if !transaction.before.is_empty() {
            self.nft.apply(&transaction.before).await?;
        }
        let elements = elements(transaction);
        if !elements.is_empty() {
            self.nft.change(TABLE, elements).await?;
        }
        if !transaction.after.is_empty() {
            self.nft.apply(&transaction.after).await?;
        }
        Ok(())
    }

    async fn reread(&mut self) -> Result<(), NftError> {
        let wanted = self.ledger.ruleset();
        let transaction = match self.nft.list(TABLE).await? {
            None => rules::difference(None, &wanted),
            Some(listing) => match read(&listing) {
                Some(have) => rules::difference(Some(&have), &wanted),
                // Nothing of ours looks like this: from the start, in one transaction as far as chains go.
                None => {
                    let anew = rules::difference(None, &wanted);
                    Transaction { before: format!("delete table ip {TABLE}\n{}", anew.before), ..anew }
                }
            },
        };
        self.apply(&transaction).await?;
        self.sure = true;
        Ok(())
    }
}

#[async_trait]
impl Mode for Nftables {
    fn monitor(&self) -> Result<mpsc::Receiver<()>, ApplyError> {
        Ok(self.nft.monitor(&[TABLE])?)
    }

    fn doubt(&mut self) {
        self.sure = false;
    }

    async fn establish(&mut self) -> Result<(), ApplyError> {
        if self.nft.list(TABLE).await?.is_none() {
            self.apply(&rules::difference(None, &self.base)).await?;
        }
        Ok(())
    }

    async fn reconcile(&mut self, _plan: &Plan, changes: &Changes) -> Result<(), ApplyError> {
        let transaction = self.ledger.apply(changes);
        if std::mem::take(&mut self.sure) {
            match self.apply(&transaction).await {
                Ok(()) => {
                    self.sure = true;
                    return Ok(());
                }
                Err(error) => tracing::debug!(%error, "the kernel holds something else than was believed"),
            }
        }
        Ok(self.reread().await?)
    }
}

fn elements(transaction: &Transaction) -> Vec<ElementChange> {
    let gone = transaction.gone.iter().flat_map(|(map, keys)| {
        keys.iter().map(|key| ElementChange { map: map.clone(), key: key.bytes(), change: Change::Delete })
    });
    let come = transaction.come.iter().flat_map(|(map, elements)| {
        elements.iter().map(|(key, value)| ElementChange {
            map: map.clone(),
            key: key.bytes(),
            change: change(value),
        })
    });
    gone.chain(come).collect()
}

fn change(value: &Value) -> Change {
    match value {
        Value::Nothing => Change::Member,
        Value::Drop => Change::Verdict(Verdict::Drop),
        Value::Goto(chain) => Change::Verdict(Verdict::Goto(chain.to_string())),
        Value::Jump(chain) => Change::Verdict(Verdict::Jump(chain.to_string())),
        Value::Backend(address, port) => {
            let port = port.to_be_bytes();
            Change::Data([&address.octets()[..], &port, &[0, 0]].concat())
        }
    }
}

/// The rule set in a listing of `nft --json list table`; `None` when there is something in it that we never write.
pub fn read(listing: &Json) -> Option<Ruleset> {
    let mut ruleset = Ruleset::default();
    for item in listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let Some((kind, body)) = item.as_object().and_then(|item| item.iter().next()) else { continue };
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "map" | "set" => {
                let name = text("name");
                let listed = body["elem"].as_array().or(body["elements"].as_array());
                let listed = listed.filter(|_| !name.starts_with(CLIENTS));
                let elements: Option<BTreeMap<Key, Value>> =
                    listed.map(Vec::as_slice).unwrap_or_default().iter().map(element).collect();
                ruleset.maps.insert(name, Map { kind: String::new(), elements: elements? });
            }
            "chain" => {
                ruleset.chains.entry(text("name")).or_insert_with(Chain::default);
            }
            "rule" => {
                let rule = Rule { text: String::new(), fingerprint: text("comment") };
                ruleset.chains.entry(text("chain")).or_default().rules.push(rule);
            }
            _ => {}
        }
    }
    Some(ruleset)
}

/// A map element is `[key, value]`, a set element is the key.
fn element(element: &Json) -> Option<(Key, Value)> {
    match element.as_array().map(Vec::as_slice) {
        Some([key, value]) => Some((Key::parse(&words(key))?, Value::parse(&words(value))?)),
        _ => Some((Key::parse(&words(element))?, Value::Nothing)),
    }
}

/// An expression as nft writes it in a script.
fn words(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Object(object) => match object.iter().next().map(|(name, value)| (name.as_str(), value)) {
            Some(("concat", Json::Array(parts))) => parts.iter().map(words).collect::<Vec<_>>().join(" . "),
            Some(("elem", inner)) => words(&inner["val"]),
            Some(("drop", _)) => "drop".to_owned(),
            Some((verdict @ ("goto" | "jump"), target)) => {
                format!("{verdict} {}", target["target"].as_str().unwrap_or_default())
            }
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}
