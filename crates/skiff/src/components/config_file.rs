//! The files of `--config` of scheduler and service proxy: those parts of upstream's KubeSchedulerConfiguration and
//! KubeProxyConfiguration that are done here. As upstream has it, what the file says goes before flags. A field that is not done
//! is an error that names it, and not silence: who wrote it relies on it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Deserializer};

use super::election::LeaderElection;

/// What such a file is.
pub trait ConfigFile: serde::de::DeserializeOwned {
    /// Its API version and kind.
    const IS: (&'static str, &'static str);

    /// What it says that it is.
    fn says(&self) -> (&str, &str);

    /// Reads YAML or JSON.
    fn parse(text: &str) -> Result<Self> {
        let (version, kind) = Self::IS;
        let found: Self =
            serde_saphyr::from_str(text).with_context(|| format!("not a {kind} that can be followed"))?;
        let (is_version, is_kind) = found.says();
        if (is_version, is_kind) != Self::IS {
            bail!("is {is_version} {is_kind}, and not {version} {kind}");
        }
        Ok(found)
    }

    /// Reads the file of `--config`.
    fn read(path: &Path) -> Result<Self> {
        let text = super::read_text("--config", path)?;
        Self::parse(&text).with_context(|| format!("--config: {}", path.display()))
    }
}

/// How the API server is reached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConnection {
    pub kubeconfig: Option<PathBuf>,
}

/// The section `leaderElection`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Election {
    leader_elect: Option<bool>,
    #[serde(deserialize_with = "time")]
    lease_duration: Option<Duration>,
    #[serde(deserialize_with = "time")]
    renew_deadline: Option<Duration>,
    #[serde(deserialize_with = "time")]
    retry_period: Option<Duration>,
    resource_lock: Option<String>,
    resource_name: Option<String>,
    resource_namespace: Option<String>,
}

fn time<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(input)?;
    super::duration(&text).map(Some).map_err(serde::de::Error::custom)
}

/// The part of KubeSchedulerConfiguration that is done.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeSchedulerConfiguration {
    api_version: String,
    kind: String,
    pub client_connection: ClientConnection,
    leader_election: Election,
}

impl ConfigFile for KubeSchedulerConfiguration {
    const IS: (&'static str, &'static str) = ("kubescheduler.config.k8s.io/v1", "KubeSchedulerConfiguration");

    fn says(&self) -> (&str, &str) {
        (&self.api_version, &self.kind)
    }
}

impl KubeSchedulerConfiguration {
    /// Leader election by the flags, except for what the file says.
    pub fn election(&self, flags: LeaderElection) -> Result<LeaderElection> {
        let file = self.leader_election.clone();
        if let Some(lock) = file.resource_lock.filter(|lock| lock != "leases") {
            bail!("--config: leaderElection.resourceLock: {lock:?} is not supported, only leases is");
        }
        Ok(LeaderElection {
            leader_elect: file.leader_elect.unwrap_or(flags.leader_elect),
            leader_elect_lease_duration: file.lease_duration.unwrap_or(flags.leader_elect_lease_duration),
            leader_elect_renew_deadline: file.renew_deadline.unwrap_or(flags.leader_elect_renew_deadline),
            leader_elect_retry_period: file.retry_period.unwrap_or(flags.leader_elect_retry_period),
            leader_elect_resource_name: file.resource_name.or(flags.leader_elect_resource_name),
            leader_elect_resource_namespace: file
                .resource_namespace
                .unwrap_or(flags.leader_elect_resource_namespace),
            leader_elect_resource_lock: flags.leader_elect_resource_lock,
        })
    }
}

/// The part of KubeProxyConfiguration that is done.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeProxyConfiguration {
    api_version: String,
    kind: String,
    pub client_connection: ClientConnection,
    pub hostname_override: Option<String>,
    pub healthz_bind_address: Option<SocketAddr>,
    pub mode: Option<String>,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: Option<String>,
    pub ipvs: Ipvs,
}

/// The section `ipvs`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Ipvs {
    pub scheduler: Option<String>,
    #[serde(rename = "strictARP")]
    pub strict_arp: Option<bool>,
    #[serde(deserialize_with = "time")]
    pub sync_period: Option<Duration>,
    #[serde(rename = "excludeCIDRs")]
    pub exclude_cidrs: Option<Vec<String>>,
}

impl ConfigFile for KubeProxyConfiguration {
    const IS: (&'static str, &'static str) = ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration");

    fn says(&self) -> (&str, &str) {
        (&self.api_version, &self.kind)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        flags: LeaderElection,
    }

    const SCHEDULER: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";
    const PROXY: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    #[test]
    fn a_schedulers_file_goes_before_its_flags() {
        let line =
            ["kube-scheduler", "--leader-elect-retry-period", "3s", "--leader-elect-lease-duration", "9s"];
        let flags = Only::parse_from(line).flags;
        let text = format!(
            "{SCHEDULER}clientConnection: {{kubeconfig: /k}}\nleaderElection: {{leaderElect: true, leaseDuration: 20s, resourceName: own}}"
        );
        let file = KubeSchedulerConfiguration::parse(&text).expect("a configuration");
        assert_eq!(file.client_connection.kubeconfig.as_deref(), Some(Path::new("/k")));
        let merged = file.election(flags).expect("merged");
        let seconds =
            [merged.leader_elect_lease_duration, merged.leader_elect_retry_period].map(|time| time.as_secs());
        assert_eq!(seconds, [20, 3]);
        assert_eq!(merged.leader_elect_resource_name.as_deref(), Some("own"));
    }

    #[test]
    fn what_is_not_done_is_an_error_that_names_it() {
        for (text, words) in [
            ("profiles: [{schedulerName: other}]", "profiles"),
            ("parallelism: 8", "parallelism"),
            ("clientConnection: {qps: 50}", "qps"),
            ("leaderElection: {leaseDuration: soon}", "not a time"),
        ] {
            let error = KubeSchedulerConfiguration::parse(&format!("{SCHEDULER}{text}")).expect_err(text);
            assert!(format!("{error:#}").contains(words), "{text}: {error:#}");
        }
        for (text, words) in [
            ("iptables: {masqueradeAll: true}", "iptables"),
            ("conntrack: {maxPerCore: 1}", "conntrack"),
            ("healthzBindAddress: here", "healthzBindAddress"),
        ] {
            let error = KubeProxyConfiguration::parse(&format!("{PROXY}{text}")).expect_err(text);
            assert!(format!("{error:#}").contains(words), "{text}: {error:#}");
        }
        let error = KubeProxyConfiguration::parse(SCHEDULER).expect_err("another kind");
        assert!(error.to_string().contains("and not kubeproxy.config.k8s.io/v1alpha1"), "{error}");
    }
}
