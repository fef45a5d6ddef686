//! Life-cycle hooks of containers: commands, HTTP requests and pauses after a start and before an end.

use std::time::Duration;

use cri::messages::ExecSyncRequest;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::probes::{HttpTarget, Outcome, http, port_number};
use crate::shared::Shared;

/// Runs one hook to its end. The caller bounds its time.
pub(crate) async fn run(
    shared: &Shared,
    container: &Container,
    container_id: &str,
    pod_ip: &str,
    hook: &LifecycleHandler,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let cmd = exec.command.clone().unwrap_or_default();
        let timeout = i64::try_from(limit.as_secs().max(1)).unwrap_or(i64::MAX);
        let request = ExecSyncRequest { container_id: container_id.to_owned(), cmd: cmd.clone(), timeout };
        let answer = shared.runtime.exec(request).await.map_err(|error| error.to_string())?;
        if answer.exit_code == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        return Err(format!("command '{}' exited with {}: {said}", cmd.join(" "), answer.exit_code));
    }
    if let Some(get) = &hook.http_get {
        let port = port_number(container, &get.port)?;
        let target = HttpTarget::of(get, pod_ip, port, "kube-lifecycle");
        return match http(&target, limit).await {
            // Any answer will do: a hook is told, not asked.
            Outcome::Success => Ok(()),
            Outcome::Failure(words) | Outcome::Unknown(words) => Err(words),
        };
    }
    if let Some(pause) = &hook.sleep {
        let wanted = Duration::from_secs(u64::try_from(pause.seconds).unwrap_or(0));
        tokio::time::sleep(wanted.min(limit)).await;
    }
    Ok(())
}
