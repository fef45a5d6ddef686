//! `skiff bench`: makes load and measures, for `make bench`; a module for each kind of load. Every figure is printed on a line of
//! its own: its name, its value and its unit. Deliberately absent: what is promised, which `scripts/bench` judges.

mod api;
mod services;

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

/// What `skiff bench` is told.
#[derive(Args, Clone, Debug)]
pub struct BenchFlags {
    #[command(subcommand)]
    load: Load,
}

/// What is measured.
#[derive(Subcommand, Clone, Debug)]
enum Load {
    /// The service proxy with many Services: how soon the kernel has them all, and a change of one endpoint
    Services(services::ServicesFlags),
}

/// Leaves the machine's network, so that nothing measured here touches it; must come before there are threads.
pub fn isolate(flags: &BenchFlags) -> Result<()> {
    match &flags.load {
        Load::Services(_) => host::network::isolate().context("cannot make a network of its own (as root?)"),
    }
}

/// Runs to the end of the measurement, or until shutdown.
pub async fn run(flags: BenchFlags, shutdown: CancellationToken) -> Result<()> {
    match flags.load {
        Load::Services(flags) => services::run(flags, shutdown).await,
    }
}

fn figure(name: &str, value: impl Display, unit: &str) {
    println!("{name} {value} {unit}");
}

/// Processor time of this process and of the programs that it ran, so far.
fn processor_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("cannot learn the processor time")?;
    ticks(&stat).map(|ticks| Duration::from_millis(ticks * 10)).context("/proc/self/stat is not what it was")
}

/// Clock ticks of a hundredth of a second: user, system, and both of the children that were waited for.
fn ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name, in parentheses, which may have spaces.
    let (_, fields) = stat.rsplit_once(')')?;
    let times: Vec<u64> =
        fields.split_whitespace().skip(11).take(4).map(str::parse).collect::<Result<_, _>>().ok()?;
    (times.len() == 4).then(|| times.iter().sum())
}

/// The time that so many percent of `times` do not exceed.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_the_process_and_of_its_children() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 2137 99 0 0 11 22 33 44 20 0 1 0 12345 1 2 3";
        assert_eq!(ticks(stat), Some(110));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let mut times: Vec<Duration> = (1..=101).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut times, 50), Duration::from_millis(51));
        assert_eq!(percentile(&mut times, 99), Duration::from_millis(100));
        assert_eq!(percentile(&mut [], 99), Duration::ZERO);
    }
}
