//! Joining a cluster with a token: find out which cluster it is (`discover`), be issued a certificate as a node
//! (`certificates`), and from then on be that node. What was issued is kept in `DATA_DIR/agent/pki`, so that a node that
//! starts again needs no token.
//!
//! The kubelet is the node. Service proxy, DNS and pod network need to read what a kubelet may not, so the node asks for a
//! second client certificate for them (docs/adr/0009).

pub mod certificates;
mod discover;
pub mod skew;
pub mod token;

use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use component::Api;
use component::Context;
use component::identity::Identity;
use k8s_openapi::api::core::v1::Node;

use self::certificates::{Kept, Pair, Purpose};
use self::skew::Skew;
use self::token::JoinToken;
use crate::flags::{EgressSelectorMode, NodeFlags};

/// Where a node that has joined keeps its certificates, below its data directory.
const FOLDER: &str = "agent/pki";
/// The certificate that it is a client with, and its key.
const CLIENT: &str = "kubelet-client.pem";
/// The CA of its cluster.
const AUTHORITY: &str = "ca.crt";

/// How a node finds the cluster that it joins.
#[derive(Args, Clone, Debug, Default)]
pub struct JoinFlags {
    /// Server to join, such as https://192.0.2.1:6443
    #[arg(long, short = 's', env = "SKIFF_URL")]
    pub server: Option<String>,
    /// Token to join with, from DATA_DIR/server/node-token or `skiff token create`; not needed once the node has joined
    #[arg(long, short = 't', env = "SKIFF_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// File that holds the token
    #[arg(long, env = "SKIFF_TOKEN_FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// What the cluster's CA is known by, for a token that does not say: sha256: and the hash of its public key
    #[arg(long)]
    pub ca_cert_hash: Option<String>,
    /// What servers may reach on this node through the tunnels that it opens to them
    #[arg(long, value_enum, default_value_t)]
    pub egress_selector_mode: EgressSelectorMode,
}

impl JoinFlags {
    fn token(&self) -> Result<Option<JoinToken>> {
        let text = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(path)) => {
                std::fs::read_to_string(path).with_context(|| format!("--token-file: {}", path.display()))?
            }
            (None, None) => return Ok(None),
        };
        JoinToken::parse(&text, self.ca_cert_hash.as_deref()).context("--token").map(Some)
    }
}

/// What a node has that joined.
pub struct Joined {
    /// The server that it joined.
    pub server: String,
    /// The certificate that it is a client with.
    pub identity: Arc<Identity>,
    /// The API as the node.
    pub client: kube::Client,
    /// The API as the node's service proxy, DNS and pod network.
    pub network: kube::Client,
    /// The certificate of the kubelet's server; it comes once the node is registered.
    pub serving: Arc<Identity>,
    /// Who signs the certificates of the kubelet's clients, PEM.
    pub authority: String,
}

/// Joins, or goes on as the node that joined before; `None` when told to end first. `context` is without a client.
pub async fn join(server: &str, flags: &JoinFlags, node: &NodeFlags, base: &Base) -> Result<Option<Joined>> {
    let name = node.name()?;
    let folder = node.data_dir.join(FOLDER);
    let (path, authority_path) = (folder.join(CLIENT), folder.join(AUTHORITY));
    let before = Pair::read(&path)?.zip(std::fs::read_to_string(&authority_path).ok());
    let why = before.as_ref().map_or(Some(NEW.to_owned()), |(pair, _)| unusable(pair, &name, base));
    let (pair, authority) = match (before, why) {
        (Some(found), None) => found,
        (_, why) => {
            let token = flags.token()?.with_context(|| why.unwrap_or_default())?;
            let Some((pair, authority)) = bootstrap(server, &token, &name, base).await? else {
                return Ok(None);
            };
            apiserver::pki::write_if_changed(&authority_path, &authority)?;
            pair.write(&path)?;
            (pair, authority)
        }
    };
    let identity = pair.identity()?;
    let client = component::connect::with_identity(server, authority.as_bytes(), identity.clone())
        .context("--server")?;
    let network_path = folder.join("network.pem");
    let network_pair = match Pair::read(&network_path)?.filter(|pair| is_valid(pair, base)) {
        Some(pair) => pair,
        None => {
            let asking = certificates::request(&client, &name, &Purpose::Network);
            let Some(pair) = base.shutdown.run_until_cancelled(asking).await else { return Ok(None) };
            let pair = pair.context("a certificate for the service proxy")?;
            pair.write(&network_path)?;
            pair
        }
    };
    let network_identity = network_pair.identity()?;
    let network = component::connect::with_identity(server, authority.as_bytes(), network_identity.clone())
        .context("--server")?;
    let serving_path = folder.join("kubelet-serving.pem");
    let serving = Arc::new(Identity::default());
    if let Some(pair) = Pair::read(&serving_path)? {
        serving
            .replace(pair.certificate.as_bytes(), pair.key.as_bytes())
            .context("the serving certificate")?;
    }
    let context = base.context(client.clone());
    let address = node.address();
    let names = Purpose::Serving(vec![name.clone()], vec![address, IpAddr::from([127, 0, 0, 1])]);
    for (purpose, path, identity) in [
        (Purpose::Client, path, identity.clone()),
        (Purpose::Network, network_path, network_identity),
        (names, serving_path, serving.clone()),
    ] {
        let kept = Kept { node: name.clone(), purpose, path, identity };
        context.tasks.spawn(kept.keep(context.clone()));
    }
    Ok(Some(Joined { server: server.to_owned(), identity, client, network, serving, authority }))
}

