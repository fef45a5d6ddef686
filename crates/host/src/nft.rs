//! The packet filter behind a trait: apply a script atomically, change elements of maps atomically and fast, list a
//! table, be told when somebody touches one. The real one runs the `nft` program, and speaks to the kernel itself where
//! that is too slow. Knows nothing of what the rules mean.

pub mod netlink;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::netlink::{Connection, ElementChange, Monitor};

/// Why a request to the packet filter failed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is missing or could not be started.
    #[error("cannot run nft: {0}")]
    Start(#[from] std::io::Error),
    /// The kernel or the program refused; nothing was applied.
    #[error("nft refused: {0}")]
    Refused(String),
    /// The listing was not JSON.
    #[error("nft printed something that is not JSON: {0}")]
    Listing(#[from] serde_json::Error),
    /// The kernel refused to be spoken to.
    #[error("cannot speak to the packet filter: {0}")]
    Connection(#[source] std::io::Error),
    /// The kernel refused changes of elements; none was made.
    #[error("the packet filter refused elements: {0}")]
    Elements(#[source] std::io::Error),
}

/// A packet filter.
#[async_trait]
pub trait Nft: Send + Sync {
    /// Applies a script in one transaction: all of it or nothing.
    async fn apply(&self, script: &str) -> Result<(), NftError>;

    /// Changes elements of a table of the `ip` family, in the given order and in one transaction.
    async fn change(&self, table: &str, changes: Vec<ElementChange>) -> Result<(), NftError>;

    /// The table of the `ip` family as `nft --json` prints it, or `None` if there is no such table.
    async fn list(&self, table: &str) -> Result<Option<Value>, NftError>;

    /// A message whenever somebody else changed one of these tables of the `ip` family. Bursts are merged; none is
    /// lost. When this method returns, the monitor listens.
    fn monitor(&self, tables: &[&str]) -> Result<mpsc::Receiver<()>, NftError>;
}

/// The packet filter of this machine, in the network namespace of the thread that made this value and of the threads
/// that use it.
pub struct NftProgram {
    tasks: TaskTracker,
    stop: CancellationToken,
    connection: Mutex<Option<Arc<Connection>>>,
    /// The programs that we ran last, and our connection: what they change is no news.
    own: Arc<Mutex<VecDeque<u32>>>,
    _stop_on_drop: DropGuard,
}

impl NftProgram {
    /// Monitors run on `tasks` and end with this value.
    pub fn new(tasks: TaskTracker) -> Self {
        let stop = CancellationToken::new();
        let connection = Mutex::default();
        Self { tasks, stop: stop.clone(), connection, own: Arc::default(), _stop_on_drop: stop.drop_guard() }
    }

    /// Notes a program that changes the packet filter for us (`iptables-restore`): what it does is no news either.
    pub fn disregard(&self, process: u32) {
        remember(&self.own, Some(process));
    }

    fn connection(&self) -> Result<Arc<Connection>, NftError> {
        let mut connection = lock(&self.connection);
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let new = Arc::new(Connection::open().map_err(NftError::Connection)?);
        Ok(connection.insert(new).clone())
    }
}

#[expect(clippy::disallowed_methods, reason = "the host crate is where processes are started")]
fn nft(arguments: &[&str]) -> tokio::process::Command {
    use std::process::Stdio;
    let mut command = tokio::process::Command::new("nft");
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

const REMEMBERED: usize = 64;

fn remember(own: &Mutex<VecDeque<u32>>, process: Option<u32>) {
    let mut own = lock(own);
    own.extend(process);
    while own.len() > REMEMBERED {
        own.pop_front();
    }
}

fn lock<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[async_trait]
impl Nft for NftProgram {
    async fn apply(&self, script: &str) -> Result<(), NftError> {
        let mut child = nft(&["-f", "-"]).stdin(std::process::Stdio::piped()).spawn()?;
        remember(&self.own, child.id());
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes()).await?;
        }
        let output = child.wait_with_output().await?;
        match output.status.success() {
            true => Ok(()),
            false => Err(NftError::Refused(String::from_utf8_lossy(&output.stderr).into_owned())),
        }
    }

    async fn list(&self, table: &str) -> Result<Option<Value>, NftError> {
        let output = nft(&["--json", "list", "table", "ip", table]).output().await?;
        if output.status.success() {
            return Ok(Some(serde_json::from_slice(&output.stdout)?));
        }
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        match complaint.contains("No such file or directory") {
            true => Ok(None),
            false => Err(NftError::Refused(complaint)),
        }
    }

    async fn change(&self, table: &str, changes: Vec<ElementChange>) -> Result<(), NftError> {
        let (connection, table) = (self.connection()?, table.to_owned());
        let work = tokio::task::spawn_blocking(move || connection.change(&table, &changes));
        work.await.map_err(|error| NftError::Elements(error.into()))?.map_err(NftError::Elements)
    }

    fn monitor(&self, tables: &[&str]) -> Result<mpsc::Receiver<()>, NftError> {
        let tables: BTreeSet<String> = tables.iter().map(|table| (*table).to_owned()).collect();
        let mut monitor = Monitor::open().map_err(NftError::Connection)?;
        let port = self.connection()?.port();
        let (sender, receiver) = mpsc::channel(1);
        let (stop, own) = (self.stop.clone(), self.own.clone());
        self.tasks.spawn(async move {
            let follow = async {
                loop {
                    let news = match monitor.next().await {
                        Ok(None) => true,
                        Ok(Some(touches)) => touches.iter().any(|touch| {
                            tables.contains(&touch.table)
                                && touch.by != port
                                && !lock(&own).contains(&touch.by)
                        }),
                        Err(error) => {
                            tracing::warn!(%error, "changes of the packet filter are no longer seen");
                            break;
                        }
                    };
                    // A full channel already says what this says.
                    if news && let Err(mpsc::error::TrySendError::Closed(())) = sender.try_send(()) {
                        break;
                    }
                }
            };
            tokio::select! {
                () = follow => {}
                () = stop.cancelled() => {}
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }
}
