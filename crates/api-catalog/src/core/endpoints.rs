//! Endpoints, the older form of EndpointSlices.

use api_machinery::field::Errors;
use api_machinery::names;
use jiff::Timestamp;
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::fill::{Fill, each_mut, fill, text};
use crate::print::{NONE, number};

/// Addresses that a table shows before it only counts.
const SHOWN: usize = 3;

pub(crate) fn summary(endpoints: &Value, _: Timestamp) -> Value {
    let mut all: Vec<String> = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let addresses = || subset["addresses"].as_array().into_iter().flatten().map(|a| text(a, "ip"));
        let ports = subset["ports"].as_array().map(Vec::as_slice).unwrap_or(&[]);
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(addresses().map(|ip| match ip.contains(':') {
                true => format!("[{ip}]:{}", number(&port["port"])),
                false => format!("{ip}:{}", number(&port["port"])),
            }));
        }
    }
    match all.len() {
        0 => Value::from(NONE),
        n if n > SHOWN => Value::from(format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN)),
        _ => Value::from(all.join(",")),
    }
}

pub(crate) fn default(endpoints: &mut Value) {
    for subset in each_mut(endpoints, "subsets") {
        for port in each_mut(subset, "ports") {
            fill(port, &[("protocol", Fill::Text("TCP"))]);
        }
    }
}

pub(crate) fn validate(endpoints: &Value, e: &mut Errors) {
    let root = At::root(endpoints);
    for subset in root.get("subsets").items() {
        let (ready, other) = (subset.get("addresses"), subset.get("notReadyAddresses"));
        if ready.is_empty() && other.is_empty() {
            subset.required(e, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in [&ready, &other] {
            for address in list.items() {
                endpoint_ip(&address.get("ip"), e);
                check::name(&address.get("hostname"), names::is_dns1123_label, e);
                check::name(&address.get("nodeName"), names::is_dns1123_subdomain, e);
            }
        }
        let ports = subset.get("ports");
        for port in ports.items() {
            let name = port.get("name");
            if ports.len() > 1 && name.is_empty() {
                name.required(e, "");
            }
            check::name(&name, names::is_dns1123_label, e);
            check::port_number(&port.get("port"), e);
            check::required_one_of(&port.get("protocol"), &["SCTP", "TCP", "UDP"], e);
            check::name(&port.get("appProtocol"), names::is_qualified_name, e);
        }
    }
}

/// An address that others can reach: no loopback, link-local or multicast.
pub(crate) fn endpoint_ip(at: &At, e: &mut Errors) {
    use std::net::IpAddr;
    let Some(ip) = check::parse_ip(at.text()) else { return check::ip(at, e) };
    let mut wrong = |detail: &str| at.invalid(e, detail);
    if ip.is_unspecified() {
        wrong(&format!("may not be unspecified ({ip})"));
    }
    if ip.is_loopback() {
        wrong("may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        wrong("may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_multicast {
        wrong("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}
