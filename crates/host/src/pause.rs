//! The pause program that holds a sandbox's namespaces, built from `pause/pause.rs` together with this crate.
//! Packing it into an image is the kubelet's business.

/// A static executable for this machine's architecture, without any dependency on files.
pub const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::process::{Daemon, Identity};

    fn written(dir: &tempfile::TempDir) -> std::path::PathBuf {
        let path = dir.path().join("pause");
        std::fs::write(&path, PAUSE).expect("the directory is ours");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("the file is ours");
        path
    }

    #[test]
    fn it_is_small_and_static() {
        assert_eq!(&PAUSE[..4], b"\x7fELF");
        assert!(PAUSE.len() < 16 << 10, "{} bytes", PAUSE.len());
        assert!(!PAUSE.windows(8).any(|window| window == b"ld-linux"), "needs no loader");
    }

    #[tokio::test]
    async fn it_waits_until_it_is_told_to_leave() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let daemon = Daemon::new(written(&dir), dir.path().join("log"));
        let process = daemon.spawn().expect("a static program starts anywhere");
        let identity = Identity::of(process.pid).expect("it has just been started");
        let early = tokio::time::timeout(Duration::from_millis(50), identity.exited()).await;
        assert!(early.is_err(), "it must hold the sandbox until told otherwise");
        identity.terminate().expect("it is our own child");
        let exited = tokio::time::timeout(Duration::from_secs(10), identity.exited()).await;
        exited.expect("SIGTERM ends it").expect("it can be waited for");
    }
}
