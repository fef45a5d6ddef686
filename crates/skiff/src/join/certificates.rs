//! Certificates by CertificateSigningRequest: keys are made here and never leave the node, what the controllers sign comes
//! back by watch, and is renewed between 70% and 90% of its life while everything runs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use api_machinery::entropy::Entropy;
use component::Api;
use component::Context;
use component::identity::Identity;
use controllers::certificates::{API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, NODE_NETWORK};
use futures::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::api::{PostParams, WatchEvent, WatchParams};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};

/// Between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// A deadline is looked at again after this time at the latest: machines are suspended and clocks are set.
const NAP: Duration = Duration::from_secs(3600);
/// How long a server lets a watch go on.
const WATCH_SECONDS: u32 = 290;

/// What a node has certificates for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// To be a client of the API server.
    Client,
    /// To be a client of the API server as the node's service proxy and pod network.
    Network,
    /// To be a server, at these names and addresses.
    Serving(Vec<String>, Vec<IpAddr>),
}

/// A certificate and its key in PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Pair {
    /// From the file in which both are; `None` if there is none.
    pub fn read(path: &Path) -> Result<Option<Pair>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let blocks = pem::parse_many(&text).with_context(|| format!("{} is damaged", path.display()))?;
        let part = |wanted: &dyn Fn(&str) -> bool| {
            let found: Vec<pem::Pem> = blocks.iter().filter(|block| wanted(block.tag())).cloned().collect();
            pem::encode_many_config(&found, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
        };
        let pair = Pair {
            certificate: part(&|tag| tag == "CERTIFICATE"),
            key: part(&|tag| tag.ends_with("PRIVATE KEY")),
        };
        Ok(Some(pair))
    }

    /// Writes both into one file, which is whole or not there.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = format!("{}{}", self.certificate, self.key);
        apiserver::pki::write_private(path, text.as_bytes()).map_err(Into::into)
    }

    /// As what TLS uses.
    pub fn identity(&self) -> Result<Arc<Identity>> {
        Identity::from_pem(self.certificate.as_bytes(), self.key.as_bytes()).context("a certificate")
    }

    /// From when until when it is good.
    pub fn validity(&self) -> Result<(Timestamp, Timestamp)> {
        let block = pem::parse(&self.certificate).context("a certificate")?;
        let (_, parsed) = x509_parser::parse_x509_certificate(block.contents()).context("a certificate")?;
        let at = |second: i64| Timestamp::from_second(second).context("the dates of a certificate");
        let validity = parsed.validity();
        Ok((at(validity.not_before.timestamp())?, at(validity.not_after.timestamp())?))
    }
}

/// When a certificate is renewed: `chance`, between 0 and 1, chooses a moment between 70% and 90% of its life.
pub fn renewal((begins, ends): (Timestamp, Timestamp), chance: f64) -> Timestamp {
    let life = ends.duration_since(begins).as_secs_f64();
    let seconds = life * (0.7 + 0.2 * chance.clamp(0.0, 1.0));
    begins + SignedDuration::from_secs(seconds as i64)
}

/// Asks for a certificate and waits for it, however long it takes somebody to approve it.
pub async fn request(client: &kube::Client, node: &str, purpose: &Purpose) -> Result<Pair> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut params = CertificateParams::new(Vec::new()).context("a request")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let (group, name) = match purpose {
        Purpose::Network => (NODE_NETWORK, format!("{NODE_NETWORK}:{node}")),
        _ => ("system:nodes", format!("system:node:{node}")),
    };
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, name);
    let (signer, usage) = match purpose {
        Purpose::Network => (API_CLIENT, "client auth"),
        Purpose::Client => (KUBELET_CLIENT, "client auth"),
        Purpose::Serving(names, addresses) => {
            for name in names {
                params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into().context("a name")?));
            }
            params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
            (KUBELET_SERVING, "server auth")
        }
    };
    let pkcs10 = params.serialize_request(&key).context("a request")?.pem().context("a request")?;
    let mut wanted = CertificateSigningRequest {
        spec: CertificateSigningRequestSpec {
            request: ByteString(pkcs10.into_bytes()),
            signer_name: signer.to_owned(),
            usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        ..CertificateSigningRequest::default()
    };
    wanted.metadata.generate_name = Some("csr-".to_owned());
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let made = api.create(&PostParams::default(), &wanted).await?;
    let certificate = wait(&api, made).await?;
    Ok(Pair { certificate, key: key.serialize_pem() })
}

/// The certificate of a request, once it is there.
async fn wait(api: &Api<CertificateSigningRequest>, mut known: CertificateSigningRequest) -> Result<String> {
    let name = known.metadata.name.clone().unwrap_or_default();
    tracing::debug!(request = name, "waiting for a certificate");
    loop {
        if let Some(certificate) = outcome(&known)? {
            return Ok(certificate);
        }
        let parameters =
            WatchParams::default().fields(&format!("metadata.name={name}")).timeout(WATCH_SECONDS);
        let from = known.metadata.resource_version.clone().unwrap_or_default();
        let mut events = std::pin::pin!(api.watch(&parameters, &from).await?);
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(request) | WatchEvent::Modified(request) => {
                    if let Some(certificate) = outcome(&request)? {
                        return Ok(certificate);
                    }
                }
                WatchEvent::Deleted(_) => bail!("the request {name} was deleted before it was signed"),
                WatchEvent::Error(_) | WatchEvent::Bookmark(_) => break,
            }
        }
        tracing::info!(
            request = name,
            "still waiting for a certificate; `kubectl certificate approve` approves it"
        );
        known = api.get(&name).await?;
    }
}

