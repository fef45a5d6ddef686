//! The service proxy as it is, on the real kernel, in a network of its own, with an API that has many Services. A figure ends when
//! a connection arrives where it should.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use clap::Args;
use component::Context;
use futures::FutureExt;
use host::network::Held;
use host::nft::NftProgram;
use host::nft::netlink::Monitor;
use kube_proxy::plan::Ranges;
use kube_proxy::{Config, ProxyMode};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::{Api, PORTS};
use super::{figure, milliseconds, percentile, processor_time, seconds};

/// How long anything may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections that may reach another endpoint than the one that is looked for, one of two.
const TRIES: usize = 64;

/// What `skiff bench services` is told.
#[derive(Args, Clone, Debug)]
pub struct ServicesFlags {
    /// How many Services there are, of two endpoints each
    #[arg(default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    services: u32,
    /// How many changes of one endpoint are measured
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
}

/// The address of a Service.
fn service(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 43, 1, 0)) + number)
}

/// The address of a pod; all of them are on this machine.
fn pod(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 1, 0)) + number)
}

fn endpoints(service: u32) -> [Ipv4Addr; 2] {
    [pod(service * 2), pod(service * 2 + 1)]
}

/// A machine on which every pod answers.
struct Machine {
    pods: TcpListener,
    monitor: Monitor,
}

impl Machine {
    async fn make(ranges: &Ranges, dns: Ipv4Addr) -> Result<Self> {
        let held = Held { pods: ranges.pods.clone(), services: ranges.services.clone(), local: vec![dns] };
        host::network::hold(&held).await.context("cannot hold the pod and service ranges")?;
        host::process::run("ip", &["route", "add", "local", &ranges.pods, "dev", "lo"]).await?;
        Ok(Self {
            pods: TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORTS.1))
                .await
                .context("cannot play the pods")?,
            monitor: Monitor::open().context("cannot watch the packet filter")?,
        })
    }

    /// Which pod a connection to a Service reaches; none, if it is refused.
    async fn reached(&self, number: u32) -> Result<Option<Ipv4Addr>> {
        let to = SocketAddr::from((service(number), PORTS.0));
        let Ok(stream) = timeout(PATIENCE, TcpStream::connect(to)).await.context("nobody answers")? else {
            return Ok(None);
        };
        let (accepted, _) = self.pods.accept().await.context("the pods cannot answer")?;
        // What it was, and not what it is worth: thousands of connections would wait for a while each.
        stream.set_zero_linger().context("the connection")?;
        match accepted.local_addr().context("the connection")? {
            SocketAddr::V4(address) => Ok(Some(*address.ip())),
            SocketAddr::V6(address) => bail!("{address} is no pod's"),
        }
    }

    /// Until connections to a Service reach this pod, if among others. Looked at whenever the packet filter has changed.
    async fn until_reached(&mut self, number: u32, pod: Ipv4Addr) -> Result<()> {
        let waiting = async {
            loop {
                self.monitor.next().await.context("cannot watch the packet filter")?;
                for _ in 0..TRIES {
                    match self.reached(number).await? {
                        Some(reached) if reached == pod => return Ok(()),
                        Some(_) => {}
                        None => break,
                    }
                }
            }
        };
        timeout(PATIENCE, waiting).await.with_context(|| format!("Service {number} did not lead to {pod}"))?
    }

    /// What was told so far is no news.
    fn forget(&mut self) -> Result<()> {
        while let Some(told) = self.monitor.next().now_or_never() {
            told.context("cannot watch the packet filter")?;
        }
        Ok(())
    }
}

/// Measures, and prints the figures.
pub async fn run(flags: ServicesFlags, shutdown: CancellationToken) -> Result<()> {
    let ranges = Ranges { pods: "10.64.0.0/10".to_owned(), services: "10.43.0.0/16".to_owned() };
    let dns = Ipv4Addr::new(10, 43, 0, 10);
    let mut machine = Machine::make(&ranges, dns).await?;
    let api = Api::new(flags.services, |number| (service(number), endpoints(number)));
    let (tasks, stop) = (TaskTracker::new(), shutdown.child_token());
    let context = Context {
        client: api.clone().client(),
        clock: Clock::system(),
        entropy: Entropy::from_os(),
        tasks: tasks.clone(),
        shutdown: stop.clone(),
    };
    let config = Config {
        node_name: "node-1".to_owned(),
        ranges,
        local_addresses: vec![dns],
        mode: ProxyMode::Nftables,
        ipvs: kube_proxy::ipvs::Settings::default(),
    };
    let nft = Arc::new(NftProgram::new(tasks.clone()));
    let mut proxy = JoinSet::new();
    let (busy, began) = (processor_time()?, Instant::now());
    proxy.spawn(kube_proxy::run(context, config, nft));
    let measuring = async {
        programmed(&mut machine, &flags, busy, began).await?;
        changed(&mut machine, &flags, &api).await
    };
    let outcome = tokio::select! {
        outcome = measuring => outcome,
        Some(ended) = proxy.join_next() => match ended.context("the service proxy failed")? {
            Ok(()) => Err(anyhow::anyhow!("ended before the end of the measurement")),
            Err(error) => Err(error).context("service proxy"),
        },
    };
    stop.cancel();
    while proxy.join_next().await.is_some() {}
    tasks.close();
    tasks.wait().await;
    outcome
}

/// From the start of a proxy that knows nothing until connections to Services arrive. All of them are in one transaction, so
/// that one shows it for all; then all are tried.
async fn programmed(
    machine: &mut Machine,
    flags: &ServicesFlags,
    busy: Duration,
    began: Instant,
) -> Result<()> {
    let last = flags.services - 1;
    machine.until_reached(last, endpoints(last)[0]).await?;
    let (took, worked) = (began.elapsed(), processor_time()?.saturating_sub(busy));
    for number in 0..flags.services {
        let reached = machine.reached(number).await?;
        ensure!(
            reached.is_some_and(|pod| endpoints(number).contains(&pod)),
            "Service {number} leads to {reached:?}"
        );
    }
    figure("programmed", seconds(took), "s");
    figure("programmed-cpu", seconds(worked), "s");
    Ok(())
}

/// From an event that one endpoint of a Service has become another until a connection reaches it.
async fn changed(machine: &mut Machine, flags: &ServicesFlags, api: &Api) -> Result<()> {
    let mut times = Vec::new();
    let busy = processor_time()?;
    for change in 0..flags.changes {
        // Far from the one before; 7919 is a prime.
        let number = u32::try_from(u64::from(change) * 7919 % u64::from(flags.services))?;
        let [stays, _] = endpoints(number);
        let new = pod(2 * flags.services + change);
        machine.forget()?;
        let began = Instant::now();
        api.change(number, &[stays, new], change + 2)?;
        machine.until_reached(number, new).await?;
        times.push(began.elapsed());
    }
    let worked = processor_time()?.saturating_sub(busy) / flags.changes;
    figure("change-median", milliseconds(percentile(&mut times, 50)), "ms");
    figure("change-p99", milliseconds(percentile(&mut times, 99)), "ms");
    figure("change-cpu", milliseconds(worked), "ms");
    Ok(())
}
