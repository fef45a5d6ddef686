//! What a pod may learn about itself: `fieldRef` and `resourceFieldRef`.

use std::fmt::Write;

use api_machinery::quantity::Quantity;
use k8s_openapi::api::core::v1::{Pod, ResourceFieldSelector};

use super::{ConfigError, NodeResources, all_containers, name, namespace, quantity, spec};

/// The pod and what is known of its place.
#[derive(Debug, Clone, Copy)]
pub struct Downward<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its addresses.
    pub pod_ips: &'a [String],
    /// Its node's addresses.
    pub host_ips: &'a [String],
    /// What its node has.
    pub node: &'a NodeResources,
}

/// The value of a `fieldRef`.
///
/// # Errors
/// The path names nothing that is offered.
pub fn field(source: &Downward<'_>, path: &str) -> Result<String, ConfigError> {
    let pod = source.pod;
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = if map == "metadata.labels" { &pod.metadata.labels } else { &pod.metadata.annotations };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => name(pod).to_owned(),
        "metadata.namespace" => namespace(pod).to_owned(),
        "metadata.uid" => pod.metadata.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => spec(pod).node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec(pod).service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => first(source.host_ips),
        "status.hostIPs" => source.host_ips.join(","),
        "status.podIP" => first(source.pod_ips),
        "status.podIPs" => source.pod_ips.join(","),
        _ => return Err(ConfigError::new(format!("unsupported fieldPath: {path}"))),
    })
}

fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    let key = rest.strip_suffix("']")?;
    matches!(map, "metadata.labels" | "metadata.annotations").then_some((map, key))
}

/// `key="value"` lines, as downward volumes have them.
fn lines(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (position, (key, value)) in map.into_iter().flatten().enumerate() {
        let separator = if position == 0 { "" } else { "\n" };
        write!(text, "{separator}{key}={}", go_quote(value)).expect("writing to a string");
    }
    text
}

/// A string as Go's `%q` prints it.
fn go_quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if control.is_control() => {
                write!(quoted, "\\x{:02x}", u32::from(control)).expect("writing to a string");
            }
            plain => quoted.push(plain),
        }
    }
    quoted.push('"');
    quoted
}

/// The value of a `resourceFieldRef`; `own` is the container that asks when it names none.
///
/// # Errors
/// The container or the resource does not exist.
pub fn resource_field(
    source: &Downward<'_>,
    own: &str,
    selector: &ResourceFieldSelector,
) -> Result<String, ConfigError> {
    let wanted = selector.container_name.as_deref().filter(|name| !name.is_empty()).unwrap_or(own);
    let container = all_containers(source.pod).find(|container| container.name == wanted);
    let container = container.ok_or_else(|| ConfigError::new(format!("container {wanted} not found")))?;
    let unsupported = || ConfigError::new(format!("unsupported container resource : {}", selector.resource));
    let (list, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let resources = container.resources.clone().unwrap_or_default();
    let found = match list {
        "limits" => quantity(resources.limits.as_ref(), resource).or_else(|| node_has(source.node, resource)),
        "requests" => {
            quantity(resources.requests.as_ref(), resource).or_else(|| Some(Quantity::from_millis(0)))
        }
        _ => None,
    };
    let found = found.ok_or_else(unsupported)?;
    let divisor = selector.divisor.as_ref().and_then(|divisor| Quantity::parse(&divisor.0).ok());
    let divisor = divisor.map_or(0, Quantity::nanos);
    let divisor = if divisor == 0 { Quantity::from_millis(1000).nanos() } else { divisor };
    // Rounded up: a limit of 100m CPU is one CPU.
    Ok(((found.nanos() + divisor - 1) / divisor).to_string())
}

/// Without a limit of its own a container has what the node has.
fn node_has(node: &NodeResources, resource: &str) -> Option<Quantity> {
    let millis = match resource {
        "cpu" => node.cpu_millis,
        "memory" => node.memory.checked_mul(1000)?,
        "ephemeral-storage" => node.ephemeral_storage.checked_mul(1000)?,
        _ => return None,
    };
    Some(Quantity::from_millis(millis))
}
