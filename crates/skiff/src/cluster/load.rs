//! Images into nodes, from a file. The archive is put where the kubelet looks for archives, so that a node has the images
//! again when its runtime's data is lost, and pods that wait for one are tried again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use host::process::{LinuxRunner, Runner};

use super::layout::{DATA_DIR, Layout};
use super::nodes;

/// Importing takes no longer.
const LIMIT: Duration = Duration::from_secs(600);

/// Imports an archive into every node that runs; a node that does not will when it starts.
pub async fn load(layout: &Layout, known: &[String], file: &Path) -> Result<()> {
    let name = archive_name(file)?;
    for node in known {
        let place = put(layout, node, file, &format!("{name}.new"))?;
        if let Some(first) = nodes::first_process(layout, node)? {
            let inside = format!("{DATA_DIR}/agent/images/{name}.new");
            let socket = format!("{DATA_DIR}/agent/containerd/containerd.sock");
            let words = ["ctr", "--address", &socket, "--namespace", "k8s.io", "images", "import", &inside];
            let command = host::machines::inside(first, words).limit(LIMIT);
            if let Err(error) = LinuxRunner.run(&command).await {
                std::fs::remove_file(&place).with_context(|| format!("cannot remove {}", place.display()))?;
                return Err(error).with_context(|| format!("{node} cannot import {}", file.display()));
            }
        }
        let settled = place.with_file_name(&name);
        std::fs::rename(&place, &settled).with_context(|| format!("cannot write {}", settled.display()))?;
    }
    Ok(())
}

/// Puts an archive where a node that starts will find it.
pub fn provide(layout: &Layout, node: &str, file: &Path) -> Result<()> {
    put(layout, node, file, &archive_name(file)?).map(drop)
}

fn archive_name(file: &Path) -> Result<String> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if !name.ends_with(".tar") || !file.is_file() {
        bail!("{} is not an image archive (a file whose name ends in .tar)", file.display());
    }
    Ok(name.to_owned())
}

fn put(layout: &Layout, node: &str, file: &Path, name: &str) -> Result<PathBuf> {
    let folder = layout.data_dir(node).join("agent/images");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let place = folder.join(name);
    std::fs::copy(file, &place)
        .with_context(|| format!("cannot copy {} to {}", file.display(), place.display()))?;
    Ok(place)
}
