//! The text of a pod's `/etc/hosts`.

use std::fmt::Write;

use k8s_openapi::api::core::v1::Pod;

use super::{hostname, namespace, spec};

const OWN_HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";

/// The file's text. `node` is the node's own file, for pods on the node's network.
#[must_use]
pub fn hosts_file(pod: &Pod, pod_ips: &[String], domain: &str, node: &str) -> String {
    let mut text = String::new();
    if spec(pod).host_network.unwrap_or(false) {
        text.push_str(HOST_HEADER);
        text.push_str(node);
    } else {
        text.push_str(OWN_HEADER);
        text.push_str(LOCAL);
        let host = hostname(pod);
        let subdomain = spec(pod).subdomain.as_deref().filter(|subdomain| !subdomain.is_empty());
        for ip in pod_ips {
            let line = match subdomain {
                Some(subdomain) => {
                    format!("{ip}\t{host}.{subdomain}.{}.svc.{domain}\t{host}\n", namespace(pod))
                }
                None => format!("{ip}\t{host}\n"),
            };
            text.push_str(&line);
        }
    }
    let aliases = spec(pod).host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            writeln!(text, "{}\t{names}", alias.ip).expect("writing to a string");
        }
    }
    text
}
