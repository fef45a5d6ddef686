//! The containerd that Skiff runs for itself: own configuration, root, state and socket under the data directory. It
//! outlives every Skiff process and is adopted by the next one; the system's own containerd is never touched.
//! What runs in it is the rest of the kubelet's business.

mod config;

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cri::messages::{ImageSpec, ImageStatusRequest, StatusRequest, VersionRequest};
use host::process::{Command, Daemon, Identity, ProcessError, Runner};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use config::{Facts, Layout};

use crate::archive::{PAUSE_IMAGE, pause_image};

/// How long containerd may take from its start to its first answer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to leave when asked.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Between looks at a socket that does not answer yet.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The longest pause between two starts of a containerd that keeps dying.
const RESTART_LIMIT: Duration = Duration::from_secs(30);

/// Why there is no containerd.
#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    /// A file or directory could not be made.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program could not be started, or an import failed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// It ended, or said nothing in time.
    #[error("containerd does not answer at {socket} ({reason}); see {log}")]
    Silent {
        /// Where it should answer.
        socket: PathBuf,
        /// Why we stopped waiting.
        reason: String,
        /// What it wrote.
        log: PathBuf,
    },
    /// Somebody else's containerd has our socket.
    #[error("another process ({0}) listens at our containerd's socket")]
    Foreign(String),
}

/// Our containerd.
#[derive(Debug, Clone)]
pub struct Containerd {
    layout: Layout,
    facts: Facts,
    program: PathBuf,
}

