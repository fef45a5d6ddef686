//! Keeping our own containerd: started with its network's configuration, given the sandbox's image and whatever image
//! archives an operator puts into the images directory, and started again when it ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::notify::Watch;
use host::process::{Identity, LinuxRunner};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::containerd::{Containerd, ContainerdError};
use crate::pods::Workers;
use crate::worker::Signal;
use crate::{images, network};

/// Between attempts to start containerd: the first pause, doubled up to the last.
const START_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

pub(crate) struct Keeper {
    pub containerd: Containerd,
    pub config: Config,
    pub workers: Workers,
    /// The range of this node's pods, once it is known.
    pub range: watch::Receiver<Option<String>>,
    /// Told when pods can be run.
    pub ready: watch::Sender<bool>,
}

impl Keeper {
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.write_network();
        let running = self.start().await;
        let containerd = self.containerd.clone();
        tokio::join!(containerd.supervise(running, shutdown), self.provide());
    }

    /// Everything that a running containerd needs from us.
    async fn provide(&mut self) {
        let mut watch = match Watch::new(&self.config.images_dir()) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(%error, "new image archives will not be noticed before the next start");
                None
            }
        };
        self.until_pause_image().await;
        self.import().await;
        self.ready.send_replace(true);
        let mut range = self.range.clone();
        loop {
            let dropped = async {
                match watch.as_mut() {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                seen = dropped => match seen {
                    Ok(()) => if self.import().await {
                        self.workers.raise_all(Signal::RuntimeBack);
                    },
                    Err(error) => {
                        tracing::warn!(%error, "the images directory is no longer watched");
                        watch = None;
                    }
                },
                changed = range.changed() => if changed.is_ok() {
                    self.write_network();
                    self.workers.raise_all(Signal::RuntimeBack);
                } else {
                    std::future::pending::<()>().await;
                },
            }
        }
    }

    fn write_network(&self) {
        let Some(range) = self.range.borrow().clone() else { return };
        let addresses = self.config.agent_dir().join("cni/addresses");
        if let Err(error) =
            network::write(&self.containerd.layout().cni_config, &range, self.config.pod_mtu, &addresses)
        {
            tracing::error!(%error, "the pod network's configuration was not written");
        }
    }

    async fn start(&self) -> Identity {
        let mut pause = START_AGAIN.0;
        loop {
            match self.containerd.ensure().await {
                Ok(identity) => return identity,
                Err(error) => tracing::error!(%error, "containerd cannot be started"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(START_AGAIN.1);
        }
    }

    async fn until_pause_image(&self) {
        let client = cri::Client::new(&self.containerd.layout().socket);
        let mut pause = START_AGAIN.0;
        while let Err(error) = self.containerd.ensure_pause_image(&client, &LinuxRunner).await {
            tracing::error!(%error, "the sandbox's image was not imported");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(START_AGAIN.1);
        }
    }

    /// Imports archives that are new or changed; whether there were any.
    async fn import(&self) -> bool {
        let marks = self.containerd.layout().directory.join("imported");
        let mut known = read_marks(&marks);
        let mut any = false;
        let found = match images::archives(&self.config.images_dir()) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the images directory cannot be read");
                return false;
            }
        };
        for path in found {
            match self.import_one(&path, &known).await {
                Ok(Some(mark)) => {
                    known.insert(path, mark);
                    any = true;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, archive = %path.display(), "the images were not imported")
                }
            }
        }
        if any && let Err(error) = write_marks(&marks, &known) {
            tracing::warn!(%error, "archives will be imported again at the next start");
        }
        any
    }

    async fn import_one(
        &self,
        path: &Path,
        known: &BTreeMap<PathBuf, String>,
    ) -> Result<Option<String>, ContainerdError> {
        let fail = |source| ContainerdError::File { path: path.to_owned(), source };
        let found = std::fs::metadata(path).map_err(fail)?;
        let mark = format!("{} {:?}", found.len(), found.modified().map_err(fail)?);
        if known.get(path) == Some(&mark) {
            return Ok(None);
        }
        self.containerd.import_file(path, &LinuxRunner).await?;
        tracing::info!(archive = %path.display(), "images imported");
        Ok(Some(mark))
    }
}

/// Which archives this containerd has; the file is beside its data, so that both go together.
fn read_marks(path: &Path) -> BTreeMap<PathBuf, String> {
    let text = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn write_marks(path: &Path, marks: &BTreeMap<PathBuf, String>) -> std::io::Result<()> {
    host::files::write_atomic(path, &serde_json::to_vec(marks).map_err(std::io::Error::other)?, 0o600)
}
