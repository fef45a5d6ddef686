//! A webhook as it is stored, read once for as long as its configuration does not change.

use std::sync::Arc;
use std::time::Duration;

use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use cel::conditions::{self, Conditions};
use serde_json::Value;

use super::endpoint::Endpoint;
use super::matching::Matching;
use super::review::Version;
use crate::references::{items, text};

/// One webhook.
#[derive(Debug)]
pub struct Hook {
    /// Its own name.
    pub name: String,
    /// What it is asked about.
    pub matching: Matching,
    /// What must hold of a request besides.
    pub conditions: Conditions,
    /// Whether a request goes on when it does not answer.
    pub ignores_failure: bool,
    /// Whether it is asked again when a later one has changed the object.
    pub reinvoke: bool,
    /// Whether it may be asked when nothing will be stored.
    pub harmless: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// The review it understands; none is known if there is none.
    pub version: Option<Version>,
    /// Where it is.
    pub endpoint: Endpoint,
}

/// The webhooks of configurations in the order in which they are asked: those of the first configuration by name first.
/// What cannot be read was stored by nobody; it is left out and complained about.
pub fn compile(mut configurations: Vec<Arc<Value>>) -> Vec<Hook> {
    configurations.sort_by(|a, b| meta::name(a).cmp(meta::name(b)));
    let mut hooks = Vec::new();
    for configuration in &configurations {
        for webhook in items(configuration, "webhooks") {
            match Hook::of(webhook) {
                Ok(hook) => hooks.push(hook),
                Err(why) => {
                    let (configuration, webhook) = (meta::name(configuration), text(webhook, "/name"));
                    tracing::error!(configuration, webhook, why, "a webhook that cannot be asked");
                }
            }
        }
    }
    hooks
}

impl Hook {
    fn of(webhook: &Value) -> Result<Hook, String> {
        let seconds = webhook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30);
        let endpoint = Endpoint::of(&webhook["clientConfig"], &format!("?timeout={seconds}s"))?;
        let mut errors = Errors::new();
        let (environment, path_of) = (conditions::environment(), Path::new("matchConditions"));
        let conditions =
            Conditions::compile(&webhook["matchConditions"], &environment, &path_of, &mut errors);
        if let Some(error) = errors.iter().next() {
            return Err(error.to_string());
        }
        Ok(Hook {
            name: text(webhook, "/name").to_owned(),
            matching: Matching::of(webhook).map_err(|error| error.to_string())?,
            conditions,
            ignores_failure: webhook["failurePolicy"] == "Ignore",
            reinvoke: webhook["reinvocationPolicy"] == "IfNeeded",
            harmless: matches!(text(webhook, "/sideEffects"), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(seconds),
            version: Version::first_of(items(webhook, "admissionReviewVersions").filter_map(Value::as_str)),
            endpoint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_configuration_by_name_comes_first() {
        let configuration = |name: &str, webhooks: &[&str]| {
            let webhooks: Vec<Value> = webhooks
                .iter()
                .map(|name| json!({"name": name, "clientConfig": {"url": "https://a"}}))
                .collect();
            Arc::new(json!({"metadata": {"name": name}, "webhooks": webhooks}))
        };
        let broken = Arc::new(json!({"metadata": {"name": "a"}, "webhooks": [{"name": "x"}]}));
        let hooks = compile(vec![configuration("c", &["3"]), broken, configuration("b", &["2", "1"])]);
        assert_eq!(hooks.iter().map(|hook| &*hook.name).collect::<Vec<_>>(), ["2", "1", "3"]);
    }
}
