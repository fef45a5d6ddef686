//! Our containerd: started, adopted, restarted; and the sandbox image works.

use std::time::Duration;

use cri::messages::*;
use host::process::LinuxRunner;
use kubelet::containerd::Containerd;
use tokio_util::sync::CancellationToken;

use crate::sandbox::{block_on, data_dir, isolated, write_cni_config};

#[test]
fn a_sandbox_runs_in_our_own_containerd_and_outlives_it() {
    isolated("containerd::a_sandbox_runs_in_our_own_containerd_and_outlives_it", || {
        block_on(async {
            let (_guard, data) = data_dir();
            let ours = Containerd::new(&data, "containerd".into(), "/usr/lib/cni".into()).expect("layout");
            write_cni_config(&ours.layout().cni_config, &data.join("cni-addresses"));
            let first = ours.ensure().await.expect("started");
            let again = ours.ensure().await.expect("adopted");
            assert_eq!(first, again, "a second start adopts the first");

            let client = cri::Client::new(&ours.layout().socket);
            ours.ensure_pause_image(&client, &LinuxRunner).await.expect("imported");
            let id = run_sandbox(&client).await;
            let status = sandbox(&client, &id).await;
            assert_eq!(status.state(), PodSandboxState::SandboxReady);
            assert!(status.network.expect("an address").ip.starts_with("10.42.0."));

            let shutdown = CancellationToken::new();
            let supervisor = ours.supervise(first, shutdown.clone());
            let watch = async {
                first.kill().expect("killed");
                first.exited().await.expect("gone");
                let second = loop {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if client.version(VersionRequest::default()).await.is_ok() {
                        break ours.ensure().await.expect("it answers");
                    }
                };
                assert_ne!(first, second);
                assert_eq!(
                    sandbox(&client, &id).await.state(),
                    PodSandboxState::SandboxReady,
                    "nothing happened to it"
                );
                shutdown.cancel();
            };
            tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(supervisor, watch) })
                .await
                .expect("restarted in time");
            client
                .stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() })
                .await
                .expect("stopped");
            client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await.expect("removed");
        });
    });
}

async fn run_sandbox(client: &cri::Client) -> String {
    let metadata =
        PodSandboxMetadata { name: "a".into(), uid: "u".into(), namespace: "default".into(), attempt: 0 };
    let config = PodSandboxConfig {
        metadata: Some(metadata),
        hostname: "a".into(),
        linux: Some(LinuxPodSandboxConfig { cgroup_parent: "/skiff-test".into(), ..Default::default() }),
        ..PodSandboxConfig::default()
    };
    let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
    client.run_pod_sandbox(request).await.expect("a sandbox").pod_sandbox_id
}

async fn sandbox(client: &cri::Client, id: &str) -> PodSandboxStatus {
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    client.pod_sandbox_status(request).await.expect("known").status.expect("a status")
}
