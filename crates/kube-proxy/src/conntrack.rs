//! Makes the kernel forget translations that outlived their rules, by the `conntrack` program. What is to be forgotten
//! is decided in [`crate::rules`].

use host::process::{self, ProcessError};

use crate::rules::Stale;

/// What the program says when there was no such flow, which is as good.
const NONE: &str = "0 flow entries";

/// Forgets all flows of a client to a backend through a service.
pub async fn forget(flow: &Stale) -> Result<(), ProcessError> {
    let Stale { address, port, backend, backend_port } = flow;
    let mut arguments = vec!["-D", "-p", "udp", "--orig-port-dst", port];
    if let Some(address) = address {
        arguments.extend(["--orig-dst", address]);
    }
    arguments.extend(["--reply-src", backend, "--reply-port-src", backend_port]);
    match process::run("conntrack", &arguments).await {
        Err(ProcessError::Failed { stderr, .. }) if stderr.contains(NONE) => Ok(()),
        outcome => outcome.map(drop),
    }
}
