//! Which cluster is it? A node that knows nothing but an address asks whoever answers there for `cluster-info`, and believes
//! it only if the CA in it has the hash that the node was told. Until then nothing secret is sent.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api_machinery::decode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use controllers::bootstrap_tokens::cluster_info::signature;
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use tokio_util::sync::CancellationToken;

use super::token::JoinToken;

const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
/// Certificates begin five minutes before they are made: clocks that differ by more cannot use them.
const CLOCKS: SignedDuration = SignedDuration::from_mins(4);
/// Between attempts to reach a server that is not there yet.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// What `cluster-info` may hold at most.
const MOST: usize = 1 << 20;

/// What was learnt, and is true.
pub struct Found {
    /// The cluster's CA in PEM.
    pub authority: String,
    /// What the server thinks of the token.
    pub token: TokenState,
}

/// What `cluster-info` says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Its signature is there and right.
    Known,
    /// A token with this id has another secret.
    OtherSecret,
    /// There is none with this id: expired, deleted, or not published yet.
    Unknown,
}

#[expect(clippy::large_enum_variant, reason = "there is one at a time, and it is taken apart at once")]
enum Attempt {
    /// Nobody is there, or not ready: worth another attempt.
    NotYet(String),
    Answered {
        kubeconfig: String,
        info: ConfigMap,
    },
}

