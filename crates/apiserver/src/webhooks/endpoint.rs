//! Where a webhook is: what its configuration says of that, read once, and how TLS is spoken there.

use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use serde_json::Value;

use crate::references::text;

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

/// Where a webhook is, and by what it is known.
#[derive(Debug)]
pub struct Endpoint {
    /// Where connections go.
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

impl Endpoint {
    /// Reads a `clientConfig`. `query` begins with a question mark, or is empty.
    ///
    /// # Errors
    /// What it says is nowhere.
    pub fn of(client: &Value, query: &str) -> Result<Endpoint, String> {
        let (target, host, path) = place(client)?;
        let path_and_query = format!("{path}{query}");
        Ok(Endpoint {
            target,
            url: format!("https://{host}{path_and_query}"),
            path_and_query: if path_and_query.is_empty() { "/".to_owned() } else { path_and_query },
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
            let found = Endpoint::of(&client, "?timeout=10s").expect("a place");
            assert_eq!((&*found.server_name(), &*found.url), (server_name, url));
        }
        for nowhere in
            [json!({}), json!({"url": "/x"}), json!({"url": ""}), json!({"service": {"name": "s"}})]
        {
            Endpoint::of(&nowhere, "").expect_err("nowhere");
        }
    }
}
