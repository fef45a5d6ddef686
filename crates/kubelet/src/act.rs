//! Doing what was decided about a pod. Each function here is one action, from beginning to end; it may be dropped at
//! any await, since the next decision looks at what is there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use component::Api;
use component::events::EventType;
use cri::messages::{CreateContainerRequest, Image, RunPodSandboxRequest};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, Service};
use kube::api::{DeleteParams, Preconditions};
use tokio::time::Instant;

use crate::images;
use crate::lifecycle::{Waiting, find_container, uid};
use crate::objects::{Known, Mentioned, mentioned};
use crate::podspec::{
    ConfigError, ContainerParts, Downward, EnvSources, container_config, environment, name, namespace,
    pod_cgroup, pod_limits, runs_as_root, sandbox_config, spec,
};
use crate::shared::{FIRST_READ, Shared};
use crate::volumes::container_mounts;
use crate::{hooks, volumes};

/// Seconds that a container gets after its hook used up its time.
const LEAST_SECONDS: i64 = 2;
/// No answer to a deletion within this time is no answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Directories, cgroup and volumes of a pod. Says when volumes must be refreshed.
pub(crate) async fn prepare(
    shared: &Shared,
    pod: &Pod,
    pod_ips: &[String],
) -> Result<Option<jiff::Timestamp>, String> {
    let text = |error: std::io::Error| error.to_string();
    host::files::make_dir(&shared.pod_dir(uid(pod)), 0o750).map_err(text)?;
    host::files::make_dir(&shared.log_dir(pod), 0o755).map_err(text)?;
    if let Some(cgroups) = &shared.cgroups {
        cgroups.apply(&pod_cgroup(&shared.cluster.cgroup_root, pod), &pod_limits(pod)).map_err(text)?;
    }
    volumes::prepare(shared, pod, pod_ips).await.map_err(|error| error.to_string())
}

/// A new sandbox.
pub(crate) async fn create_sandbox(shared: &Shared, pod: &Pod, attempt: u32) -> Result<(), String> {
    let log_dir = shared.log_dir(pod);
    host::files::make_dir(&log_dir, 0o755).map_err(|error| error.to_string())?;
    if let Some(cgroups) = &shared.cgroups {
        let group = pod_cgroup(&shared.cluster.cgroup_root, pod);
        cgroups.apply(&group, &pod_limits(pod)).map_err(|error| error.to_string())?;
    }
    let config =
        sandbox_config(pod, attempt, &shared.cluster, &shared.resolver(), &log_dir.to_string_lossy());
    let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    shared.runtime.run_sandbox(request).await.map(drop).map_err(|error| error.to_string())
}

/// What a container's start is told.
pub(crate) struct Start {
    pub name: String,
    pub sandbox: String,
    pub attempt: u32,
    pub pod_ips: Vec<String>,
    /// Its predecessor in the runtime.
    pub previous: Option<String>,
}

/// Image, configuration, creation, start, and the hook after it.
pub(crate) async fn start(shared: &Shared, pod: &Pod, start: &Start) -> Result<(), Waiting> {
    let Some(container) = find_container(pod, &start.name) else { return Ok(()) };
    let result = try_start(shared, pod, container, start).await;
    if let Err(waiting) = &result
        && !matches!(
            waiting.reason.as_str(),
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName"
        )
    {
        let note = format!("Error: {}", waiting.message);
        shared.container_event(pod, &start.name, EventType::Warning, "Failed", note);
    }
    result
}

fn waiting(reason: &str, message: impl Into<String>) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into() }
}

async fn try_start(shared: &Shared, pod: &Pod, container: &Container, start: &Start) -> Result<(), Waiting> {
    let log_dir = shared.log_dir(pod);
    let sandbox = sandbox_config(pod, 0, &shared.cluster, &shared.resolver(), &log_dir.to_string_lossy());
    let image = images::ensure(shared, pod, container, &sandbox).await?;
    let config_error = |error: ConfigError| waiting("CreateContainerConfigError", error.0);
    check_user(pod, container, &image).map_err(config_error)?;
    let env = container_env(shared, pod, container, start).await.map_err(config_error)?;
    let mounts = container_mounts(shared, pod, container, &env, &start.pod_ips, start.attempt)
        .map_err(config_error)?;
    host::files::make_dir(&log_dir.join(&container.name), 0o755)
        .map_err(|error| waiting("CreateContainerError", error.to_string()))?;
    let parts =
        ContainerParts { env: &env, mounts, image_ref: image.id.clone(), restart_count: start.attempt };
    let config = container_config(pod, container, parts, &shared.cluster, &shared.resources);
    let request = CreateContainerRequest {
        pod_sandbox_id: start.sandbox.clone(),
        config: Some(config),
        sandbox_config: Some(sandbox),
    };
    let created = shared.runtime.create_container(request).await;
    let id = created.map_err(|error| waiting("CreateContainerError", error.to_string()))?;
    let event = |reason: &str, note: &str| {
        shared.container_event(pod, &container.name, EventType::Normal, reason, note);
    };
    event("Created", "Container created");
    if let Err(error) = shared.runtime.start_container(&id).await {
        return Err(waiting("RunContainerError", error.to_string()));
    }
    event("Started", "Container started");
    after_start(shared, pod, container, &id, start).await
}