/// The API as the node that has joined and has this data directory.
pub fn as_node(server: &str, data_dir: &Path) -> Result<kube::Client> {
    let (path, authority) = (data_dir.join(FOLDER).join(CLIENT), data_dir.join(FOLDER).join(AUTHORITY));
    let pair = Pair::read(&path)?.with_context(|| format!("there is no {}", path.display()))?;
    let authority =
        std::fs::read(&authority).with_context(|| format!("cannot read {}", authority.display()))?;
    component::connect::with_identity(server, &authority, pair.identity()?).context("--server")
}

/// A context that has no client yet.
pub struct Base {
    /// The time.
    pub clock: api_machinery::clock::Clock,
    /// Chance.
    pub entropy: api_machinery::entropy::Entropy,
    /// Owner of what is started.
    pub tasks: tokio_util::task::TaskTracker,
    /// When to end.
    pub shutdown: tokio_util::sync::CancellationToken,
}

impl Base {
    /// The context of a component with this client.
    pub fn context(&self, client: kube::Client) -> Context {
        Context {
            client,
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            tasks: self.tasks.clone(),
            shutdown: self.shutdown.clone(),
        }
    }
}

/// What a node hears that has nothing to join with.
const NEW: &str = "this node has not joined yet: give --token to join with";

/// Why a certificate from an earlier time is of no use to this node now, if so.
pub fn unusable(pair: &Pair, name: &str, base: &Base) -> Option<String> {
    let named = pem::parse(&pair.certificate).is_ok_and(|block| {
        x509_parser::parse_x509_certificate(block.contents()).is_ok_and(|(_, parsed)| {
            let mut names = parsed.subject().iter_common_name();
            names.next().and_then(|found| found.as_str().ok()) == Some(format!("system:node:{name}").as_str())
        })
    });
    if !named {
        return Some(format!("this node has not joined as {name:?} yet: give --token to join with"));
    }
    let Ok((begins, ends)) = pair.validity() else {
        return Some("this node's certificate cannot be read: give --token to join with".to_owned());
    };
    let now = base.clock.now();
    if begins <= now && now < ends {
        return None;
    }
    Some(format!(
        "this node's certificate is good from {} to {}, and its clock says {}: if that is wrong, set the clock (is NTP \
         running?); if it is right, give --token to join with",
        api_machinery::clock::rfc3339(begins),
        api_machinery::clock::rfc3339(ends),
        api_machinery::clock::rfc3339(now),
    ))
}

fn is_valid(pair: &Pair, base: &Base) -> bool {
    let now = base.clock.now();
    pair.validity().is_ok_and(|(begins, ends)| begins <= now && now < ends)
}

/// From a token to a certificate and the CA.
async fn bootstrap(
    server: &str,
    token: &JoinToken,
    name: &str,
    base: &Base,
) -> Result<Option<(Pair, String)>> {
    let found = discover::discover(server, token, || base.clock.now(), &base.shutdown).await?;
    let Some(found) = found else { return Ok(None) };
    let client = component::connect::with_token(server, found.authority.as_bytes(), &token.bearer());
    let client = client.context("--server")?;
    let asking = async {
        let nodes: Api<Node> = Api::all(client.clone());
        if let Some(node) = nodes.get_opt(name).await?
            && is_ready(&node)
        {
            bail!(
                "the name {name:?} is taken by a node that is alive; give this one another with --node-name, or delete \
                 the other (kubectl delete node {name}) after stopping it"
            );
        }
        agree(&client.apiserver_version().await?.git_version)?;
        certificates::request(&client, name, &Purpose::Client).await
    };
    let Some(result) = base.shutdown.run_until_cancelled(asking).await else { return Ok(None) };
    let pair = result.map_err(|error| match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) if status.code == 401 => discover::refused(&token.id, found.token),
        Some(other) => anyhow::anyhow!("cannot join {server}: {}", causes(other)),
        None => error,
    })?;
    tracing::info!(node = name, server, "joined");
    Ok(Some((pair, found.authority)))
}

/// Whether this node's version goes with the server's. A node that has joined is not asked again: it goes on when its
/// server is away, too.
fn agree(server: &str) -> Result<()> {
    match skew::judge(api_machinery::VERSION, server) {
        Skew::None => Ok(()),
        Skew::Warned(words) => {
            tracing::warn!("{words}");
            Ok(())
        }
        Skew::Refused(words) => bail!("{words}"),
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// An error with what led to it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(cause) = inner {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        inner = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use api_machinery::clock::Clock;
    use api_machinery::entropy::Entropy;
    use jiff::SignedDuration;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn pair(name: &str) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{name}"));
        params.not_before = rcgen::date_time_ymd(2026, 3, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    #[test]
    fn a_node_whose_clock_is_wrong_hears_of_the_clock() {
        let begins: jiff::Timestamp = "2026-03-01T00:00:00Z".parse().expect("a time");
        let why = |name: &str, at: SignedDuration| {
            let base = Base {
                clock: Clock::simulated(begins + at),
                entropy: Entropy::seeded(1),
                tasks: tokio_util::task::TaskTracker::new(),
                shutdown: tokio_util::sync::CancellationToken::new(),
            };
            unusable(&pair("a"), name, &base).unwrap_or_default()
        };
        assert_eq!(why("a", SignedDuration::from_mins(5)), "");
        let behind = why("a", SignedDuration::from_mins(-55));
        for words in
            ["its clock says 2026-02-28T23:05:00Z", "good from 2026-03-01T00:00:00Z", "set the clock"]
        {
            assert!(behind.contains(words), "{behind}");
        }
        assert!(
            why("a", SignedDuration::from_hours(31 * 24 + 1)).contains("its clock says 2026-04-01T01:00:00Z")
        );
        assert!(why("b", SignedDuration::from_mins(5)).contains("has not joined as \"b\" yet"));
    }
}
