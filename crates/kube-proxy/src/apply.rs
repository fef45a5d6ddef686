//! What every mode of the proxy does: bring the kernel to a plan by the difference. A mode keeps what it believes that
//! the kernel holds; in doubt (at the start, after a failure, after somebody else touched it) the kernel is asked.

use async_trait::async_trait;
use host::ipvs::IpvsError;
use host::nft::NftError;
use host::process::ProcessError;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::plan::{Changes, Plan};

/// Why the kernel could not be brought to a plan. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The packet filter.
    #[error("{0}")]
    Nft(#[from] NftError),
    /// The virtual server.
    #[error("{0}")]
    Ipvs(#[from] IpvsError),
    /// A program.
    #[error("{0}")]
    Program(#[from] ProcessError),
}

/// A way to tell the kernel of services.
#[async_trait]
pub trait Mode: Send {
    /// A message whenever somebody else touched what this mode made.
    fn monitor(&self) -> Result<mpsc::Receiver<()>, ApplyError>;

    /// What the kernel holds may be something else than is believed.
    fn doubt(&mut self);

    /// When the kernel must be looked at although nobody said that anything changed: a mode that is not told of everything
    /// says so.
    fn next_look(&self) -> Option<Instant> {
        None
    }

    /// Before any Service is known: a packet to one that does not exist (yet) is refused. Rules that an earlier proxy
    /// left stay as they are, since services go on while nobody can say what they are.
    async fn establish(&mut self) -> Result<(), ApplyError>;

    /// Takes in what changed, which led to `plan`, and brings the kernel to it. After a failure the changes are taken in
    /// nevertheless, and the kernel is in doubt.
    async fn reconcile(&mut self, plan: &Plan, changes: &Changes) -> Result<(), ApplyError>;
}
