//! A webhook as it is stored, read once for as long as its configuration does not change.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cel::conditions::{self, Conditions};
use rustls::ClientConfig;
use serde_json::Value;

use super::matching::Matching;
use super::review::Version;
use crate::references::{items, text};

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Outside, or wherever its name leads.
    Url {
        /// The host and the port.
        host: String,
        /// 443 if the URL does not say.
        port: u16,
    },
    /// A Service of this cluster.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its port.
        port: u16,
    },
}

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
    pub target: Target,
    /// The path and the query of its requests.
    pub path_and_query: String,
    /// The same with scheme and host, as errors name it.
    pub url: String,
    /// Who vouches for it, in PEM; the system's authorities if it is empty.
    pub authorities: Vec<u8>,
    /// How TLS is spoken with it, once somebody has.
    pub tls: OnceLock<Result<Arc<ClientConfig>, String>>,
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
        let client = &webhook["clientConfig"];
        let (target, host, path) = place(client)?;
        let mut errors = Errors::new();
        let (environment, path_of) = (conditions::environment(), Path::new("matchConditions"));
        let conditions =
            Conditions::compile(&webhook["matchConditions"], &environment, &path_of, &mut errors);
        if let Some(error) = errors.iter().next() {
            return Err(error.to_string());
        }
        let path_and_query = format!("{path}?timeout={seconds}s");
        Ok(Hook {
            name: text(webhook, "/name").to_owned(),
            matching: Matching::of(webhook).map_err(|error| error.to_string())?,
            conditions,
            ignores_failure: webhook["failurePolicy"] == "Ignore",
            reinvoke: webhook["reinvocationPolicy"] == "IfNeeded",
            harmless: matches!(text(webhook, "/sideEffects"), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(seconds),
            version: Version::first_of(items(webhook, "admissionReviewVersions").filter_map(Value::as_str)),
            target,
            url: format!("https://{host}{path_and_query}"),
            path_and_query,
            authorities: STANDARD.decode(text(client, "/caBundle")).map_err(|error| error.to_string())?,
            tls: OnceLock::new(),
        })
    }

    /// The name that its certificate must be for, and that requests call it by.
    pub fn server_name(&self) -> String {
        match &self.target {
            Target::Url { host, .. } => host.clone(),
            Target::Service { namespace, name, .. } => format!("{name}.{namespace}.svc"),
        }
    }
}

/// Where a webhook is, its host as a URL has it, and the path.
fn place(client: &Value) -> Result<(Target, String, String), String> {
    if let Some(url) = client["url"].as_str() {
        let uri: http::Uri =
            url.parse().map_err(|error: http::uri::InvalidUri| format!("{url:?}: {error}"))?;
        let authority = uri.authority().ok_or_else(|| format!("{url:?} has no host"))?;
        // An IPv6 address has brackets in a URL and nowhere else.
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let target = Target::Url { host, port: authority.port_u16().unwrap_or(443) };
        let path = if url.ends_with('/') || uri.path() != "/" { uri.path() } else { "" };
        return Ok((target, authority.as_str().to_owned(), path.to_owned()));
    }
    let service = &client["service"];
    let port = service["port"].as_u64().unwrap_or(443);
    let port = u16::try_from(port).map_err(|_| format!("{port} is no port"))?;
    let (namespace, name) = (text(service, "/namespace").to_owned(), text(service, "/name").to_owned());
    if namespace.is_empty() || name.is_empty() {
        return Err("neither a URL nor a Service".to_owned());
    }
    let path = text(service, "/path").trim_start_matches('/');
    let host = format!("{name}.{namespace}.svc:{port}");
    Ok((Target::Service { namespace, name, port }, host, format!("/{path}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn where_webhooks_are() {
        let service = |path: Value| json!({"service": {"namespace": "n", "name": "s", "path": path}});
        for (client, server_name, url) in [
            (json!({"url": "https://a.example.com"}), "a.example.com", "https://a.example.com?timeout=10s"),
            (json!({"url": "https://a:8443/x/y"}), "a", "https://a:8443/x/y?timeout=10s"),
            (json!({"url": "https://[::1]:9/"}), "::1", "https://[::1]:9/?timeout=10s"),
            (service(json!("/p")), "s.n.svc", "https://s.n.svc:443/p?timeout=10s"),
            (service(Value::Null), "s.n.svc", "https://s.n.svc:443/?timeout=10s"),
        ] {
            let hook = Hook::of(&json!({"name": "w", "clientConfig": client})).expect("a place");
            assert_eq!((&*hook.server_name(), &*hook.url), (server_name, url));
        }
        for nowhere in
            [json!({}), json!({"url": "/x"}), json!({"url": ""}), json!({"service": {"name": "s"}})]
        {
            Hook::of(&json!({"name": "w", "clientConfig": nowhere})).expect_err("nowhere");
        }
    }

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
