//! `skiff token`: bootstrap tokens, which are Secrets like any other, made, listed and deleted through the API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use api_machinery::clock::{Clock, rfc3339};
use api_machinery::entropy::Entropy;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use component::Api;
use controllers::bootstrap_tokens::{NAMESPACE, TYPE};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, ListParams, PostParams};

use crate::join::token::{JoinToken, split};

/// Letters and digits of tokens.
const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// By which stock kubeadm and the policy know tokens that nodes join with.
const GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";

/// What `skiff token` is told.
#[derive(Args, Clone, Debug)]
pub struct TokenFlags {
    /// Everything the server keeps lies below this folder
    #[arg(long, short = 'd', global = true, env = "SKIFF_DATA_DIR", default_value = "/var/lib/skiff")]
    data_dir: PathBuf,
    /// The administrator's kubeconfig; DATA_DIR/server/cred/admin.kubeconfig by default
    #[arg(long, global = true)]
    kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum TokenCommand {
    /// Make a token and print the command by which a node joins with it
    Create {
        /// How long the token is good, such as 30m, 24h or 2h30m; 0 for ever
        #[arg(long, default_value = "24h", value_parser = duration)]
        ttl: SignedDuration,
        /// The token, as ID.SECRET; by default one is made up
        token: Option<String>,
        /// What the token is for, for people who see it in lists
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List tokens, without their secret part
    List,
    /// Delete tokens, by their ids or as a whole; nodes that have joined stay
    Delete {
        /// The tokens
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    if text == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let parsed: SignedDuration =
        text.parse().map_err(|error| format!("not a duration such as 24h: {error}"))?;
    if parsed.is_negative() { Err("must not be negative".to_owned()) } else { Ok(parsed) }
}

/// Does what was asked.
pub async fn run(flags: TokenFlags) -> Result<()> {
    let default = flags.data_dir.join("server/cred/admin.kubeconfig");
    let path = flags.kubeconfig.clone().unwrap_or(default);
    let client = component::connect::from_kubeconfig(&path)?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    match flags.command {
        TokenCommand::Create { ttl, token, description } => {
            let token = token.unwrap_or_else(|| make(&Entropy::from_os()));
            let expiration = (!ttl.is_zero()).then(|| Clock::system().now() + ttl);
            let secret = secret(&token, expiration, &description)?;
            secrets.create(&PostParams::default(), &secret).await.context("cannot make the token")?;
            let (server, authority) = cluster(&client).await?;
            println!("skiff agent --server {server} --token {}", JoinToken::full(&token, &authority));
        }
        TokenCommand::List => {
            let found = secrets.list(&ListParams::default().fields(&format!("type={TYPE}"))).await?;
            print!("{}", table(&found.items));
        }
        TokenCommand::Delete { tokens } => {
            for token in tokens {
                let id = id(&token)?;
                let name = format!("bootstrap-token-{id}");
                match secrets.delete(&name, &DeleteParams::default()).await {
                    Ok(_) => println!("token {id} deleted"),
                    Err(kube::Error::Api(status)) if status.code == 404 => bail!("there is no token {id}"),
                    Err(error) => return Err(error).with_context(|| format!("cannot delete token {id}")),
                }
            }
        }
    }
    Ok(())
}

/// Makes up a token.
fn make(entropy: &Entropy) -> String {
    let letters = |count: usize| -> String {
        (0..count)
            .map(|_| {
                let index = usize::try_from(entropy.below(ALPHABET.len() as u64)).unwrap_or(0);
                char::from(ALPHABET[index])
            })
            .collect()
    };
    format!("{}.{}", letters(6), letters(16))
}

/// The id of a token, of which an id, `ID.SECRET` or the full form was given.
fn id(token: &str) -> Result<String> {
    let short = token.rsplit_once("::").map_or(token, |(_, short)| short);
    let id = short.split_once('.').map_or(short, |(id, _)| id);
    split(&format!("{id}.0000000000000000")).map(|(id, _)| id.to_owned())
}

/// The Secret that a token is.
fn secret(token: &str, expiration: Option<Timestamp>, description: &str) -> Result<Secret> {
    let (id, secret) = split(token)?;
    let mut data: BTreeMap<String, String> = [
        ("token-id", id),
        ("token-secret", secret),
        ("usage-bootstrap-authentication", "true"),
        ("usage-bootstrap-signing", "true"),
        ("auth-extra-groups", GROUP),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    if let Some(expiration) = expiration {
        data.insert("expiration".to_owned(), rfc3339(expiration));
    }
    if !description.is_empty() {
        data.insert("description".to_owned(), description.to_owned());
    }
    let mut made = Secret { type_: Some(TYPE.to_owned()), string_data: Some(data), ..Secret::default() };
    made.metadata.name = Some(format!("bootstrap-token-{id}"));
    Ok(made)
}

fn table(tokens: &[Secret]) -> String {
    let mut lines = vec![["TOKEN", "EXPIRES", "USAGES", "DESCRIPTION"].map(str::to_owned)];
    for token in tokens {
        let entry = |key: &str| {
            let bytes = token.data.as_ref().and_then(|data| data.get(key));
            bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
        };
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        let usages: Vec<&str> = ["authentication", "signing"]
            .into_iter()
            .filter(|usage| entry(&format!("usage-bootstrap-{usage}")) == "true")
            .collect();
        let (expires, words) = (or(entry("expiration"), "<never>"), or(entry("description"), "<none>"));
        lines.push([entry("token-id"), expires, or(usages.join(","), "<none>"), words]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let text = |line: &[String; 4]| {
        format!(
            "{:a$}   {:b$}   {:c$}   {}\n",
            line[0],
            line[1],
            line[2],
            line[3],
            a = widths[0],
            b = widths[1],
            c = widths[2]
        )
    };
    lines.iter().map(text).collect()
}

/// The server's address and the CA, as nodes that join are told.
async fn cluster(client: &kube::Client) -> Result<(String, String)> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-public");
    let info =
        maps.get("cluster-info").await.context("the token is made, but cluster-info cannot be read")?;
    let text = info.data.as_ref().and_then(|data| data.get("kubeconfig")).context("cluster-info is empty")?;
    let value = |key: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix(key)).map(|value| value.trim().to_owned())
    };
    let server = value("server:").context("cluster-info names no server")?;
    let authority = value("certificate-authority-data:").and_then(|data| STANDARD.decode(data).ok());
    let authority = authority.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok((server, authority.context("cluster-info holds no CA")?))
}

/// At the first start of a server: a token that does not expire, in the file that nodes' administrators look for. Who
/// deletes the token later has deleted it for good.
pub async fn first(client: &kube::Client, data_dir: &Path, authority: &str, entropy: &Entropy) -> Result<()> {
    let path = data_dir.join("server/node-token");
    if path.exists() {
        return Ok(());
    }
    let token = make(entropy);
    let secret = secret(&token, None, "made at the first start of the server")?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    secrets.create(&PostParams::default(), &secret).await.context("the first token")?;
    let text = format!("{}\n", JoinToken::full(&token, authority));
    apiserver::pki::write_private(&path, text.as_bytes()).context("the first token")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_secrets() {
        let token = make(&Entropy::seeded(1));
        assert!(split(&token).is_ok(), "{token}");
        assert_ne!(token, make(&Entropy::seeded(2)));
        let end: Timestamp = "2026-01-02T00:00:00Z".parse().expect("a time");
        let made = secret("abcdef.0123456789abcdef", Some(end), "for me").expect("a token");
        assert_eq!(made.metadata.name.as_deref(), Some("bootstrap-token-abcdef"));
        let data = made.string_data.expect("data");
        assert_eq!(data["expiration"], "2026-01-02T00:00:00Z");
        assert_eq!(data["auth-extra-groups"], GROUP);
        assert!(secret("abcdef", None, "").is_err());
    }

    #[test]
    fn ids_and_durations_as_people_write_them() {
        for token in ["abcdef", "abcdef.0123456789abcdef", "K10aa::abcdef.0123456789abcdef"] {
            assert_eq!(id(token).expect(token), "abcdef");
        }
        assert!(id("abc").is_err());
        assert_eq!(duration("24h"), Ok(SignedDuration::from_hours(24)));
        assert_eq!(duration("1h30m"), Ok(SignedDuration::from_mins(90)));
        assert_eq!(duration("0"), Ok(SignedDuration::ZERO));
        assert!(duration("-1h").is_err() && duration("soon").is_err());
    }

    #[test]
    fn lists_show_no_secrets() {
        let mut made = secret("abcdef.0123456789abcdef", None, "for me").expect("a token");
        let data = made.string_data.take().expect("data").into_iter();
        made.data =
            Some(data.map(|(key, value)| (key, k8s_openapi::ByteString(value.into_bytes()))).collect());
        let text = table(&[made]);
        assert_eq!(
            text,
            "TOKEN    EXPIRES   USAGES                   DESCRIPTION\n\
             abcdef   <never>   authentication,signing   for me\n"
        );
    }
}
