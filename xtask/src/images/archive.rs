//! Writes a folder as an OCI image archive of one layer, reproducibly: sorted entries, no times, owner root.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

/// Archives `root` under `reference`; `config` is the OCI image configuration's `config` object.
pub fn write(root: &Path, reference: &str, config: Value, archive: &Path) -> Result<()> {
    let plain = layer(root)?;
    let layer = gzip(&plain)?;
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(&plain)]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
    }))?;
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": reference});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;

    let temporary = archive.with_extension("part");
    let mut tar = Builder::new(File::create(&temporary)?);
    file(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    file(&mut tar, "index.json", &index)?;
    for blob in [&config, &manifest, &layer] {
        let name = digest(blob).replace(':', "/");
        file(&mut tar, &format!("blobs/{name}"), blob)?;
    }
    tar.into_inner()?.sync_all()?;
    fs::rename(&temporary, archive).with_context(|| format!("cannot name {}", archive.display()))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn file(tar: &mut Builder<File>, path: &str, content: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, 0o644);
    header.set_size(content.len() as u64);
    Ok(tar.append_data(&mut header, path, content)?)
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

/// The layer as a plain tar.
fn layer(root: &Path) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    append(&mut tar, root, Path::new(""))?;
    Ok(tar.into_inner()?)
}

fn append(tar: &mut Builder<Vec<u8>>, root: &Path, below: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut names: Vec<PathBuf> = fs::read_dir(root.join(below))?
        .map(|entry| entry.map(|entry| below.join(entry.file_name())))
        .collect::<io::Result<_>>()?;
    names.sort();
    for name in names {
        let path = root.join(&name);
        let metadata = fs::symlink_metadata(&path)?;
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            tar.append_data(&mut header(EntryType::Directory, mode), &name, io::empty())?;
            append(tar, root, &name)?;
        } else if metadata.is_symlink() {
            tar.append_link(&mut header(EntryType::Symlink, 0o777), &name, fs::read_link(&path)?)?;
        } else {
            let mut header = header(EntryType::Regular, mode);
            header.set_size(metadata.len());
            tar.append_data(&mut header, &name, File::open(&path)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_folder_gives_the_same_layer_and_nothing_of_the_machine() {
        let folder = std::env::temp_dir().join(format!("skiff-archive-{}", std::process::id()));
        fs::create_dir_all(folder.join("etc")).unwrap();
        fs::write(folder.join("etc/b"), "b").unwrap();
        fs::write(folder.join("a"), "a").unwrap();
        let first = layer(&folder).unwrap();
        fs::write(folder.join("a"), "a").unwrap();
        assert_eq!(digest(&first), digest(&layer(&folder).unwrap()), "a newer mtime changes nothing");
        let names: Vec<String> = tar::Archive::new(first.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["a", "etc", "etc/b"]);
        fs::remove_dir_all(folder).unwrap();
    }
}
