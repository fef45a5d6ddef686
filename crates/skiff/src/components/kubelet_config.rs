//! The part of upstream's KubeletConfiguration that this kubelet does. A field that it does not do is an error that names
//! it, and not silence: who wrote it relies on it.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Taint;
use serde::Deserialize;

use super::config_file::ConfigFile;

/// The fields that are done.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeletConfiguration {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    pub address: Option<IpAddr>,
    pub port: Option<u16>,
    pub healthz_bind_address: Option<IpAddr>,
    pub healthz_port: Option<u16>,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Option<Vec<IpAddr>>,
    pub cluster_domain: Option<String>,
    pub container_runtime_endpoint: Option<String>,
    pub max_pods: Option<u32>,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Option<String>,
    #[serde(rename = "providerID")]
    pub provider_id: Option<String>,
    pub cgroup_root: Option<String>,
    cgroup_driver: Option<String>,
    pub tls_cert_file: Option<PathBuf>,
    pub tls_private_key_file: Option<PathBuf>,
    pub register_with_taints: Option<Vec<Taint>>,
    pub rotate_certificates: Option<bool>,
    #[serde(rename = "serverTLSBootstrap", default)]
    pub server_tls_bootstrap: bool,
    #[serde(default)]
    pub authentication: Authentication,
}

/// How clients of the kubelet's server prove who they are.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authentication {
    #[serde(default)]
    pub x509: X509,
    #[serde(default)]
    anonymous: Switch,
    #[serde(default)]
    webhook: Switch,
}

/// By a certificate.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct X509 {
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: Option<PathBuf>,
}

/// Something that can only be off.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    #[serde(default)]
    enabled: bool,
}

impl ConfigFile for KubeletConfiguration {
    const IS: (&'static str, &'static str) = ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration");

    fn says(&self) -> (&str, &str) {
        (&self.api_version, &self.kind)
    }
}

impl KubeletConfiguration {
    /// Reads YAML or JSON.
    pub fn parse(text: &str) -> Result<KubeletConfiguration> {
        let found = <KubeletConfiguration as ConfigFile>::parse(text)?;
        if let Some(driver) = found.cgroup_driver.as_deref().filter(|driver| *driver != "cgroupfs") {
            bail!("cgroupDriver: {driver:?} is not supported, only cgroupfs is");
        }
        if found.authentication.anonymous.enabled {
            bail!("authentication.anonymous.enabled: the kubelet is closed to those who are nobody");
        }
        if found.authentication.webhook.enabled {
            bail!("authentication.webhook.enabled: not supported, clients show a certificate");
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_done_is_an_error_that_names_it() {
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        KubeletConfiguration::parse(head).expect("nothing asked for");
        for (text, words) in [
            ("staticPodPath: /etc/kubernetes/manifests", "staticPodPath"),
            ("cgroupDriver: systemd", "only cgroupfs"),
            ("authentication: {anonymous: {enabled: true}}", "anonymous"),
            ("authentication: {webhook: {enabled: true}}", "webhook"),
            ("maxPods: many", "maxPods"),
        ] {
            let error = KubeletConfiguration::parse(&format!("{head}{text}")).expect_err(text);
            assert!(format!("{error:#}").contains(words), "{text}: {error:#}");
        }
        assert!(KubeletConfiguration::parse("kind: Pod").is_err());
    }
}
