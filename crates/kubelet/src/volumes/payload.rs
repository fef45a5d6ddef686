//! Which files a config map, secret or downward volume shows. Pure.

use std::collections::BTreeMap;

use host::files::Projected;
use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Secret};

use crate::podspec::{ConfigError, Downward, field, resource_field};

/// Files by path.
pub(crate) type Files = BTreeMap<String, Projected>;

/// How the files of one source are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style<'a> {
    pub items: Option<&'a [KeyToPath]>,
    pub mode: i32,
    pub optional: bool,
    /// For messages: `configmap references non-existent config key`.
    pub what: &'static str,
}

fn projected(bytes: Vec<u8>, mode: i32) -> Projected {
    Projected { bytes, mode: u32::try_from(mode).unwrap_or(0o644) & 0o777, user: None }
}

fn pick(data: &BTreeMap<String, Vec<u8>>, style: &Style<'_>) -> Result<Files, ConfigError> {
    let Some(items) = style.items.filter(|items| !items.is_empty()) else {
        let all = data.iter().map(|(key, bytes)| (key.clone(), projected(bytes.clone(), style.mode)));
        return Ok(all.collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                let mode = item.mode.unwrap_or(style.mode);
                files.insert(item.path.clone(), projected(bytes.clone(), mode));
            }
            None if style.optional => {}
            None => {
                let message =
                    format!("{} references non-existent {} key: {}", style.what, key_word(style), item.key);
                return Err(ConfigError::new(message));
            }
        }
    }
    Ok(files)
}

fn key_word(style: &Style<'_>) -> &'static str {
    if style.what == "configmap" { "config" } else { "secret" }
}

pub(crate) fn config_map(map: &ConfigMap, style: &Style<'_>) -> Result<Files, ConfigError> {
    let mut data = BTreeMap::new();
    for (key, text) in map.data.iter().flatten() {
        data.insert(key.clone(), text.clone().into_bytes());
    }
    for (key, bytes) in map.binary_data.iter().flatten() {
        data.insert(key.clone(), bytes.0.clone());
    }
    pick(&data, style)
}

pub(crate) fn secret(secret: &Secret, style: &Style<'_>) -> Result<Files, ConfigError> {
    let data = secret.data.iter().flatten().map(|(key, bytes)| (key.clone(), bytes.0.clone())).collect();
    pick(&data, style)
}

pub(crate) fn downward(
    source: &Downward<'_>,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
) -> Result<Files, ConfigError> {
    let mut files = Files::new();
    for item in items {
        let text = if let Some(reference) = &item.field_ref {
            field(source, &reference.field_path)?
        } else if let Some(reference) = &item.resource_field_ref {
            resource_field(source, "", reference)?
        } else {
            String::new()
        };
        files.insert(item.path.clone(), projected(text.into_bytes(), item.mode.unwrap_or(mode)));
    }
    Ok(files)
}

pub(crate) fn token(path: &str, text: &str, mode: i32, group: bool) -> Files {
    // Readable by the pod's group if it has one; upstream's modes.
    let mode = if group { 0o640 } else { mode };
    Files::from([(path.to_owned(), projected(text.as_bytes().to_vec(), mode))])
}
