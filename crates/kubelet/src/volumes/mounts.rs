//! A container's mounts: its volumes, `/etc/hosts`, and the file that it may leave a last message in.

use std::path::{Path, PathBuf};

use cri::messages::{Mount, MountPropagation};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::volume_path;
use crate::lifecycle::uid;
use crate::podspec::{ConfigError, expand, hosts_file, spec};
use crate::shared::Shared;

const HOSTS: &str = "/etc/hosts";

/// All mounts of a container that is about to be made for the `attempt`th time.
pub(crate) fn container_mounts(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    env: &[(String, String)],
    pod_ips: &[String],
    attempt: u32,
) -> Result<Vec<Mount>, ConfigError> {
    let mut mounts = Vec::new();
    for (position, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        mounts.push(volume_mount(shared, pod, container, env, position, wanted)?);
    }
    let has = |mounts: &[Mount], path: &str| mounts.iter().any(|mount| mount.container_path == path);
    if !has(&mounts, HOSTS) {
        mounts.push(plain(HOSTS, &hosts(shared, pod, pod_ips)?));
    }
    if let Some(path) = container.termination_message_path.as_deref().filter(|path| !path.is_empty()) {
        let file = termination_file(&shared.pod_dir(uid(pod)), &container.name, attempt);
        let text = |error: std::io::Error| ConfigError::new(format!("{}: {error}", file.display()));
        if let Some(parent) = file.parent() {
            host::files::make_dir(parent, 0o750).map_err(text)?;
        }
        // Whatever user the container runs as may write to it.
        std::fs::write(&file, b"").map_err(text)?;
        host::files::set_mode(&file, 0o666).map_err(text)?;
        mounts.push(plain(path, &file));
    }
    Ok(mounts)
}

/// Where a container's last message is on the node.
pub(crate) fn termination_file(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(container).join(format!("{attempt}"))
}

fn plain(container_path: &str, host_path: &Path) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Mount::default()
    }
}

fn hosts(shared: &Shared, pod: &Pod, pod_ips: &[String]) -> Result<PathBuf, ConfigError> {
    let node = std::fs::read_to_string(HOSTS).unwrap_or_default();
    let text = hosts_file(pod, pod_ips, &shared.cluster.domain, &node);
    let path = shared.pod_dir(uid(pod)).join("etc-hosts");
    // Written in place: containers that have it mounted hold on to the file, not to its name.
    std::fs::write(&path, text).map_err(|error| ConfigError::new(format!("{}: {error}", path.display())))?;
    host::files::set_mode(&path, 0o644).map_err(|error| ConfigError::new(error.to_string()))?;
    Ok(path)
}

fn volume_mount(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    env: &[(String, String)],
    position: usize,
    wanted: &VolumeMount,
) -> Result<Mount, ConfigError> {
    let volume = spec(pod).volumes.iter().flatten().find(|volume| volume.name == wanted.name);
    let volume =
        volume.ok_or_else(|| ConfigError::new(format!("volume {:?} is not defined", wanted.name)))?;
    let pod_dir = shared.pod_dir(uid(pod));
    let mut path = volume_path(&pod_dir, volume);
    let lookup = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let expression = wanted.sub_path_expr.as_deref().map(|text| expand(text, lookup));
    let below = wanted.sub_path.clone().or(expression).filter(|below| !below.is_empty());
    if let Some(below) = below {
        let place = pod_dir
            .join("volume-subpaths")
            .join(&wanted.name)
            .join(&container.name)
            .join(position.to_string());
        path = sub_path(shared, &path, &below, &place)?;
    }
    let propagation = match wanted.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => MountPropagation::PropagationBidirectional,
        _ => MountPropagation::PropagationPrivate,
    };
    let made_by_us = volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some();
    Ok(Mount {
        container_path: absolute(&wanted.mount_path),
        host_path: path.to_string_lossy().into_owned(),
        readonly: wanted.read_only.unwrap_or(false) || made_by_us,
        selinux_relabel: false,
        propagation: propagation.into(),
    })
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Binds what is under a volume to a place that no container can change the meaning of.
fn sub_path(shared: &Shared, volume: &Path, below: &str, place: &Path) -> Result<PathBuf, ConfigError> {
    let fail =
        |error: std::io::Error| ConfigError::new(format!("failed to prepare subPath {below:?}: {error}"));
    let target = host::files::open_beneath(volume, Path::new(below), 0o750).map_err(fail)?;
    let mounted = shared.mounts.under(place).map_err(fail)?;
    if mounted.iter().any(|at| at == place) {
        shared.mounts.unmount(place).map_err(fail)?;
    }
    host::files::make_mount_point(&target, place).map_err(fail)?;
    shared.mounts.bind(&host::files::descriptor_path(&target), place).map_err(fail)?;
    Ok(place.to_owned())
}