impl Containerd {
    /// The containerd of `data_dir`; nothing is started yet.
    ///
    /// # Errors
    /// The data directory cannot be made or looked at.
    pub fn new(data_dir: &Path, program: PathBuf, cni_plugins: PathBuf) -> Result<Self, ContainerdError> {
        let layout = Layout::under(data_dir);
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| ContainerdError::File { path, source }
        };
        host::files::make_dir(&layout.directory, 0o700).map_err(fail(&layout.directory))?;
        std::fs::create_dir_all(&layout.cni_config).map_err(fail(&layout.cni_config))?;
        if let Some(parent) = layout.socket.parent() {
            std::fs::create_dir_all(parent).map_err(fail(parent))?;
        }
        let holder = host::mount::filesystem_of(&layout.directory).map_err(fail(&layout.directory))?;
        // Overlay on overlay is refused by the kernel.
        let snapshotter = if holder == "overlay" { "native" } else { "overlayfs" };
        let may_lower_oom_score = host::system::has_capability(host::system::CAP_SYS_RESOURCE);
        let facts =
            Facts { may_lower_oom_score, snapshotter, cni_plugins, sandbox_image: PAUSE_IMAGE.to_owned() };
        Ok(Self { layout, facts, program })
    }

    /// Where it keeps what.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes sure that it runs with today's configuration: adopts the one that answers, or starts one. Returns when it
    /// answers.
    ///
    /// # Errors
    /// See [`ContainerdError`].
    pub async fn ensure(&self) -> Result<Identity, ContainerdError> {
        let wanted = config::render(&self.layout, &self.facts);
        let current = std::fs::read_to_string(self.layout.config()).unwrap_or_default();
        if let Some(running) = self.running().await? {
            if current == wanted {
                info!(pid = running.pid, "adopted the running containerd");
                self.remember(running)?;
                self.answering(running).await?;
                return Ok(running);
            }
            // Containers belong to their shims and do not notice.
            info!(pid = running.pid, "containerd's configuration changed, restarting it");
            self.stop(running).await?;
        }
        self.write(&self.layout.config(), wanted.as_bytes())?;
        self.start().await
    }

    /// Keeps it running until `shutdown`: starts it again when it ends. It is left running then.
    pub async fn supervise(&self, first: Identity, shutdown: CancellationToken) {
        let mut running = first;
        let mut pause = LOOK_AGAIN;
        loop {
            let since = Instant::now();
            tokio::select! {
                () = shutdown.cancelled() => return,
                result = running.exited() => if let Err(error) = result {
                    warn!(%error, pid = running.pid, "cannot watch containerd");
                },
            }
            if since.elapsed() > RESTART_LIMIT {
                pause = LOOK_AGAIN;
            }
            warn!(pid = running.pid, "containerd ended, starting it again");
            running = loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(RESTART_LIMIT);
                match self.ensure().await {
                    Ok(identity) => break identity,
                    Err(error) => warn!(%error, "containerd cannot be started"),
                }
            };
        }
    }

    /// Ends it; containers go on.
    ///
    /// # Errors
    /// It does not leave.
    pub async fn stop(&self, running: Identity) -> Result<(), ContainerdError> {
        let fail = |source| ContainerdError::File { path: self.layout.identity(), source };
        running.terminate().map_err(fail)?;
        if let Ok(result) = tokio::time::timeout(STOP_LIMIT, running.exited()).await {
            return result.map_err(fail);
        }
        running.kill().map_err(fail)?;
        running.exited().await.map_err(fail)
    }

    async fn start(&self) -> Result<Identity, ContainerdError> {
        self.remove_stale_socket()?;
        let daemon = Daemon::new(&self.program, self.layout.log())
            .args(["--config".into(), self.layout.config().into_os_string()])
            .args(["--log-level", "warn"]);
        let identity = daemon.spawn()?;
        self.remember(identity)?;
        info!(pid = identity.pid, socket = %self.layout.socket.display(), "started containerd");
        self.answering(identity).await?;
        Ok(identity)
    }

    /// Which process answers at our socket, or is on its way to.
    async fn running(&self) -> Result<Option<Identity>, ContainerdError> {
        if let Ok(stream) = UnixStream::connect(&self.layout.socket).await {
            let peer = stream.peer_cred().ok().and_then(|peer| peer.pid()).and_then(Identity::of);
            let Some(peer) = peer else { return Ok(None) };
            return if self.is_ours(&peer) {
                Ok(Some(peer))
            } else {
                Err(ContainerdError::Foreign(peer.arguments().join(" ")))
            };
        }
        let noted = Identity::read(&self.layout.identity());
        Ok(noted.filter(|identity| identity.alive() && self.is_ours(identity)))
    }

    fn is_ours(&self, process: &Identity) -> bool {
        let config = self.layout.config();
        process.arguments().iter().any(|argument| Path::new(argument) == config)
    }

    /// Waits until it answers, its CRI plugin included.
    async fn answering(&self, process: Identity) -> Result<(), ContainerdError> {
        let client = cri::Client::new(&self.layout.socket);
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let reason = match ready(&client).await {
                Ok(()) => return Ok(()),
                Err(error) => error.to_string(),
            };
            let gone = !process.alive();
            if gone || Instant::now() >= deadline {
                let reason = if gone { "it ended".to_owned() } else { reason };
                let (socket, log) = (self.layout.socket.clone(), self.layout.log());
                return Err(ContainerdError::Silent { socket, reason, log });
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn remember(&self, identity: Identity) -> Result<(), ContainerdError> {
        self.write(&self.layout.identity(), identity.to_string().as_bytes())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), ContainerdError> {
        host::files::write_atomic(path, bytes, 0o600)
            .map_err(|source| ContainerdError::File { path: path.to_owned(), source })
    }

    fn remove_stale_socket(&self) -> Result<(), ContainerdError> {
        let path = &self.layout.socket;
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)
                .map_err(|source| ContainerdError::File { path: path.clone(), source }),
            _ => Ok(()),
        }
    }

    /// Imports the sandbox image unless it is there.
    ///
    /// # Errors
    /// The import fails.
    pub async fn ensure_pause_image(
        &self,
        client: &cri::Client,
        runner: &dyn Runner,
    ) -> Result<(), ContainerdError> {
        let image = ImageSpec { image: PAUSE_IMAGE.to_owned(), ..ImageSpec::default() };
        let request = ImageStatusRequest { image: Some(image), verbose: false };
        if let Ok(answer) = client.image_status(request).await
            && answer.image.is_some()
        {
            return Ok(());
        }
        let architecture = host::system::machine()
            .map_err(|source| ContainerdError::File { path: "/proc/meminfo".into(), source })?
            .architecture;
        let archive = pause_image(&architecture)
            .map_err(|source| ContainerdError::File { path: PAUSE_IMAGE.into(), source })?;
        runner.run(&self.import("-").stdin(archive)).await?;
        Ok(())
    }

    /// Imports an image archive from a file.
    ///
    /// # Errors
    /// The import fails.
    pub async fn import_file(&self, path: &Path, runner: &dyn Runner) -> Result<(), ContainerdError> {
        let command = self.import(&path.to_string_lossy()).limit(Duration::from_secs(600));
        runner.run(&command).await?;
        Ok(())
    }

    fn import(&self, from: &str) -> Command {
        let socket = self.layout.socket.to_string_lossy().into_owned();
        Command::new("ctr").args(["--address", &socket, "--namespace", "k8s.io", "images", "import"]).args([
            "--snapshotter",
            self.facts.snapshotter,
            from,
        ])
    }
}

/// Whether the runtime answers and says that it can run containers.
async fn ready(client: &cri::Client) -> Result<(), cri::Error> {
    client.version(VersionRequest::default()).await?;
    let status = client.status(StatusRequest { verbose: false }).await?.status.unwrap_or_default();
    let condition = status.conditions.into_iter().find(|condition| condition.r#type == "RuntimeReady");
    match condition {
        Some(condition) if condition.status => Ok(()),
        Some(condition) => Err(cri::Error::Unavailable(condition.message)),
        None => Err(cri::Error::Unavailable("no RuntimeReady condition".to_owned())),
    }
}
