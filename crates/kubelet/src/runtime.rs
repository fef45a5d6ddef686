//! The container runtime behind a trait, so that workers run against a fake in tests, and what it says about a pod in
//! the kubelet's own terms.

use std::path::Path;

use async_trait::async_trait;
use cri::Error;
use cri::messages::*;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lifecycle::{Container, RuntimePod, Sandbox, State};

/// Names a pod's containers and sandboxes in the runtime.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const HASH: &str = "io.kubernetes.container.hash";
/// The longest termination message that is reported.
const MESSAGE_LIMIT: usize = 4096;
/// Of a log that takes the message's place: this many bytes, this many lines.
const LOG_MESSAGE: (usize, usize) = (2048, 80);
/// Changes that wait to be looked at; beyond them the runtime waits.
const WAITING: usize = 64;

/// Something that may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// This container or sandbox ended, which the runtime's own lists may show a little later.
    Ended(String),
    /// Something else, which the lists show already.
    Other,
}

/// A stream that the runtime is to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamRequest {
    /// A command.
    Exec(ExecRequest),
    /// A container's own process.
    Attach(AttachRequest),
    /// Ports of a sandbox.
    PortForward(PortForwardRequest),
}

/// A container runtime. The calls are the CRI's.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Its name and version.
    async fn version(&self) -> Result<VersionResponse, Error>;
    /// Its conditions.
    async fn status(&self) -> Result<RuntimeStatus, Error>;
    /// Makes a sandbox.
    async fn run_sandbox(&self, request: RunPodSandboxRequest) -> Result<String, Error>;
    /// Stops a sandbox and what runs in it.
    async fn stop_sandbox(&self, id: &str) -> Result<(), Error>;
    /// Removes a sandbox and what is in it.
    async fn remove_sandbox(&self, id: &str) -> Result<(), Error>;
    /// One sandbox.
    async fn sandbox(&self, id: &str) -> Result<PodSandboxStatus, Error>;
    /// Sandboxes of one pod, or all.
    async fn sandboxes(&self, uid: Option<&str>) -> Result<Vec<PodSandbox>, Error>;
    /// Makes a container.
    async fn create_container(&self, request: CreateContainerRequest) -> Result<String, Error>;
    /// Starts a container.
    async fn start_container(&self, id: &str) -> Result<(), Error>;
    /// Ends a container, by force after `seconds`.
    async fn stop_container(&self, id: &str, seconds: i64) -> Result<(), Error>;
    /// Removes a container.
    async fn remove_container(&self, id: &str) -> Result<(), Error>;
    /// Containers of one pod, or all.
    async fn containers(&self, uid: Option<&str>) -> Result<Vec<cri::messages::Container>, Error>;
    /// One container, with the runtime's own details when asked for.
    async fn container(&self, id: &str, verbose: bool) -> Result<ContainerStatusResponse, Error>;
    /// Makes the runtime go on with a new log file, after the old one was moved.
    async fn reopen_log(&self, id: &str) -> Result<(), Error>;
    /// Runs a command in a container.
    async fn exec(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Error>;
    /// The address at which the runtime serves a stream, once.
    async fn open_stream(&self, wanted: StreamRequest) -> Result<String, Error>;
    /// An image, if it is there.
    async fn image(&self, name: &str) -> Result<Option<Image>, Error>;
    /// Fetches an image.
    async fn pull(&self, request: PullImageRequest) -> Result<String, Error>;
    /// Images on this node.
    async fn images(&self) -> Result<Vec<Image>, Error>;
    /// A message whenever something may have changed, until the runtime goes away. An error when the runtime offers
    /// no such thing or is away.
    async fn changes(
        &self,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<mpsc::Receiver<Changed>, Error>;
}

fn by_uid(uid: Option<&str>) -> StringMap {
    uid.map(|uid| (POD_UID.to_owned(), uid.to_owned())).into_iter().collect()
}

#[async_trait]
impl Runtime for cri::Client {
    async fn version(&self) -> Result<VersionResponse, Error> {
        self.version(VersionRequest::default()).await
    }

    async fn status(&self) -> Result<RuntimeStatus, Error> {
        Ok(self.status(StatusRequest { verbose: false }).await?.status.unwrap_or_default())
    }

    async fn run_sandbox(&self, request: RunPodSandboxRequest) -> Result<String, Error> {
        Ok(self.run_pod_sandbox(request).await?.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(self.stop_pod_sandbox(request).await.map(drop))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), Error> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(self.remove_pod_sandbox(request).await.map(drop))
    }

    async fn sandbox(&self, id: &str) -> Result<PodSandboxStatus, Error> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let status = self.pod_sandbox_status(request).await?.status;
        status.ok_or_else(|| Error::NotFound(format!("sandbox {id}")))
    }

    async fn sandboxes(&self, uid: Option<&str>) -> Result<Vec<PodSandbox>, Error> {
        let filter = PodSandboxFilter { label_selector: by_uid(uid), ..PodSandboxFilter::default() };
        Ok(self.list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) }).await?.items)
    }

    async fn create_container(&self, request: CreateContainerRequest) -> Result<String, Error> {
        Ok(cri::Client::create_container(self, request).await?.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<(), Error> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        cri::Client::start_container(self, request).await.map(drop)
    }

    async fn stop_container(&self, id: &str, seconds: i64) -> Result<(), Error> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: seconds };
        gone_is_fine(cri::Client::stop_container(self, request).await.map(drop))
    }

    async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_fine(cri::Client::remove_container(self, request).await.map(drop))
    }

    async fn containers(&self, uid: Option<&str>) -> Result<Vec<cri::messages::Container>, Error> {
        let filter = ContainerFilter { label_selector: by_uid(uid), ..ContainerFilter::default() };
        Ok(self.list_containers(ListContainersRequest { filter: Some(filter) }).await?.containers)
    }

    async fn container(&self, id: &str, verbose: bool) -> Result<ContainerStatusResponse, Error> {
        self.container_status(ContainerStatusRequest { container_id: id.to_owned(), verbose }).await
    }

    async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        self.reopen_container_log(ReopenContainerLogRequest { container_id: id.to_owned() }).await.map(drop)
    }

    async fn exec(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Error> {
        self.exec_sync(request).await
    }

    async fn open_stream(&self, wanted: StreamRequest) -> Result<String, Error> {
        let opened = match wanted {
            StreamRequest::Exec(request) => self.open_exec(request).await,
            StreamRequest::Attach(request) => self.open_attach(request).await,
            StreamRequest::PortForward(request) => self.open_port_forward(request).await,
        };
        Ok(opened?.url)
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, Error> {
        let image = ImageSpec { image: name.to_owned(), ..ImageSpec::default() };
        Ok(self.image_status(ImageStatusRequest { image: Some(image), verbose: false }).await?.image)
    }

    async fn pull(&self, request: PullImageRequest) -> Result<String, Error> {
        Ok(self.pull_image(request).await?.image_ref)
    }

    async fn images(&self) -> Result<Vec<Image>, Error> {
        Ok(self.list_images(ListImagesRequest::default()).await?.images)
    }

    async fn changes(
        &self,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<mpsc::Receiver<Changed>, Error> {
        let (sender, receiver) = mpsc::channel(WAITING);
        match self.get_container_events().await {
            Ok(stream) => forward(tasks, stop, stream, sender, |_| Some(Changed::Other)),
            Err(error) if error.is_unimplemented() => {
                let filters = ["/tasks/exit", "/tasks/oom"]
                    .map(|topic| format!("topic==\"{topic}\",namespace==k8s.io"));
                let stream = self.subscribe_containerd(SubscribeRequest { filters: filters.into() }).await?;
                // What was run beside a container's own process (a probe's command) changes nothing.
                forward(tasks, stop, stream, sender, |event| event.ended().map(Changed::Ended));
            }
            Err(error) => return Err(error),
        }
        Ok(receiver)
    }
}

fn gone_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

fn forward<T: Send + 'static>(
    tasks: &TaskTracker,
    stop: CancellationToken,
    mut stream: cri::Streaming<T>,
    sender: mpsc::Sender<Changed>,
    read: fn(T) -> Option<Changed>,
) {
    tasks.spawn(async move {
        let follow = async {
            while let Ok(Some(message)) = stream.next().await {
                let Some(changed) = read(message) else { continue };
                if sender.send(changed).await.is_err() {
                    return;
                }
            }
        };
        // The receiver learns of the end by the sender's drop.
        stop.run_until_cancelled(follow).await;
    });
}

/// What the runtime has of one pod. What disappears between the list and the question about it is left out.
///
/// # Errors
/// The runtime does not answer.
pub async fn observe(runtime: &dyn Runtime, uid: &str) -> Result<RuntimePod, Error> {
    let mut pod = RuntimePod::default();
    for listed in runtime.sandboxes(Some(uid)).await? {
        match runtime.sandbox(&listed.id).await {
            Ok(status) => pod.sandboxes.push(sandbox(&status)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    for listed in runtime.containers(Some(uid)).await? {
        match runtime.container(&listed.id, false).await {
            Ok(answer) => {
                let status = answer.status.unwrap_or_default();
                let message = termination_message(&status);
                pod.containers.push(container(&status, &listed.pod_sandbox_id, message));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    pod.sort();
    Ok(pod)
}

fn sandbox(status: &PodSandboxStatus) -> Sandbox {
    let network = status.network.clone().unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    Sandbox {
        id: status.id.clone(),
        ready: status.state() == PodSandboxState::SandboxReady,
        attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        created_at: nanos(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        ips: std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect(),
    }
}

fn container(status: &ContainerStatus, sandbox: &str, message: String) -> Container {
    let image = status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    let noted = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let attempt = status.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
    Container {
        id: status.id.clone(),
        name: status.labels.get(CONTAINER_NAME).cloned().unwrap_or_default(),
        sandbox: sandbox.to_owned(),
        state: match status.state() {
            ContainerState::ContainerCreated => State::Created,
            ContainerState::ContainerRunning => State::Running,
            ContainerState::ContainerExited => State::Exited,
            ContainerState::ContainerUnknown => State::Unknown,
        },
        restart_count: noted(RESTART_COUNT).parse().unwrap_or(attempt),
        created_at: nanos(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: nanos(status.started_at),
        finished_at: nanos(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message,
        image,
        image_id: status.image_ref.clone(),
        hash: noted(HASH),
        log_path: status.log_path.clone(),
    }
}

fn nanos(value: i64) -> Option<Timestamp> {
    (value > 0).then(|| Timestamp::from_nanosecond(i128::from(value)).ok()).flatten()
}

/// What an ended container left to say: its termination file, else (if so wanted) the end of its log, else the
/// runtime's words.
fn termination_message(status: &ContainerStatus) -> String {
    if status.state() != ContainerState::ContainerExited {
        return String::new();
    }
    let path = status.annotations.get(MESSAGE_PATH).map(String::as_str).unwrap_or_default();
    let mount = status.mounts.iter().find(|mount| !path.is_empty() && mount.container_path == path);
    let said = mount.map(|mount| tail(Path::new(&mount.host_path), MESSAGE_LIMIT)).unwrap_or_default();
    if !said.is_empty() {
        return said;
    }
    let policy = status.annotations.get(MESSAGE_POLICY).map(String::as_str);
    if policy == Some("FallbackToLogsOnError") && status.exit_code != 0 {
        let (bytes, lines) = LOG_MESSAGE;
        let end = crate::server::logs::plain(&tail(Path::new(&status.log_path), bytes * 2));
        let kept: Vec<_> = end.lines().rev().take(lines).collect();
        let mut text: String = kept.into_iter().rev().flat_map(|line| [line, "\n"]).collect();
        let cut = text.len().saturating_sub(bytes);
        return text.split_off(text.ceil_char_boundary(cut));
    }
    status.message.clone()
}

/// The last `limit` bytes of a file; nothing when it cannot be read.
fn tail(path: &Path, limit: usize) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit as u64)))?;
        let mut bytes = Vec::new();
        file.take(limit as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
