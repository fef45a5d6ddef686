//! Brings the kernel's rules to what is wanted. What the kernel holds is read from the kernel whenever there is doubt:
//! at the start, after a failure, and after somebody else touched the table; never from what was meant to be applied.

use std::collections::BTreeSet;
use std::sync::Arc;

use host::nft::{Nft, NftError};
use k8s_openapi::serde_json::Value;

use crate::rules::{self, Chain, Map, Rule, Ruleset, Stale, TABLE};

/// Applies rule sets as differences.
pub struct Applier {
    nft: Arc<dyn Nft>,
    /// What the kernel holds, as last read or as last acknowledged by it.
    known: Option<Ruleset>,
}

impl Applier {
    /// Nothing is read before the first [`Applier::reconcile`].
    pub fn new(nft: Arc<dyn Nft>) -> Self {
        Self { nft, known: None }
    }

    /// What the kernel holds may be something else than we know: read it again before the next difference.
    pub fn doubt(&mut self) {
        self.known = None;
    }

    /// Makes the table with `base` if there is none; one that is there stays as it is.
    pub async fn establish(&mut self, base: &Ruleset) -> Result<(), NftError> {
        if self.nft.list(TABLE).await?.is_none() {
            self.reconcile(base).await?;
        }
        Ok(())
    }

    /// Applies the difference between what the kernel holds and `want`, in one transaction. Returns the flows that the
    /// kernel should now forget, those included that went while no proxy was there.
    pub async fn reconcile(&mut self, want: &Ruleset) -> Result<BTreeSet<Stale>, NftError> {
        let have = match self.known.take() {
            Some(known) => Some(known),
            None => self.nft.list(TABLE).await?.map(|listing| read(&listing)),
        };
        if let Some(script) = rules::difference(have.as_ref(), want) {
            tracing::debug!(lines = script.lines().count(), "applying packet rules");
            self.nft.apply(&script).await?;
        }
        self.known = Some(want.clone());
        Ok(have.map(|have| rules::stale(&have, want)).unwrap_or_default())
    }
}

/// The rule set in a listing of `nft --json list table`.
pub fn read(listing: &Value) -> Ruleset {
    let mut ruleset = Ruleset::default();
    for item in listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let Some((kind, body)) = item.as_object().and_then(|item| item.iter().next()) else { continue };
        let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "map" | "set" => {
                let elements = body["elem"].as_array().or(body["elements"].as_array());
                let elements = elements.map(Vec::as_slice).unwrap_or_default().iter().map(element).collect();
                ruleset.maps.insert(text("name"), Map { kind: String::new(), elements });
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
    ruleset
}

/// A map element is `[key, value]`, a set element is the key.
fn element(element: &Value) -> (String, String) {
    match element.as_array().map(Vec::as_slice) {
        Some([key, value]) => (words(key), words(value)),
        _ => (words(element), String::new()),
    }
}

/// An expression as nft writes it in a script.
fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(object) => match object.iter().next().map(|(name, value)| (name.as_str(), value)) {
            Some(("concat", Value::Array(parts))) => parts.iter().map(words).collect::<Vec<_>>().join(" . "),
            Some(("elem", inner)) => words(&inner["val"]),
            Some((verdict @ ("goto" | "jump"), target)) => {
                format!("{verdict} {}", target["target"].as_str().unwrap_or_default())
            }
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}
