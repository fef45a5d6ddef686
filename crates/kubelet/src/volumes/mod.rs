//! Volumes of pods: made before containers start, refreshed while they run, given back at the end. What is not in the
//! list of kinds below is refused in words; nothing is attached or provisioned here.

mod mounts;
mod payload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ProjectedVolumeSource, Volume, VolumeProjection};

pub(crate) use mounts::container_mounts;

use self::payload::{Files, Style};
use crate::lifecycle::uid;
use crate::objects::Known;
use crate::podspec::{ConfigError, Downward, namespace, quantity, spec};
use crate::shared::{FIRST_READ, Shared};

const DEFAULT_MODE: i32 = 0o644;

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {reason}")]
pub(crate) struct VolumeError {
    volume: String,
    reason: String,
}

/// Where a volume of the pod is on the node.
pub(crate) fn volume_path(pod_dir: &Path, volume: &Volume) -> PathBuf {
    if let Some(path) = &volume.host_path {
        return PathBuf::from(&path.path);
    }
    let kind = if volume.config_map.is_some() {
        "configmap"
    } else if volume.secret.is_some() {
        "secret"
    } else if volume.downward_api.is_some() {
        "downward-api"
    } else if volume.projected.is_some() {
        "projected"
    } else {
        "empty-dir"
    };
    pod_dir.join("volumes").join(format!("kubernetes.io~{kind}")).join(&volume.name)
}

/// Makes or refreshes all volumes of the pod. Returns when the first of them must be refreshed.
pub(crate) async fn prepare(
    shared: &Shared,
    pod: &Pod,
    pod_ips: &[String],
) -> Result<Option<Timestamp>, VolumeError> {
    let mut refresh: Option<Timestamp> = None;
    for volume in spec(pod).volumes.iter().flatten() {
        let due = prepare_one(shared, pod, pod_ips, volume)
            .await
            .map_err(|reason| VolumeError { volume: volume.name.clone(), reason })?;
        refresh = refresh.into_iter().chain(due).min();
    }
    Ok(refresh)
}

async fn prepare_one(
    shared: &Shared,
    pod: &Pod,
    pod_ips: &[String],
    volume: &Volume,
) -> Result<Option<Timestamp>, String> {
    let path = volume_path(&shared.pod_dir(uid(pod)), volume);
    if let Some(source) = &volume.host_path {
        host_path(&path, source.type_.as_deref().unwrap_or_default())?;
        return Ok(None);
    }
    if let Some(source) = &volume.empty_dir {
        empty_dir(shared, pod, source, &path)?;
        return Ok(None);
    }
    let gathered = gather(shared, pod, pod_ips, volume).await.map_err(|error| error.to_string())?;
    let Some((files, refresh)) = gathered else {
        return Err("this kind of volume is not supported".to_owned());
    };
    let secret = volume.secret.is_some() || volume.projected.is_some();
    directory(shared, &path, secret.then_some(None), 0o755)?;
    let generation = format!("{:016x}", shared.context.entropy.u64());
    host::files::project(&path, &files, &generation).map_err(|error| error.to_string())?;
    own(pod, &path)?;
    Ok(refresh)
}

/// Makes the directory, in memory when `memory` says so (and how large).
fn directory(shared: &Shared, path: &Path, memory: Option<Option<u64>>, mode: u32) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    if !path.is_dir() {
        host::files::make_dir(path, mode).map_err(text)?;
    }
    let Some(size) = memory else { return Ok(()) };
    let mounted = shared.mounts.under(path).map_err(text)?.iter().any(|at| at == path);
    if !mounted {
        shared.mounts.tmpfs(path, size).map_err(text)?;
    }
    Ok(())
}

fn empty_dir(
    shared: &Shared,
    pod: &Pod,
    source: &k8s_openapi::api::core::v1::EmptyDirVolumeSource,
    path: &Path,
) -> Result<(), String> {
    let limit = source.size_limit.as_ref().map(|limit| BTreeMap::from([("size".to_owned(), limit.clone())]));
    let limit = quantity(limit.as_ref(), "size").and_then(|limit| u64::try_from(limit.units()).ok());
    let memory = source.medium.as_deref() == Some("Memory");
    let fresh = !path.is_dir();
    directory(shared, path, memory.then_some(limit.filter(|limit| *limit > 0)), 0o777)?;
    if fresh { own(pod, path) } else { Ok(()) }
}

