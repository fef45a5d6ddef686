//! Images that containers need: pull policy, pulls with back-off and credentials, and archives that an operator put
//! into the images directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use component::events::EventType;
use cri::messages::{AuthConfig, Image, ImageSpec, PodSandboxConfig, PullImageRequest};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};

use crate::lifecycle::{Backoff, Waiting};
use crate::objects::Known;
use crate::podspec::{namespace, spec};
use crate::shared::{FIRST_READ, Shared};

/// When an image was last tried in vain.
#[derive(Debug, Clone, Default)]
struct Failed {
    backoff: Backoff,
    at: Option<Timestamp>,
    error: String,
}

/// What the pulls of this node know of each other.
#[derive(Default)]
pub(crate) struct Images {
    failed: Mutex<BTreeMap<String, Failed>>,
    busy: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

fn waiting(reason: &str, message: impl Into<String>) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into() }
}

/// A name with its tag: `nginx` is `nginx:latest`.
pub(crate) fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// Whether this can be an image's name: `[host[:port]/]path[:tag][@digest]`, the path in small letters.
fn is_reference(name: &str) -> bool {
    let (rest, digest) = name.split_once('@').map_or((name, None), |(rest, digest)| (rest, Some(digest)));
    let is_hex = |text: &str| text.len() >= 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let digest_fits = digest.is_none_or(|digest| digest.split_once(':').is_some_and(|(_, hex)| is_hex(hex)));
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("", rest),
    };
    let (path, tag) = path.split_once(':').map_or((path, None), |(path, tag)| (path, Some(tag)));
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let tag_fits = tag.is_none_or(|tag| {
        tag.len() <= 128
            && tag.bytes().next().is_some_and(word)
            && tag.bytes().all(|byte| word(byte) || b".-".contains(&byte))
    });
    let small = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let part_fits = |part: &str| {
        let ends = part.bytes().next().is_some_and(small) && part.bytes().last().is_some_and(small);
        ends && part.bytes().all(|byte| small(byte) || b"._-".contains(&byte))
    };
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    let host_fits = port.bytes().all(|byte| byte.is_ascii_digit() || byte == b']');
    let host_fits =
        host_fits && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-[]".contains(&byte));
    digest_fits && tag_fits && host_fits && rest.len() <= 512 && path.split('/').all(part_fits)
}

/// Whether the policy wants a pull although the image may be there.
fn pulls_always(container: &Container) -> bool {
    match container.image_pull_policy.as_deref() {
        Some("Always") => true,
        Some(_) => false,
        None => with_tag(container.image.as_deref().unwrap_or_default()).ends_with(":latest"),
    }
}