async fn after_start(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    id: &str,
    start: &Start,
) -> Result<(), Waiting> {
    let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
        return Ok(());
    };
    let pod_ip = start.pod_ips.first().map(String::as_str).unwrap_or_default();
    let result = hooks::run(shared, container, id, pod_ip, hook, Duration::from_secs(600)).await;
    let Err(words) = result else { return Ok(()) };
    let note = format!("PostStartHook failed: {words}");
    shared.container_event(pod, &container.name, EventType::Warning, "FailedPostStartHook", note);
    let end = Kill {
        name: container.name.clone(),
        id: id.to_owned(),
        grace: crate::lifecycle::grace_period(pod),
        message: "FailedPostStartHook".to_owned(),
        again: false,
    };
    kill(shared, pod, &end, pod_ip).await.map_err(|error| waiting("PostStartHookError", error))?;
    Err(waiting("PostStartHookError", words))
}

fn check_user(pod: &Pod, container: &Container, image: &Image) -> Result<(), ConfigError> {
    let uid = image.uid.map(|uid| uid.value);
    runs_as_root(pod, container, uid, &image.username)
}

async fn container_env(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    start: &Start,
) -> Result<Vec<(String, String)>, ConfigError> {
    match fresh_env(shared, pod, container, &start.pod_ips).await {
        Ok(env) => Ok(env),
        Err(EnvError::Config(error)) => Err(error),
        Err(EnvError::Unread(what)) => {
            // The control plane is away: what its predecessor had is what it would get.
            let previous = match &start.previous {
                Some(id) => previous_env(shared, id).await,
                None => None,
            };
            previous.ok_or_else(|| ConfigError::new(format!("{what} could not be read yet")))
        }
    }
}

enum EnvError {
    Config(ConfigError),
    Unread(String),
}

async fn fresh_env(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    pod_ips: &[String],
) -> Result<Vec<(String, String)>, EnvError> {
    let place = namespace(pod);
    let mut config_maps: BTreeMap<String, Arc<ConfigMap>> = BTreeMap::new();
    let mut secrets: BTreeMap<String, Arc<Secret>> = BTreeMap::new();
    for found in of_environment(pod, container) {
        match &found {
            Mentioned::ConfigMap(name) => match shared.objects.config_map(place, name, FIRST_READ).await {
                Known::Found(object) => drop(config_maps.insert(name.clone(), object)),
                Known::Missing => {}
                Known::Unread => return Err(EnvError::Unread(format!("configmap {name:?}"))),
            },
            Mentioned::Secret(name) => match shared.objects.secret(place, name, FIRST_READ).await {
                Known::Found(object) => drop(secrets.insert(name.clone(), object)),
                Known::Missing => {}
                Known::Unread => return Err(EnvError::Unread(format!("secret {name:?}"))),
            },
        }
    }
    if tokio::time::timeout(FIRST_READ, shared.services.synced()).await.is_err() {
        return Err(EnvError::Unread("services".to_owned()));
    }
    let services: Vec<Arc<Service>> = shared.services.list();
    let downward = Downward { pod, pod_ips, host_ips: &shared.node.addresses, node: &shared.resources };
    let sources = EnvSources { downward, config_maps: &config_maps, secrets: &secrets, services: &services };
    environment(&sources, container).map_err(EnvError::Config)
}

/// What one container's environment mentions: the whole pod's mentions, were it the pod's only container.
fn of_environment(pod: &Pod, container: &Container) -> std::collections::BTreeSet<Mentioned> {
    let alone =
        k8s_openapi::api::core::v1::PodSpec { containers: vec![container.clone()], ..Default::default() };
    mentioned(&Pod { metadata: pod.metadata.clone(), spec: Some(alone), status: None })
}

