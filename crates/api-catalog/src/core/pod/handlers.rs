//! Validation of probes and lifecycle hooks.

use api_machinery::field::Errors;

use crate::at::At;
use crate::check;
use crate::check::table::{Rule, Table, follow};

const PROBE: &Table = &[
    ("initialDelaySeconds", Rule::NotNegative),
    ("timeoutSeconds", Rule::NotNegative),
    ("periodSeconds", Rule::NotNegative),
    ("successThreshold", Rule::NotNegative),
    ("failureThreshold", Rule::NotNegative),
];

/// The three probes of a container.
pub(crate) fn probes(container: &At, grace: i64, e: &mut Errors) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.get(name);
        if !probe.is_set() {
            continue;
        }
        handler(&probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace, e);
        follow(&probe, PROBE, e);
        let own_grace = probe.get("terminationGracePeriodSeconds");
        if own_grace.int().is_some_and(|seconds| seconds <= 0) {
            own_grace.invalid(e, "must be greater than 0");
        }
        if name == "readinessProbe" {
            if own_grace.is_set() {
                own_grace.invalid(e, "must not be set for readinessProbes");
            }
        } else if probe.get("successThreshold").int().is_some_and(|n| n != 1) {
            probe.get("successThreshold").invalid(e, "must be 1");
        }
    }
}

/// `postStart`, `preStop` and the stop signal.
pub(crate) fn lifecycle(lifecycle: &At, grace: i64, e: &mut Errors) {
    for hook in ["postStart", "preStop"] {
        let at = lifecycle.get(hook);
        if at.is_set() {
            handler(&at, &["exec", "httpGet", "tcpSocket", "sleep"], grace, e);
        }
    }
}

/// Exactly one way of asking.
fn handler(at: &At, ways: &[&str], grace: i64, e: &mut Errors) {
    let mut found = 0;
    for way in ways {
        let action = at.get(way);
        if !action.is_set() {
            continue;
        }
        found += 1;
        if found > 1 {
            action.forbidden(e, "may not specify more than 1 handler type");
            continue;
        }
        match *way {
            "exec" => {
                action.get("command").must_be_set(e);
            }
            "httpGet" => http_get(&action, e),
            "sleep" => sleep(&action, grace, e),
            "grpc" => check::port_number(&action.get("port"), e),
            _ => check::port(&action.get("port"), e),
        }
    }
    if found == 0 {
        at.required(e, "must specify a handler type");
    }
}

fn http_get(action: &At, e: &mut Errors) {
    action.get("path").must_be_set(e);
    check::port(&action.get("port"), e);
    let scheme = action.get("scheme");
    if !matches!(scheme.text(), "HTTP" | "HTTPS") {
        scheme.not_supported(e, &["HTTP", "HTTPS"]);
    }
    let headers = action.get("httpHeaders");
    for header in headers.items() {
        let name = header.get("name");
        let sound = !name.is_empty() && name.text().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !sound {
            // Upstream names the list, not the item.
            headers.invalid_as(e, name.text(), "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')");
        }
    }
}

fn sleep(action: &At, grace: i64, e: &mut Errors) {
    let seconds = action.get("seconds").int().unwrap_or(0);
    if seconds < 0 || seconds > grace {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        action.invalid_as(e, seconds, detail);
    }
}