/// Makes sure that the container's image is there, and says how the runtime knows it.
pub(crate) async fn ensure(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    sandbox: &PodSandboxConfig,
) -> Result<Image, Waiting> {
    let name = container.image.as_deref().unwrap_or_default();
    if !is_reference(name) {
        let message = format!(
            "Failed to apply default image tag {name:?}: couldn't parse image name {name:?}: invalid reference format"
        );
        shared.container_event(pod, &container.name, EventType::Warning, "InspectFailed", &message);
        return Err(waiting("InvalidImageName", message));
    }
    let full = with_tag(name);
    let lock = shared.images.lock(&full);
    let _one_at_a_time = lock.lock().await;
    let found = shared.runtime.image(&full).await.map_err(|error| {
        let message = format!("Failed to inspect image {name:?}: {error}");
        waiting("ImageInspectError", message)
    })?;
    let event =
        |kind, reason: &str, note: String| shared.container_event(pod, &container.name, kind, reason, note);
    match found {
        Some(image) if !pulls_always(container) => {
            let note =
                format!("Container image {name:?} already present on machine and can be accessed by the pod");
            event(EventType::Normal, "Pulled", note);
            return Ok(image);
        }
        None if container.image_pull_policy.as_deref() == Some("Never") => {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            event(EventType::Warning, "ErrImageNeverPull", message.clone());
            return Err(waiting("ErrImageNeverPull", message));
        }
        _ => {}
    }
    if let Some(error) = shared.images.held_back(&full, shared.context.clock.now()) {
        event(EventType::Normal, "BackOff", format!("Back-off pulling image {name:?}"));
        event(EventType::Warning, "Failed", "Error: ImagePullBackOff".to_owned());
        let message = format!("Back-off pulling image {name:?}: ErrImagePull: {error}");
        return Err(waiting("ImagePullBackOff", message));
    }
    event(EventType::Normal, "Pulling", format!("Pulling image {name:?}"));
    match pull(shared, pod, &full, sandbox).await {
        Ok((image, took)) => {
            shared.images.succeeded(&full);
            let took = seconds(took);
            let note = format!(
                "Successfully pulled image {name:?} in {took} ({took} including waiting). Image size: {} bytes.",
                image.size
            );
            event(EventType::Normal, "Pulled", note);
            Ok(image)
        }
        Err(error) => {
            event(EventType::Warning, "Failed", format!("Failed to pull image {name:?}: {error}"));
            event(EventType::Warning, "Failed", "Error: ErrImagePull".to_owned());
            shared.images.failed(&full, error.clone(), shared.context.clock.now());
            Err(waiting("ErrImagePull", error))
        }
    }
}

async fn pull(
    shared: &Shared,
    pod: &Pod,
    name: &str,
    sandbox: &PodSandboxConfig,
) -> Result<(Image, Duration), String> {
    let begun = tokio::time::Instant::now();
    let image = ImageSpec { image: name.to_owned(), ..ImageSpec::default() };
    let mut candidates: Vec<_> = credentials(shared, pod, name).await.into_iter().map(Some).collect();
    if candidates.is_empty() {
        candidates.push(None);
    }
    let mut last = String::new();
    for auth in candidates {
        let request =
            PullImageRequest { image: Some(image.clone()), auth, sandbox_config: Some(sandbox.clone()) };
        match shared.runtime.pull(request).await {
            Ok(_) => {
                let found = shared.runtime.image(name).await.map_err(|error| error.to_string())?;
                let found = found.ok_or_else(|| "the image was pulled and is not there".to_owned())?;
                return Ok((found, begun.elapsed()));
            }
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

fn seconds(duration: Duration) -> String {
    match duration.as_millis() {
        0..1000 => format!("{}ms", duration.as_millis()),
        millis => format!("{}.{:03}s", millis / 1000, millis % 1000),
    }
}

/// Credentials for the image's registry in the pod's pull secrets, in their order.
async fn credentials(shared: &Shared, pod: &Pod, image: &str) -> Vec<AuthConfig> {
    let mut found = Vec::new();
    for reference in spec(pod).image_pull_secrets.iter().flatten() {
        match shared.objects.secret(namespace(pod), &reference.name, FIRST_READ).await {
            Known::Found(secret) => found.extend(matching(&secret, image)),
            Known::Missing | Known::Unread => {
                let note = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                shared.pod_event(pod, EventType::Warning, "FailedToRetrieveImagePullSecret", note);
            }
        }
    }
    found
}

/// The host part of an image name; names without one are Docker Hub's.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "index.docker.io",
    }
}

fn matching(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let data = secret.data.as_ref();
    let whole = data.and_then(|data| data.get(".dockerconfigjson"));
    let Some(bytes) = whole.or_else(|| data.and_then(|data| data.get(".dockercfg"))) else {
        return Vec::new();
    };
    let Ok(parsed) = serde_json::from_slice::<serde_json::Value>(&bytes.0) else { return Vec::new() };
    let auths = if whole.is_some() { parsed.get("auths").cloned().unwrap_or_default() } else { parsed };
    let full = match image.split_once('/') {
        Some((host, _)) if host == registry(image) => image.to_owned(),
        _ => format!("{}/{image}", registry(image)),
    };
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for (server, entry) in auths.as_object().into_iter().flatten() {
        let plain = server.trim_start_matches("https://").trim_start_matches("http://");
        let plain = plain.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
        let fits =
            full.strip_prefix(plain).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']));
        if fits {
            found.push((plain.len(), auth(server, entry)));
        }
    }
    // The most specific one first.
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn auth(server: &str, entry: &serde_json::Value) -> AuthConfig {
    let text = |key: &str| entry.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let mut config = AuthConfig {
        username: text("username"),
        password: text("password"),
        server_address: server.to_owned(),
        identity_token: text("identitytoken"),
        ..AuthConfig::default()
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth")).unwrap_or_default();
    if let Some((user, password)) = String::from_utf8_lossy(&decoded).split_once(':')
        && config.username.is_empty()
    {
        config.username = user.to_owned();
        config.password = password.to_owned();
    }
    config
}

impl Images {
    fn lock(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // Only those that somebody holds are worth keeping.
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        busy.entry(image.to_owned()).or_default().clone()
    }

    fn held_back(&self, image: &str, now: Timestamp) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = failed.get(image)?;
        let until = failed.backoff.until(failed.at?)?;
        (until > now).then(|| failed.error.clone())
    }

    /// Until when the image is not asked for again.
    pub fn held_until(&self, image: &str) -> Option<Timestamp> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = failed.get(&with_tag(image))?;
        failed.backoff.until(failed.at?)
    }

    fn failed(&self, image: &str, error: String, now: Timestamp) {
        let mut table = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = table.entry(image.to_owned()).or_default();
        entry.backoff = entry.backoff.next(now, now);
        entry.at = Some(now);
        entry.error = error;
    }

    fn succeeded(&self, image: &str) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(image);
    }
}

