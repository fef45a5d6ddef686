//! The flags of leader election, and what they ask for: of several instances of a component one leads. One that leads no
//! more ends, since another may lead already; one that is told to end lets another lead at once.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{ArgAction, Args};
use component::Context;
use component::lease::{Candidate, Timing};

use super::duration;

/// Flags with upstream's names and defaults.
#[derive(Args, Clone, Debug)]
pub struct LeaderElection {
    /// Lead before anything is done, so that several instances can run
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub leader_elect: bool,
    /// Another instance takes over when the lease was not renewed for this long
    #[arg(long, default_value = "15s", value_parser = duration)]
    pub leader_elect_lease_duration: Duration,
    /// A leader that could not renew for this long ends
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub leader_elect_renew_deadline: Duration,
    /// Time between attempts
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub leader_elect_retry_period: Duration,
    /// Name of the Lease; the component's own by default
    #[arg(long)]
    pub leader_elect_resource_name: Option<String>,
    /// Namespace of the Lease
    #[arg(long, default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,
    /// Kind of the lock
    #[arg(long, default_value = "leases", value_parser = ["leases"])]
    pub leader_elect_resource_lock: String,
}

impl LeaderElection {
    /// What stands for election as `name`.
    fn candidate(&self, context: &Context, name: &str) -> Result<Candidate> {
        let timing = Timing {
            duration: self.leader_elect_lease_duration,
            renew_deadline: self.leader_elect_renew_deadline,
            retry: self.leader_elect_retry_period,
        };
        let timing = timing.checked().context("leader election")?;
        let lease = self.leader_elect_resource_name.as_deref().unwrap_or(name);
        let namespace = &self.leader_elect_resource_namespace;
        Ok(Candidate::new(context.clone(), namespace, lease, identity(context)?).timing(timing))
    }
}

/// By what candidates are told from one another.
pub fn identity(context: &Context) -> Result<String> {
    let hostname = host::system::machine().context("cannot learn the host's name")?.hostname;
    Ok(format!("{hostname}_{}", context.entropy.uuid()))
}

/// Runs a component as the leader, and gives its Lease up when all that it does has ended. Its end without being told to
/// means that leadership was lost.
pub async fn run_as_leader<F: Future<Output = ()>>(
    flags: &LeaderElection,
    context: &Context,
    name: &str,
    component: impl FnOnce(Context) -> F,
) -> Result<()> {
    if !flags.leader_elect {
        component(context.clone()).await;
    } else if let Some(leadership) = flags.candidate(context, name)?.lead().await {
        tokio::select! {
            () = leadership.run(context, component) => {}
            // At once: what is still under way is not waited for.
            () = leadership.lost() => {}
        }
        if !context.shutdown.is_cancelled() {
            bail!("leaderelection lost");
        }
        leadership.release().await;
    }
    super::ended(context).await;
    Ok(())
}
