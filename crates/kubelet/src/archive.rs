//! Packs a few files into an OCI image archive in memory: how the pause image comes to be without a registry.
//! It builds single-layer images only; reading, pulling and unpacking images is the runtime's.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// One file of an image.
#[derive(Debug, Clone)]
pub struct ImageFile {
    /// Path without the leading slash.
    pub path: String,
    /// What is there.
    pub content: Content,
}

/// What one path of an image holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// A file with these bytes and permissions.
    File(Vec<u8>, u32),
    /// A symbolic link to this target.
    Link(String),
    /// An empty directory with these permissions.
    Directory(u32),
}

/// An image to be packed.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Full name with tag: `host/name:tag`.
    pub name: String,
    /// Files of its only layer, in order.
    pub files: Vec<ImageFile>,
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
}

impl Image {
    /// The archive, in OCI layout, for `architecture` (Go's name). Equal images give equal bytes.
    ///
    /// # Errors
    /// A path does not fit a tar header.
    pub fn pack(&self, architecture: &str) -> io::Result<Vec<u8>> {
        let layer = self.layer()?;
        let layer_digest = digest(&layer);
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "Env": self.env},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
            "history": [{"created_by": "skiff"}],
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        listed["annotations"] = json!({
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        listed["platform"] = json!({"architecture": architecture, "os": "linux"});
        let index = json!({"schemaVersion": 2, "manifests": [listed]}).to_string().into_bytes();

        let mut archive = tar::Builder::new(Vec::new());
        append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        append(&mut archive, "index.json", &index, 0o644)?;
        for blob in [&layer, &config, &manifest] {
            let name = digest(blob).replace(':', "/");
            append(&mut archive, &format!("blobs/{name}"), blob, 0o644)?;
        }
        archive.into_inner()
    }

    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut layer = tar::Builder::new(Vec::new());
        let mut made = BTreeSet::new();
        for file in &self.files {
            let parents: Vec<_> = Path::new(&file.path).ancestors().skip(1).collect();
            for parent in parents.into_iter().rev().filter(|parent| !parent.as_os_str().is_empty()) {
                if made.insert(parent.to_owned()) {
                    append_directory(&mut layer, &parent.to_string_lossy(), 0o755)?;
                }
            }
            match &file.content {
                Content::File(bytes, mode) => append(&mut layer, &file.path, bytes, *mode)?,
                Content::Link(target) => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                    layer.append_link(&mut header, &file.path, target)?;
                }
                Content::Directory(mode) => {
                    if made.insert(file.path.clone().into()) {
                        append_directory(&mut layer, &file.path, *mode)?;
                    }
                }
            }
        }
        layer.into_inner()
    }
}

fn append(archive: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut header = header(tar::EntryType::Regular, mode, bytes.len() as u64);
    archive.append_data(&mut header, path, bytes)
}

fn append_directory(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32) -> io::Result<()> {
    let mut header = header(tar::EntryType::Directory, mode, 0);
    archive.append_data(&mut header, format!("{path}/"), io::empty())
}

/// No times and no owners: they would make equal images differ.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// The name of the sandbox image. Its tag changes whenever the program does.
pub const PAUSE_IMAGE: &str = "skiff.local/pause:1";

/// The sandbox image's archive.
///
/// # Errors
/// None that can happen with its one short path.
pub fn pause_image(architecture: &str) -> io::Result<Vec<u8>> {
    let file = ImageFile { path: "pause".into(), content: Content::File(host::pause::PAUSE.to_vec(), 0o755) };
    let image = Image {
        name: PAUSE_IMAGE.into(),
        files: vec![file],
        entrypoint: vec!["/pause".into()],
        env: vec!["PATH=/".into()],
    };
    image.pack(architecture)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use super::*;

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let mut found = BTreeMap::new();
        for entry in archive.entries().expect("a tar archive") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            found.insert(path, bytes);
        }
        found
    }

    #[test]
    fn every_blob_is_named_by_its_digest_and_reachable() {
        let packed = pause_image("amd64").expect("packed");
        let found = entries(&packed);
        for (path, bytes) in found.iter().filter(|(path, _)| path.starts_with("blobs/")) {
            assert_eq!(path.trim_start_matches("blobs/").replace('/', ":"), digest(bytes));
        }
        let index: Value = serde_json::from_slice(&found["index.json"]).expect("json");
        let blob =
            |digest: &Value| &found[&format!("blobs/{}", digest.as_str().expect("text").replace(':', "/"))];
        let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0]["digest"])).expect("json");
        let layer = blob(&manifest["layers"][0]["digest"]);
        assert_eq!(entries(layer)["pause"], host::pause::PAUSE);
        assert_eq!(packed, pause_image("amd64").expect("packed"), "equal images, equal bytes");
    }
}
