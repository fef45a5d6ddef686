//! The pod network of one node as CNI configuration: a bridge, addresses from the node's range, host ports. Masquerading
//! is the service proxy's, which knows all ranges of the cluster.

use std::io;
use std::path::Path;

use serde_json::json;

/// The pods' bridge.
pub const BRIDGE: &str = "skiff-pods";
/// The file, first in the order of names.
const FILE: &str = "10-skiff.conflist";

/// The configuration for the range. `addresses` is where the address plugin remembers what it gave out.
#[must_use]
pub fn config(pod_cidr: &str, addresses: &Path) -> String {
    let config = json!({
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
    format!("{config:#}\n")
}

/// Writes the configuration into the runtime's directory, unless it is there.
///
/// # Errors
/// The file cannot be written.
pub fn write(directory: &Path, pod_cidr: &str, addresses: &Path) -> io::Result<()> {
    let text = config(pod_cidr, addresses);
    let path = directory.join(FILE);
    if std::fs::read_to_string(&path).is_ok_and(|known| known == text) {
        return Ok(());
    }
    std::fs::create_dir_all(directory)?;
    host::files::write_atomic(&path, text.as_bytes(), 0o600)
}
