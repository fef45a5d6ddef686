//! Joining a cluster with a token: find out which cluster it is (`discover`), be issued a certificate as a node
//! (`certificates`), and from then on be that node. What was issued is kept in `DATA_DIR/agent/pki`, so that a node that
//! starts again needs no token.
//!
//! The kubelet is the node. Service proxy, DNS and pod network need to read what a kubelet may not, so the node asks for a
//! second client certificate for them (docs/adr/0009).

pub mod certificates;
mod discover;
mod skew;
pub mod token;

use std::net::IpAddr;
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
    let folder = node.data_dir.join("agent/pki");
    let (path, authority_path) = (folder.join("kubelet-client.pem"), folder.join("ca.crt"));
    let before = Pair::read(&path)?.zip(std::fs::read_to_string(&authority_path).ok());
    let usable = before.filter(|(pair, _)| usable(pair, &name, base));
    let (pair, authority) = match usable {
        Some(found) => found,
        None => {
            let token = flags.token()?.context(
                "this node has not joined yet, or its certificate is no longer good: give --token to join with",
            )?;
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
    let address = node.node_ip.unwrap_or_else(host::system::primary_address);
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

/// Whether a certificate from an earlier time is still this node's and good.
pub fn usable(pair: &Pair, name: &str, base: &Base) -> bool {
    let named = pem::parse(&pair.certificate).is_ok_and(|block| {
        x509_parser::parse_x509_certificate(block.contents()).is_ok_and(|(_, parsed)| {
            let mut names = parsed.subject().iter_common_name();
            names.next().and_then(|found| found.as_str().ok()) == Some(format!("system:node:{name}").as_str())
        })
    });
    named && is_valid(pair, base)
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
