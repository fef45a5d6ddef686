//! Levels and versions, as labels of namespaces state them.

use std::fmt;

use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use serde_json::Value;

/// How much a pod may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Everything.
    Privileged,
    /// Nothing that is known to lead out of its containers.
    Baseline,
    /// What is needed to run as an unprivileged user.
    Restricted,
}

const LEVELS: [(&str, Level); 3] =
    [("privileged", Level::Privileged), ("baseline", Level::Baseline), ("restricted", Level::Restricted)];
/// The version of whoever wants the newest.
const LATEST: u32 = u32::MAX;

/// A level as one version of Kubernetes defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) level: Level,
    /// Of version 1.
    pub(super) minor: u32,
}

impl fmt::Display for Standard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = LEVELS.iter().find(|(_, level)| *level == self.level).map_or("", |(name, _)| *name);
        match self.minor {
            LATEST => write!(out, "{name}:latest"),
            minor => write!(out, "{name}:v1.{minor}"),
        }
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: Standard,
    pub(super) audit: Standard,
    pub(super) warn: Standard,
}

impl Policy {
    /// Reads a namespace's labels. A policy comes of every namespace: what is enforced and makes no sense is the strictest
    /// level, what is only told nothing.
    pub(super) fn of(namespace: &Value) -> (Policy, Errors) {
        let mut errors = Errors::new();
        let mut read = |mode: &str, otherwise: Level| {
            let level = format!("pod-security.kubernetes.io/{mode}");
            let version = format!("{level}-version");
            let mut standard = Standard { level: Level::Privileged, minor: LATEST };
            if let Some(said) = meta::label(namespace, &level) {
                let known = LEVELS.iter().find(|(name, _)| *name == said).map(|(_, level)| *level);
                if known.is_none() {
                    invalid(&mut errors, &level, said, "must be one of privileged, baseline, restricted");
                }
                standard.level = known.unwrap_or(otherwise);
            }
            if let Some(said) = meta::label(namespace, &version) {
                let known = minor(said);
                if known.is_none() {
                    invalid(&mut errors, &version, said, "must be \"latest\" or \"v1.x\"");
                }
                standard.minor = known.unwrap_or(LATEST);
            }
            standard
        };
        let enforce = read("enforce", Level::Restricted);
        let audit = read("audit", Level::Privileged);
        let warn = read("warn", Level::Privileged);
        (Policy { enforce, audit, warn }, errors)
    }
}

fn minor(version: &str) -> Option<u32> {
    if version == "latest" {
        return Some(LATEST);
    }
    let digits = version.strip_prefix("v1.")?;
    let plain =
        digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| plain)
}

fn invalid(errors: &mut Errors, label: &str, value: &str, why: &str) {
    let metadata = Path::new("metadata");
    let labels = metadata.child("labels");
    errors.invalid(&labels.key(label), value, why);
}