/// Asks until somebody answers.
pub async fn discover(
    server: &str,
    token: &JoinToken,
    now: impl Fn() -> Timestamp,
    shutdown: &CancellationToken,
) -> Result<Option<Found>> {
    let client = component::connect::unverified(server).context("--server")?;
    let mut pause = PAUSE.0;
    let mut told = String::new();
    loop {
        let Some(attempt) = shutdown.run_until_cancelled(ask(&client, server, &now)).await else {
            return Ok(None);
        };
        match attempt? {
            Attempt::Answered { kubeconfig, info } => {
                return judge(server, token, &kubeconfig, &info).map(Some);
            }
            Attempt::NotYet(why) => {
                if why != told {
                    tracing::info!(server, why, "the server cannot be asked yet; trying again");
                    told = why;
                }
            }
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(None);
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

async fn ask(client: &kube::Client, server: &str, now: &impl Fn() -> Timestamp) -> Result<Attempt> {
    let request = http::Request::get(CLUSTER_INFO).header("accept", "application/json");
    let request = request.body(kube::client::Body::empty()).context("a request")?;
    let response = match client.send(request).await {
        Ok(response) => response,
        Err(error) => return Ok(Attempt::NotYet(super::causes(&error))),
    };
    let theirs =
        response.headers().get(http::header::DATE).and_then(|date| date.to_str().ok()).and_then(date);
    if let Some(theirs) = theirs {
        compare_clocks(server, now(), theirs)?;
    }
    let status = response.status();
    if status.is_server_error() || matches!(status.as_u16(), 404 | 429) {
        return Ok(Attempt::NotYet(format!("cluster-info: HTTP {status}")));
    }
    if !status.is_success() {
        bail!("{server} does not tell nodes which cluster it is (cluster-info: HTTP {status})");
    }
    let body = http_body_util::Limited::new(response.into_body(), MOST).collect().await;
    let body = match body {
        Ok(body) => body.to_bytes(),
        Err(error) => return Ok(Attempt::NotYet(error.to_string())),
    };
    let info: ConfigMap = serde_json::from_slice(&body).context("cluster-info is not a ConfigMap")?;
    let kubeconfig = info.data.as_ref().and_then(|data| data.get("kubeconfig")).cloned();
    Ok(match kubeconfig {
        Some(kubeconfig) => Attempt::Answered { kubeconfig, info },
        None => Attempt::NotYet("cluster-info holds no kubeconfig".to_owned()),
    })
}

/// `Wed, 25 Nov 2026 15:00:00 GMT`
fn date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::parse(text).ok().map(|zoned| zoned.timestamp())
}

/// Certificates mean nothing to a node whose clock is wrong, and it would not know why.
fn compare_clocks(server: &str, ours: Timestamp, theirs: Timestamp) -> Result<()> {
    let apart = ours.duration_since(theirs);
    if apart.abs() <= CLOCKS {
        return Ok(());
    }
    let seconds = apart.abs().as_secs();
    let direction = if apart.is_negative() { "behind" } else { "ahead of" };
    bail!(
        "the clocks differ: this node's says {}, that of {server} says {}, so this one is {seconds} s {direction} it; \
         certificates cannot be checked until both are right (is NTP running on both?)",
        api_machinery::clock::rfc3339(ours),
        api_machinery::clock::rfc3339(theirs),
    )
}

#[derive(serde::Deserialize)]
struct Kubeconfig {
    clusters: Vec<Named>,
}

#[derive(serde::Deserialize)]
struct Named {
    cluster: Cluster,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    certificate_authority_data: String,
}

/// Whether it is the cluster that was meant.
fn judge(server: &str, token: &JoinToken, kubeconfig: &str, info: &ConfigMap) -> Result<Found> {
    // Whoever answers has not shown yet who it is: what it says is read within the bounds of all that comes from outside.
    let parsed = decode::yaml(kubeconfig.as_bytes(), None).context("the kubeconfig in cluster-info")?;
    let parsed: Kubeconfig =
        serde_json::from_value(parsed.value).context("the kubeconfig in cluster-info")?;
    let cluster =
        parsed.clusters.into_iter().next().context("the kubeconfig in cluster-info names no cluster")?;
    let authority = STANDARD.decode(cluster.cluster.certificate_authority_data.trim()).ok();
    let authority = authority.and_then(|bytes| String::from_utf8(bytes).ok());
    let authority = authority.context("the CA in cluster-info is not PEM in base64")?;
    let authority = match token.pin.choose(&authority) {
        Ok(authority) => authority,
        Err(found) => bail!(
            "the CA of {server} is not the one that the token is for: its hash is {found} and not {}; this is another \
             cluster, or somebody stands between",
            token.pin
        ),
    };
    let key = format!("jws-kubeconfig-{}", token.id);
    let signed = info.data.as_ref().and_then(|data| data.get(&key));
    let state = match signed {
        None => TokenState::Unknown,
        Some(signed) if *signed == signature(kubeconfig, &token.id, &token.secret) => TokenState::Known,
        Some(_) => TokenState::OtherSecret,
    };
    Ok(Found { authority, token: state })
}

/// Why the server refused a token, as far as can be told.
pub fn refused(id: &str, state: TokenState) -> anyhow::Error {
    match state {
        TokenState::OtherSecret => anyhow::anyhow!(
            "the server refuses the token: there is a token {id}, but its secret is another; is it mistyped?"
        ),
        _ => anyhow::anyhow!(
            "the server refuses the token: there is no token {id} (any more): it has expired, was deleted, or never was; \
             `skiff token create` on a server makes another"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::token::{Pin, sha256};
    use super::*;

    #[test]
    fn clocks() {
        let theirs = date("Wed, 25 Nov 2026 15:00:00 GMT").expect("a date");
        assert_eq!(theirs, "2026-11-25T15:00:00Z".parse().expect("a time"));
        for (seconds, good) in [(0, true), (239, true), (-239, true), (3600, false), (-3600, false)] {
            let ours = theirs + SignedDuration::from_secs(seconds);
            let result = compare_clocks("https://a:6443", ours, theirs);
            assert_eq!(result.is_ok(), good, "{seconds}");
            if let Err(error) = result {
                let words = error.to_string();
                assert!(words.contains("2026-11-25T15:00:00Z") && words.contains("3600 s"), "{words}");
            }
        }
    }

    #[test]
    fn who_is_believed() {
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let kubeconfig = controllers::bootstrap_tokens::cluster_info::kubeconfig("https://a:6443", pem);
        let mut info = ConfigMap::default();
        info.data
            .get_or_insert_default()
            .insert("jws-kubeconfig-abcdef".to_owned(), signature(&kubeconfig, "abcdef", "right"));
        let token = |id: &str, secret: &str, pin: &str| JoinToken {
            id: id.to_owned(),
            secret: secret.to_owned(),
            pin: Pin::Pem(pin.to_owned()),
        };
        let hash = sha256(pem.as_bytes());
        let state = |id: &str, secret: &str| {
            judge("s", &token(id, secret, &hash), &kubeconfig, &info).expect("the right one").token
        };
        assert_eq!(state("abcdef", "right"), TokenState::Known);
        assert_eq!(state("abcdef", "wrong"), TokenState::OtherSecret);
        assert_eq!(state("uvwxyz", "right"), TokenState::Unknown);
        let error = judge("s", &token("abcdef", "right", "00"), &kubeconfig, &info).err().expect("another");
        assert!(error.to_string().contains(&hash), "{error}");
        let bomb = (1..30).fold("a0: &a0 [x]\n".to_owned(), |text, at| {
            format!("{text}a{at}: &a{at} [{}]\n", vec![format!("*a{}", at - 1); 9].join(", "))
        });
        for text in [&*bomb, "{", "clusters: []", "clusters: 1"] {
            let error = judge("s", &token("abcdef", "right", &hash), text, &info).err().expect(text);
            assert!(error.to_string().contains("the kubeconfig in cluster-info"), "{error}");
        }
    }
}