/// The environment of a container that is or was, from the runtime's own records.
async fn previous_env(shared: &Shared, id: &str) -> Option<Vec<(String, String)>> {
    let answer = shared.runtime.container(id, true).await.ok()?;
    let info: serde_json::Value = serde_json::from_str(answer.info.get("info")?).ok()?;
    let envs = info.get("config")?.get("envs")?.as_array()?;
    let pair = |entry: &serde_json::Value| {
        let key = entry.get("key")?.as_str()?.to_owned();
        Some((key, entry.get("value").and_then(|value| value.as_str()).unwrap_or_default().to_owned()))
    };
    envs.iter().map(pair).collect()
}

/// What a container's end is told.
pub(crate) struct Kill {
    pub name: String,
    pub id: String,
    pub grace: Duration,
    /// For the event.
    pub message: String,
    /// It is being ended already and may only live shorter now: its hook had its chance.
    pub again: bool,
}

/// The hook before the end, the stop signal, and force when the time is over.
pub(crate) async fn kill(shared: &Shared, pod: &Pod, kill: &Kill, pod_ip: &str) -> Result<(), String> {
    let Kill { name, id, grace, message, again } = kill;
    let begun = Instant::now();
    if !again {
        shared.container_event(pod, name, EventType::Normal, "Killing", message);
        before_stop(shared, pod, kill, pod_ip).await;
    }
    let left = grace.saturating_sub(begun.elapsed());
    // The runtime counts whole seconds: what is left of one is one.
    let whole = i64::try_from(left.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX);
    let seconds = whole.max(LEAST_SECONDS.min(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)));
    shared.runtime.stop_container(id, seconds).await.map_err(|error| error.to_string())
}

async fn before_stop(shared: &Shared, pod: &Pod, kill: &Kill, pod_ip: &str) {
    let Some(container) = find_container(pod, &kill.name) else { return };
    let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else {
        return;
    };
    let run = hooks::run(shared, container, &kill.id, pod_ip, hook, kill.grace);
    match tokio::time::timeout(kill.grace, run).await {
        Ok(Ok(())) => {}
        Ok(Err(words)) => {
            let note = format!("PreStopHook failed: {words}");
            shared.container_event(pod, &kill.name, EventType::Warning, "FailedPreStopHook", note);
        }
        Err(_) => {
            tracing::info!(container = kill.name, "the hook before the end took all of the grace period")
        }
    }
}

/// Stops sandboxes and what runs in them.
pub(crate) async fn stop_sandboxes(shared: &Shared, ids: &[String]) -> Result<(), String> {
    for id in ids {
        shared.runtime.stop_sandbox(id).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Volumes unmounted, cgroup removed.
pub(crate) fn teardown(shared: &Shared, pod: &Pod) -> Result<(), String> {
    volumes::teardown(shared, uid(pod)).map_err(|error| error.to_string())?;
    remove_cgroups(shared, uid(pod)).map_err(|error| error.to_string())
}

/// Removes the pod's cgroup. What class it was of may no longer be known.
pub(crate) fn remove_cgroups(shared: &Shared, uid: &str) -> std::io::Result<()> {
    let Some(cgroups) = &shared.cgroups else { return Ok(()) };
    for class in ["", "/burstable", "/besteffort"] {
        cgroups.remove(&format!("{}{class}/pod{uid}", shared.cluster.cgroup_root))?;
    }
    Ok(())
}

/// Removes a directory of a pod's, but nothing that is mounted in it.
pub(crate) fn remove_directory(shared: &Shared, directory: &std::path::Path) -> std::io::Result<()> {
    host::mount::unmount_under(shared.mounts.as_ref(), directory)?;
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Deletes the API object, and only the one with our pod's uid.
pub(crate) async fn delete(shared: &Shared, pod: &Pod) -> Result<(), String> {
    let api = Api::<Pod>::namespaced(shared.context.client.clone(), namespace(pod));
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid(pod).to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    let call = tokio::time::timeout(ANSWER_LIMIT, api.delete(name(pod), &parameters));
    match call.await.map_err(|_| "no answer".to_owned())? {
        Ok(_) => Ok(()),
        // Gone, or another pod has the name by now.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Removes containers, then sandboxes.
pub(crate) async fn collect(
    shared: &Shared,
    containers: &[String],
    sandboxes: &[String],
) -> Result<(), String> {
    for id in containers {
        shared.runtime.remove_container(id).await.map_err(|error| error.to_string())?;
    }
    for id in sandboxes {
        shared.runtime.stop_sandbox(id).await.map_err(|error| error.to_string())?;
        shared.runtime.remove_sandbox(id).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Whether the pod runs on the node's own network, where the pod's address is the node's.
pub(crate) fn own_ips(shared: &Shared, pod: &Pod, sandbox_ips: &[String]) -> Vec<String> {
    if spec(pod).host_network.unwrap_or(false) { shared.node.addresses.clone() } else { sandbox_ips.to_vec() }
}
