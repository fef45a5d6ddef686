//! A client of the runtime's unix socket. Each call has its own deadline; a lost connection is made anew by the
//! next call, so one client lives as long as the kubelet does, across restarts of the runtime.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use crate::error::Error;
use crate::messages::*;

/// Answers up to this size are taken; a node's full list of containers fits many times over.
const ANSWER_LIMIT: usize = 16 << 20;
/// Calls that only look at the runtime's memory.
const QUICK: Duration = Duration::from_secs(20);
/// Calls that start or stop processes.
const SLOW: Duration = Duration::from_secs(240);
/// The most time that one image pull may take.
pub const IMAGE_PULL_LIMIT: Duration = Duration::from_secs(3600);

/// A connection to one container runtime. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    socket: PathBuf,
}

/// A stream of messages from the runtime.
#[derive(Debug)]
pub struct Streaming<T>(tonic::Streaming<T>);

impl<T> Streaming<T> {
    /// The next message; `None` when the runtime closed the stream.
    ///
    /// # Errors
    /// The connection broke, or the runtime gave up the stream.
    pub async fn next(&mut self) -> Result<Option<T>, Error> {
        self.0.message().await.map_err(|status| Error::from_status(&status, QUICK))
    }
}

impl Client {
    /// A client of the runtime at `socket`; connects with the first call, so the socket need not exist yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is never dialled: the connector above decides.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Self { channel, socket: socket.to_owned() }
    }

    /// The socket that this client talks to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Error> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(ANSWER_LIMIT);
        grpc.ready().await.map_err(|error| Error::Unavailable(chain(&error)))?;
        Ok(grpc)
    }

    async fn unary<Q, A>(&self, path: &'static str, question: Q, deadline: Duration) -> Result<A, Error>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let call = async {
            let mut grpc = self.ready().await?;
            let mut request = Request::new(question);
            request.set_timeout(deadline);
            let codec = ProstCodec::<Q, A>::default();
            grpc.unary(request, PathAndQuery::from_static(path), codec)
                .await
                .map(tonic::Response::into_inner)
                .map_err(|status| Error::from_status(&status, deadline))
        };
        timeout(deadline, call).await.map_err(|_| Error::Deadline(deadline))?
    }

    async fn stream<Q, A>(&self, path: &'static str, question: Q) -> Result<Streaming<A>, Error>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::<Q, A>::default();
        grpc.server_streaming(Request::new(question), PathAndQuery::from_static(path), codec)
            .await
            .map(|response| Streaming(response.into_inner()))
            .map_err(|status| Error::from_status(&status, QUICK))
    }

    /// Stops a container: its stop signal, then SIGKILL after `request.timeout` seconds.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn stop_container(
        &self,
        request: StopContainerRequest,
    ) -> Result<StopContainerResponse, Error> {
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        self.unary("/runtime.v1.RuntimeService/StopContainer", request, SLOW + grace).await
    }

    /// Runs a command in a container and waits for it.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Deadline`] also when the command outlived `request.timeout`.
    pub async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Error> {
        let limit = match u64::try_from(request.timeout) {
            Ok(0) | Err(_) => SLOW,
            // The runtime kills the command at its own deadline; ours is the net under it.
            Ok(seconds) => Duration::from_secs(seconds) + Duration::from_secs(10),
        };
        self.unary("/runtime.v1.RuntimeService/ExecSync", request, limit).await
    }

    /// Container events as the CRI streams them (containerd from 1.7 on).
    ///
    /// # Errors
    /// [`Error::Unimplemented`] by older runtimes.
    pub async fn get_container_events(&self) -> Result<Streaming<ContainerEventResponse>, Error> {
        self.stream("/runtime.v1.RuntimeService/GetContainerEvents", GetEventsRequest {}).await
    }

    /// containerd's own event stream, on the same socket.
    ///
    /// # Errors
    /// [`Error::Unimplemented`] by runtimes that are not containerd.
    pub async fn subscribe_containerd(
        &self,
        request: SubscribeRequest,
    ) -> Result<Streaming<Envelope>, Error> {
        self.stream("/containerd.services.events.v1.Events/Subscribe", request).await
    }
}

/// Calls that are a name, a question, an answer and a deadline, and nothing more.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($question:ty) -> $answer:ty, $path:literal, $deadline:expr;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// See [`Error`].
                pub async fn $name(&self, request: $question) -> Result<$answer, Error> {
                    self.unary($path, request, $deadline).await
                }
            )*
        }
    };
}

