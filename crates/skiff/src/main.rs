//! The one binary: flags and wiring, nothing else. What a component does is in its crate.

mod agent;
mod bench;
mod cluster;
mod components;
mod datastore;
mod files;
mod flags;
mod install;
mod join;
mod load_balancers;
mod node_process;
mod server;
mod token;
mod tunnel;
mod uninstall;
mod upgrade;

use std::pin::Pin;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use flags::{Command, Flags};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let flags = Flags::parse();
    log(&flags.log_level);
    host::memory::give_back_large();
    host::names::without_plugins();
    match run(flags.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(level: &str) {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).init();
}

fn run(command: Command) -> Result<()> {
    // These change the namespaces that they are in, which must be done before there are threads.
    if let Command::Cluster(flags) = &command
        && let Some(outcome) = cluster::run_process(flags)
    {
        return outcome;
    }
    if let Command::Bench(flags) = &command {
        bench::isolate(flags)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().min(8)))
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    // Boxed, since `block_on` exists once for each kind of runtime, and would hold a copy of everything each time.
    let work: Pin<Box<dyn Future<Output = Result<()>>>> = Box::pin(async {
        let shutdown = CancellationToken::new();
        let signals = end_on_signal(shutdown.clone())?;
        let mut housekeeping = JoinSet::new();
        housekeeping.spawn(host::memory::give_back_small(shutdown.clone()));
        let outcome = match command {
            Command::Server(flags) => server::run(flags, shutdown).await,
            Command::Agent(flags) => agent::run(flags, shutdown).await,
            Command::Token(flags) => token::run(flags).await,
            Command::Cluster(flags) => cluster::run(flags, shutdown).await,
            Command::KubeApiserver(flags) => components::kube_apiserver::run(*flags, shutdown).await,
            Command::KubeScheduler(flags) => components::kube_scheduler::run(*flags, shutdown).await,
            Command::CloudControllerManager(flags) => {
                components::cloud_controller_manager::run(*flags, shutdown).await
            }
            Command::KubeControllerManager(flags) => {
                components::kube_controller_manager::run(*flags, shutdown).await
            }
            Command::Kubelet(flags) => components::kubelet::run(*flags, shutdown).await,
            Command::KubeProxy(flags) => components::kube_proxy::run(*flags, shutdown).await,
            Command::PodNetwork(flags) => components::pod_network::run(flags, shutdown).await,
            Command::Announcer(flags) => components::announcer::run(flags, shutdown).await,
            Command::Dns(flags) => components::dns::run(*flags, shutdown).await,
            Command::Bench(flags) => bench::run(flags, shutdown).await,
            Command::Install(flags) => install::run(flags).await,
            Command::Upgrade(flags) => upgrade::run(flags).await,
            Command::Uninstall(flags) => uninstall::run(flags).await,
        };
        signals.abort();
        outcome
    });
    let outcome = runtime.block_on(work);
    // A thread that waits for the node process to end would wait here for as long as the node lives.
    runtime.shutdown_background();
    outcome
}

/// Waits until all parts have ended. One that ends before `shutdown` takes the others with it: the process is started
/// again as a whole.
async fn together(mut parts: JoinSet<Result<()>>, shutdown: &CancellationToken) -> Result<()> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        let ended = ended.context("a part of the process failed").and_then(|result| result);
        let ended = if ended.is_ok() && !shutdown.is_cancelled() {
            Err(anyhow!("a part of the process ended without being told to"))
        } else {
            ended
        };
        shutdown.cancel();
        outcome = outcome.and(ended);
    }
    outcome
}

/// The first SIGTERM or SIGINT asks for an orderly end.
fn end_on_signal(shutdown: CancellationToken) -> Result<tokio::task::AbortHandle> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut tasks = tokio::task::JoinSet::new();
    let handle = tasks.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending");
        shutdown.cancel();
    });
    tasks.detach_all();
    Ok(handle)
}
