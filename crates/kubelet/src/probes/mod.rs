//! Probes of containers: how one is carried out. When, and what its outcome means, is in `run`.

mod http;
mod run;

use std::net::IpAddr;
use std::time::Duration;

use cri::messages::ExecSyncRequest;
use k8s_openapi::api::core::v1::{Container, Probe as ProbeSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

pub(crate) use http::{HttpTarget, http};
pub(crate) use run::{Prober, Verdict};

use crate::runtime::Runtime;

/// What one probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// In words, for the event.
    Failure(String),
    /// It could not be carried out, which says nothing about the container.
    Unknown(String),
}

/// What a probe is carried out on.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub container_id: String,
    pub pod_ip: String,
}

/// Carries out a probe once.
pub(crate) async fn probe(
    runtime: &dyn Runtime,
    container: &Container,
    spec: &ProbeSpec,
    target: &Target,
) -> Outcome {
    let seconds = u64::try_from(spec.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1);
    let limit = Duration::from_secs(seconds);
    if let Some(exec) = &spec.exec {
        let cmd = exec.command.clone().unwrap_or_default();
        return command(runtime, target, cmd, seconds).await;
    }
    if let Some(get) = &spec.http_get {
        return match port_number(container, &get.port) {
            Ok(port) => http(&HttpTarget::of(get, &target.pod_ip, port, "kube-probe"), limit).await,
            Err(words) => Outcome::Failure(words),
        };
    }
    if let Some(socket) = &spec.tcp_socket {
        let host = socket.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(&target.pod_ip);
        return match port_number(container, &socket.port) {
            Ok(port) => tcp(host, port, limit).await,
            Err(words) => Outcome::Failure(words),
        };
    }
    Outcome::Failure("this kind of probe is not supported".to_owned())
}

async fn command(runtime: &dyn Runtime, target: &Target, cmd: Vec<String>, seconds: u64) -> Outcome {
    let timeout = i64::try_from(seconds).unwrap_or(1);
    let request = ExecSyncRequest { container_id: target.container_id.clone(), cmd: cmd.clone(), timeout };
    match runtime.exec(request).await {
        Ok(answer) if answer.exit_code == 0 => Outcome::Success,
        Ok(answer) => {
            let mut said = answer.stdout.to_vec();
            said.extend_from_slice(&answer.stderr);
            Outcome::Failure(String::from_utf8_lossy(&said[..said.len().min(10 << 10)]).into_owned())
        }
        Err(cri::Error::Deadline(_)) => {
            Outcome::Failure(format!("command timed out: \"{}\" timed out after {seconds}s", cmd.join(" ")))
        }
        Err(error) => Outcome::Unknown(error.to_string()),
    }
}

async fn tcp(host: &str, port: u16, limit: Duration) -> Outcome {
    let address = join(host, port);
    match tokio::time::timeout(limit, TcpStream::connect(&address)).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(format!("dial tcp {address}: connect: {}", words(&error))),
        Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
    }
}

/// Host and port in one, IPv6 in brackets.
pub(crate) fn join(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{host}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// The system's words as Go programs print them.
pub(crate) fn words(error: &std::io::Error) -> String {
    let text = error.to_string().to_lowercase();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// A port given by number or by its name in the container's spec.
pub(crate) fn port_number(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            match named {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("port {name:?} not found"))?,
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}