calls! {
    /// The runtime's name and version.
    version(VersionRequest) -> VersionResponse, "/runtime.v1.RuntimeService/Version", QUICK;
    /// The runtime's own conditions.
    status(StatusRequest) -> StatusResponse, "/runtime.v1.RuntimeService/Status", QUICK;
    /// What the runtime wants the kubelet to do alike.
    runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse, "/runtime.v1.RuntimeService/RuntimeConfig", QUICK;
    /// Creates and starts a sandbox, network included.
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse, "/runtime.v1.RuntimeService/RunPodSandbox", SLOW;
    /// Stops what runs in a sandbox and gives back its address; repeatable.
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse, "/runtime.v1.RuntimeService/StopPodSandbox", SLOW;
    /// Removes a sandbox and its containers; repeatable.
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse, "/runtime.v1.RuntimeService/RemovePodSandbox", SLOW;
    /// One sandbox with its addresses.
    pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse, "/runtime.v1.RuntimeService/PodSandboxStatus", QUICK;
    /// Sandboxes in short.
    list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse, "/runtime.v1.RuntimeService/ListPodSandbox", QUICK;
    /// Creates a container, not yet started.
    create_container(CreateContainerRequest) -> CreateContainerResponse, "/runtime.v1.RuntimeService/CreateContainer", SLOW;
    /// Starts a created container.
    start_container(StartContainerRequest) -> StartContainerResponse, "/runtime.v1.RuntimeService/StartContainer", SLOW;
    /// Removes a container; repeatable.
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse, "/runtime.v1.RuntimeService/RemoveContainer", SLOW;
    /// Containers in short.
    list_containers(ListContainersRequest) -> ListContainersResponse, "/runtime.v1.RuntimeService/ListContainers", QUICK;
    /// One container with its times and exit code.
    container_status(ContainerStatusRequest) -> ContainerStatusResponse, "/runtime.v1.RuntimeService/ContainerStatus", QUICK;
    /// Changes the limits of a running container.
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse, "/runtime.v1.RuntimeService/UpdateContainerResources", SLOW;
    /// Where a command can be run with its streams.
    open_exec(ExecRequest) -> StreamResponse, "/runtime.v1.RuntimeService/Exec", QUICK;
    /// Where the streams of a container's own process are.
    open_attach(AttachRequest) -> StreamResponse, "/runtime.v1.RuntimeService/Attach", QUICK;
    /// Where the ports of a sandbox can be reached.
    open_port_forward(PortForwardRequest) -> StreamResponse, "/runtime.v1.RuntimeService/PortForward", QUICK;
    /// Makes the runtime open a container's log file anew.
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse, "/runtime.v1.RuntimeService/ReopenContainerLog", QUICK;
    /// What one container uses.
    container_stats(ContainerStatsRequest) -> ContainerStatsResponse, "/runtime.v1.RuntimeService/ContainerStats", QUICK;
    /// What the running containers use.
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse, "/runtime.v1.RuntimeService/ListContainerStats", QUICK;
    /// Images on this node.
    list_images(ListImagesRequest) -> ListImagesResponse, "/runtime.v1.ImageService/ListImages", QUICK;
    /// One image; its `image` is empty when it is not there.
    image_status(ImageStatusRequest) -> ImageStatusResponse, "/runtime.v1.ImageService/ImageStatus", QUICK;
    /// Fetches an image from its registry.
    pull_image(PullImageRequest) -> PullImageResponse, "/runtime.v1.ImageService/PullImage", IMAGE_PULL_LIMIT;
    /// Forgets an image; repeatable.
    remove_image(RemoveImageRequest) -> RemoveImageResponse, "/runtime.v1.ImageService/RemoveImage", SLOW;
    /// The disk that images fill.
    image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse, "/runtime.v1.ImageService/ImageFsInfo", QUICK;
}

/// An error with its causes: tonic's own words are only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        words.push_str(": ");
        words.push_str(&inner.to_string());
        cause = inner.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_socket_is_told_apart_from_a_failed_call() {
        let client = Client::new(Path::new("/nonexistent/skiff-test.sock"));
        let error = client.version(VersionRequest::default()).await.expect_err("nobody listens there");
        assert!(error.is_unavailable(), "{error:?}");
    }

    #[test]
    fn credentials_do_not_reach_debug_output() {
        let auth =
            AuthConfig { username: "user".into(), password: "hunter2".into(), ..AuthConfig::default() };
        assert!(!format!("{auth:?}").contains("hunter2"));
    }
}