/// Archives in the images directory, in the order of their names.
pub(crate) fn archives(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "tar") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn names_get_their_tag() {
        let cases = [
            ("nginx", "nginx:latest"),
            ("nginx:1", "nginx:1"),
            ("host:5000/nginx", "host:5000/nginx:latest"),
            ("a/b@sha256:00", "a/b@sha256:00"),
        ];
        for (image, full) in cases {
            assert_eq!(with_tag(image), full);
        }
    }

    #[test]
    fn what_cannot_be_an_image_is_not_asked_for() {
        let digest = format!("nginx@sha256:{}", "0".repeat(64));
        for good in
            ["nginx", "nginx:1.22", "a/b/c:v1_2-x", "host.example:5000/a__b/c-d.e:T", "localhost/x", &digest]
        {
            assert!(is_reference(good), "{good}");
        }
        let bad = [
            "",
            "Nginx",
            "a b",
            " a",
            "a:",
            "a:b:c",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a:-x",
            "a@sha256:12",
            "a@b",
            "a:1host/b:2",
        ];
        for bad in bad {
            assert!(!is_reference(bad), "{bad}");
        }
    }

    #[test]
    fn a_pull_secret_fits_its_registry_only() {
        let json = r#"{"auths":{"https://a.example/":{"auth":"dTpw"},"a.example/team":{"username":"t","password":"q"},
            "https://index.docker.io/v1/":{"auth":"aDpp"}}}"#;
        let data = [(".dockerconfigjson".to_owned(), ByteString(json.as_bytes().to_vec()))];
        let secret = Secret { data: Some(data.into()), ..Secret::default() };
        let users =
            |image: &str| matching(&secret, image).into_iter().map(|auth| auth.username).collect::<Vec<_>>();
        assert_eq!(users("a.example/team/app:1"), ["t", "u"]);
        assert_eq!(users("a.example/other"), ["u"]);
        assert_eq!(users("nginx"), ["h"]);
        assert!(users("a.example.evil/x").is_empty());
    }
}