/// Gives what is in a volume to the pod's group.
fn own(pod: &Pod, path: &Path) -> Result<(), String> {
    let group = spec(pod).security_context.as_ref().and_then(|context| context.fs_group);
    match group.and_then(|group| u32::try_from(group).ok()) {
        Some(group) => host::files::give_to_group(path, group).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

fn host_path(path: &Path, kind: &str) -> Result<(), String> {
    use std::os::unix::fs::FileTypeExt;
    let text = |error: std::io::Error| error.to_string();
    let shown = path.display();
    match kind {
        "DirectoryOrCreate" if !path.exists() => return host::files::make_dir(path, 0o755).map_err(text),
        "FileOrCreate" if !path.exists() => return host::files::write_atomic(path, b"", 0o644).map_err(text),
        "" => return Ok(()),
        _ => {}
    }
    let found = std::fs::metadata(path).map(|metadata| metadata.file_type());
    let (word, fits) = match kind {
        "DirectoryOrCreate" | "Directory" => ("a directory", found.is_ok_and(|found| found.is_dir())),
        "FileOrCreate" | "File" => ("a file", found.is_ok_and(|found| found.is_file())),
        "Socket" => ("a socket file", found.is_ok_and(|found| found.is_socket())),
        "CharDevice" => ("a character device", found.is_ok_and(|found| found.is_char_device())),
        "BlockDevice" => ("a block device", found.is_ok_and(|found| found.is_block_device())),
        _ => return Err(format!("{kind} is an invalid volume type")),
    };
    if fits { Ok(()) } else { Err(format!("hostPath type check failed: {shown} is not {word}")) }
}

type Gathered = Option<(Files, Option<Timestamp>)>;

/// The files of a volume that is made of API objects; `None` for other kinds.
async fn gather(
    shared: &Shared,
    pod: &Pod,
    pod_ips: &[String],
    volume: &Volume,
) -> Result<Gathered, ConfigError> {
    let source = Source { shared, pod, pod_ips };
    if let Some(found) = &volume.config_map {
        let style = Style {
            items: found.items.as_deref(),
            mode: found.default_mode.unwrap_or(DEFAULT_MODE),
            optional: found.optional.unwrap_or(false),
            what: "configmap",
        };
        return Ok(Some((source.config_map(&found.name, &style).await?, None)));
    }
    if let Some(found) = &volume.secret {
        let style = Style {
            items: found.items.as_deref(),
            mode: found.default_mode.unwrap_or(DEFAULT_MODE),
            optional: found.optional.unwrap_or(false),
            what: "secret",
        };
        let name = found.secret_name.as_deref().unwrap_or_default();
        return Ok(Some((source.secret(name, &style).await?, None)));
    }
    if let Some(found) = &volume.downward_api {
        let mode = found.default_mode.unwrap_or(DEFAULT_MODE);
        let items = found.items.as_deref().unwrap_or_default();
        return Ok(Some((payload::downward(&source.downward(), items, mode)?, None)));
    }
    match &volume.projected {
        Some(found) => source.projected(found).await.map(Some),
        None => Ok(None),
    }
}

/// What files of one pod are made from.
struct Source<'a> {
    shared: &'a Shared,
    pod: &'a Pod,
    pod_ips: &'a [String],
}

impl Source<'_> {
    fn downward(&self) -> Downward<'_> {
        Downward {
            pod: self.pod,
            pod_ips: self.pod_ips,
            host_ips: &self.shared.node.addresses,
            node: &self.shared.resources,
        }
    }

    async fn config_map(&self, name: &str, style: &Style<'_>) -> Result<Files, ConfigError> {
        match self.shared.objects.config_map(namespace(self.pod), name, FIRST_READ).await {
            Known::Found(map) => payload::config_map(&map, style),
            Known::Missing if style.optional => Ok(Files::new()),
            Known::Missing => Err(ConfigError::new(format!("configmap {name:?} not found"))),
            Known::Unread => {
                Err(ConfigError::new(format!("failed to sync configmap cache: {name} was not read yet")))
            }
        }
    }

    async fn secret(&self, name: &str, style: &Style<'_>) -> Result<Files, ConfigError> {
        match self.shared.objects.secret(namespace(self.pod), name, FIRST_READ).await {
            Known::Found(secret) => payload::secret(&secret, style),
            Known::Missing if style.optional => Ok(Files::new()),
            Known::Missing => Err(ConfigError::new(format!("secret {name:?} not found"))),
            Known::Unread => {
                Err(ConfigError::new(format!("failed to sync secret cache: {name} was not read yet")))
            }
        }
    }

    async fn projected(
        &self,
        volume: &ProjectedVolumeSource,
    ) -> Result<(Files, Option<Timestamp>), ConfigError> {
        let mode = volume.default_mode.unwrap_or(DEFAULT_MODE);
        let mut files = Files::new();
        let mut refresh: Option<Timestamp> = None;
        for source in volume.sources.iter().flatten() {
            let (more, due) = self.projection(source, mode).await?;
            files.extend(more);
            refresh = refresh.into_iter().chain(due).min();
        }
        Ok((files, refresh))
    }

    async fn projection(
        &self,
        source: &VolumeProjection,
        mode: i32,
    ) -> Result<(Files, Option<Timestamp>), ConfigError> {
        if let Some(found) = &source.config_map {
            let optional = found.optional.unwrap_or(false);
            let style = Style { items: found.items.as_deref(), mode, optional, what: "configmap" };
            return Ok((self.config_map(&found.name, &style).await?, None));
        }
        if let Some(found) = &source.secret {
            let optional = found.optional.unwrap_or(false);
            let style = Style { items: found.items.as_deref(), mode, optional, what: "secret" };
            return Ok((self.secret(&found.name, &style).await?, None));
        }
        if let Some(found) = &source.downward_api {
            let items = found.items.as_deref().unwrap_or_default();
            return Ok((payload::downward(&self.downward(), items, mode)?, None));
        }
        if let Some(found) = &source.service_account_token {
            let audience = found.audience.as_deref().unwrap_or_default();
            let tokens = &self.shared.tokens;
            let token = tokens.get(&self.shared.context, self.pod, audience, found.expiration_seconds).await;
            let token = token.map_err(ConfigError::new)?;
            let group =
                spec(self.pod).security_context.as_ref().is_some_and(|context| context.fs_group.is_some());
            return Ok((payload::token(&found.path, &token.text, mode, group), Some(token.renew_at)));
        }
        Err(ConfigError::new("this kind of projection is not supported"))
    }
}

/// Gives back what the pod's volumes hold. Containers must have ended.
pub(crate) fn teardown(shared: &Shared, uid: &str) -> std::io::Result<()> {
    let directory = shared.pod_dir(uid);
    host::mount::unmount_under(shared.mounts.as_ref(), &directory)?;
    for part in ["volumes", "volume-subpaths"] {
        match std::fs::remove_dir_all(directory.join(part)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