fn outcome(request: &CertificateSigningRequest) -> Result<Option<String>> {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    for condition in conditions.into_iter().flatten() {
        if matches!(condition.type_.as_str(), "Denied" | "Failed") {
            let why = condition.message.clone().or(condition.reason.clone()).unwrap_or_default();
            bail!("the request for a certificate was refused ({}): {why}", condition.type_);
        }
    }
    let certificate = status.and_then(|status| status.certificate.as_ref());
    let Some(certificate) = certificate.filter(|certificate| !certificate.0.is_empty()) else {
        return Ok(None);
    };
    Ok(Some(String::from_utf8(certificate.0.clone()).context("the certificate is not text")?))
}

/// A certificate that is kept good.
pub struct Kept {
    /// Whose.
    pub node: String,
    /// What for.
    pub purpose: Purpose,
    /// Where it is kept.
    pub path: PathBuf,
    /// Who uses it.
    pub identity: Arc<Identity>,
}

impl Kept {
    /// Renews it whenever it is time, until shutdown. Its first one comes the same way.
    pub async fn keep(self, context: Context) {
        let shutdown = context.shutdown.clone();
        shutdown.run_until_cancelled(self.forever(&context)).await;
    }

    async fn forever(&self, context: &Context) {
        let mut pause = PAUSE.0;
        loop {
            let due = self.due(context);
            let left = due.duration_since(context.clock.now());
            if left > SignedDuration::ZERO {
                tokio::time::sleep(left.unsigned_abs().min(NAP)).await;
                continue;
            }
            match self.renew(context).await {
                Ok(()) => pause = PAUSE.0,
                Err(error) => {
                    tracing::warn!(
                        purpose = self.word(),
                        error = format!("{error:#}"),
                        "no new certificate; trying again"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    fn word(&self) -> &'static str {
        match self.purpose {
            Purpose::Client => "client",
            Purpose::Network => "network",
            Purpose::Serving(..) => "serving",
        }
    }

    /// When the next one is needed: at once if there is none.
    fn due(&self, context: &Context) -> Timestamp {
        let validity = Pair::read(&self.path).and_then(|pair| pair.map(|pair| pair.validity()).transpose());
        match validity {
            // The same certificate has the same moment, whenever it is asked for.
            Ok(Some(validity)) => renewal(validity, chance_of(validity)),
            Ok(None) => context.clock.now(),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "a certificate cannot be used and is replaced");
                context.clock.now()
            }
        }
    }

    async fn renew(&self, context: &Context) -> Result<()> {
        let pair = request(&context.client, &self.node, &self.purpose).await?;
        pair.write(&self.path)?;
        self.identity.replace(pair.certificate.as_bytes(), pair.key.as_bytes())?;
        tracing::info!(purpose = self.word(), "a new certificate is in use");
        Ok(())
    }
}

/// Nodes that joined together do not renew together.
fn chance_of(validity: (Timestamp, Timestamp)) -> f64 {
    Entropy::seeded(
        validity.0.as_second().unsigned_abs() ^ validity.1.as_second().unsigned_abs().rotate_left(17),
    )
    .unit_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn renewal_comes_late_but_in_time() {
        let begins: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let ends = begins + SignedDuration::from_hours(100);
        for (chance, hours) in [(0.0, 70), (0.5, 80), (1.0, 90), (7.0, 90)] {
            let at = renewal((begins, ends), chance).duration_since(begins).as_secs_f64() / 3600.0;
            assert!((at - f64::from(hours)).abs() < 0.01, "{chance}: {at}");
        }
        assert!((0.0..=1.0).contains(&chance_of((begins, ends))));
    }

    #[test]
    fn what_becomes_of_a_request() {
        let request = |status: serde_json::Value| -> CertificateSigningRequest {
            serde_json::from_value(json!({
                "metadata": {"name": "r"}, "spec": {"request": "", "signerName": "s"}, "status": status,
            }))
            .expect("a request")
        };
        assert!(outcome(&request(json!({}))).is_ok_and(|found| found.is_none()));
        let issued = request(json!({"certificate": "UEVN"}));
        assert_eq!(outcome(&issued).expect("issued").as_deref(), Some("PEM"));
        for kind in ["Denied", "Failed"] {
            let refused =
                request(json!({"conditions": [{"type": kind, "status": "True", "message": "because"}]}));
            let error = outcome(&refused).expect_err("refused").to_string();
            assert!(error.contains(kind) && error.contains("because"), "{error}");
        }
    }

    #[test]
    fn a_pair_is_one_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pki/a.pem");
        assert!(Pair::read(&path).expect("no file is no error").is_none());
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(Vec::new()).expect("parameters");
        let certificate = params.self_signed(&key).expect("a certificate").pem().replace("\r\n", "\n");
        let pair = Pair { certificate, key: key.serialize_pem().replace("\r\n", "\n") };
        pair.write(&path).expect("written");
        let read = Pair::read(&path).expect("read").expect("there");
        assert_eq!((&read.certificate, &read.key), (&pair.certificate, &pair.key));
        Identity::from_pem(read.certificate.as_bytes(), read.key.as_bytes()).expect("an identity");
        assert!(read.validity().is_ok());
    }
}
