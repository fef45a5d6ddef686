//! The kubeconfig by which this machine reaches a cluster: the administrator's, with the port that the switch passes on.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use host::notify::Watch;

use super::layout::Layout;
use super::switch;

/// The control plane has written its files within this time.
const WRITTEN: Duration = Duration::from_secs(30);

/// Where this machine reaches the API server.
pub fn url(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

/// Waits for the control plane's file and writes ours.
pub async fn write(layout: &Layout, server: &str) -> Result<()> {
    let file = layout.data_dir(server).join("server/cred/admin.kubeconfig");
    appears(&file).await?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let port = switch::port(layout).context("the switch says no port")?;
    let text = redirected(&text, &url(port)).with_context(|| format!("no server in {}", file.display()))?;
    let ours = layout.kubeconfig();
    host::files::write_atomic(&ours, text.as_bytes(), 0o600)
        .with_context(|| format!("cannot write {}", ours.display()))
}

/// Waits for a file that the control plane writes when it starts.
pub async fn appears(file: &Path) -> Result<()> {
    let folder = file.parent().context("a file is in a folder")?;
    super::nodes::make(folder)?;
    let mut watch = Watch::new(folder).with_context(|| format!("cannot watch {}", folder.display()))?;
    let seen = async {
        while !file.exists() {
            watch.changed().await?;
        }
        Ok::<_, std::io::Error>(())
    };
    match tokio::time::timeout(WRITTEN, seen).await {
        Ok(seen) => seen.with_context(|| format!("cannot watch {}", folder.display())),
        Err(_) => bail!("the control plane did not write {} within {WRITTEN:?}", file.display()),
    }
}

/// Ours.
pub fn text(layout: &Layout) -> Result<String> {
    let ours = layout.kubeconfig();
    std::fs::read_to_string(&ours).with_context(|| format!("cannot read {}", ours.display()))
}

/// The same kubeconfig with another server.
fn redirected(text: &str, url: &str) -> Option<String> {
    let begin = text.find("https://")?;
    let length = text[begin..].find(|letter: char| letter.is_whitespace() || letter == '"' || letter == '\'');
    let end = length.map_or(text.len(), |length| begin + length);
    Some(format!("{}{url}{}", &text[..begin], &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_server_is_another() {
        let cases = [
            ("server: https://127.0.0.1:6443\nuser: a", Some("server: https://127.0.0.1:7\nuser: a")),
            ("{\"server\": \"https://[::1]:6443\"}", Some("{\"server\": \"https://127.0.0.1:7\"}")),
            ("server: https://x", Some("server: https://127.0.0.1:7")),
            ("nothing", None),
        ];
        for (text, expected) in cases {
            assert_eq!(redirected(text, &url(7)).as_deref(), expected, "{text}");
        }
    }
}
