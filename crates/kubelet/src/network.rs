//! The pod network of one node as CNI configuration: a bridge, addresses from the node's range, host ports. The range is
//! what the node's own object says. Masquerading is the service proxy's, which knows all ranges of the cluster; the way
//! to other nodes is the pod network's.

use std::io;
use std::path::Path;

use component::informer::{Change, Informer};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use tokio::sync::watch;

/// The pods' bridge.
pub const BRIDGE: &str = "skiff-pods";
/// The file, first in the order of names.
const FILE: &str = "10-skiff.conflist";

/// Keeps `range` what the node's own object says, as soon as it says something. A range is never taken back.
pub(crate) fn follow(own: &Informer<Node>, range: watch::Sender<Option<String>>) {
    own.on_change(move |change: Change<'_, Node>| {
        let spec = change.new.and_then(|node| node.spec.as_ref());
        let given = spec.and_then(|spec| spec.pod_cidr.clone()).filter(|given| !given.is_empty());
        range.send_if_modified(|known| {
            let news = given.is_some() && *known != given;
            if news {
                known.clone_from(&given);
            }
            news
        });
    });
}

/// The configuration for the range. `addresses` is where the address plugin remembers what it gave out; packets have at
/// most `mtu` bytes, or as many as the system thinks right.
#[must_use]
pub fn config(pod_cidr: &str, mtu: Option<u32>, addresses: &Path) -> String {
    let mut config = json!({
        "cniVersion": "0.4.0",
        "name": "skiff",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "forceAddress": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": addresses,
                    "ranges": [[{"subnet": pod_cidr}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    });
    if let Some(mtu) = mtu {
        config["plugins"][0]["mtu"] = mtu.into();
    }
    format!("{config:#}\n")
}

/// Writes the configuration into the runtime's directory, unless it is there.
///
/// # Errors
/// The file cannot be written.
pub fn write(directory: &Path, pod_cidr: &str, mtu: Option<u32>, addresses: &Path) -> io::Result<()> {
    let text = config(pod_cidr, mtu, addresses);
    let path = directory.join(FILE);
    if std::fs::read_to_string(&path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    std::fs::create_dir_all(directory)?;
    host::files::write_atomic(&path, text.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridge_has_the_size_of_the_way_to_other_nodes() {
        for (mtu, expected) in [(Some(1450), json!(1450)), (None, json!(null))] {
            let text = config("10.42.7.0/24", mtu, Path::new("/addresses"));
            let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(read["plugins"][0]["mtu"], expected);
            assert_eq!(read["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.42.7.0/24");
        }
    }
}
