//! Which workspace crate may depend on which. The table is the architecture; cargo's own metadata is the fact.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// Crate, and the workspace crates that it may name under `[dependencies]`. Dev-dependencies are free.
const ALLOWED: &[(&str, &[&str])] = &[
    ("api-machinery", &[]),
    ("api-catalog", &["api-machinery", "cel"]),
    ("cel", &["api-machinery"]),
    ("store", &["api-machinery"]),
    ("apiserver", &["api-catalog", "api-machinery", "cel", "pod-rules", "store"]),
    ("pod-rules", &["api-machinery"]),
    ("component", &["api-machinery"]),
    ("controllers", &["api-machinery", "component", "pod-rules"]),
    ("cloud", &["api-machinery", "component", "pod-rules"]),
    ("scheduler", &["api-machinery", "component", "pod-rules"]),
    ("host", &[]),
    ("cri", &[]),
    ("kubelet", &["api-machinery", "component", "cri", "host", "pod-rules"]),
    ("kube-proxy", &["api-machinery", "component", "host", "pod-rules"]),
    ("pod-network", &["component", "host"]),
    ("announcer", &["component", "host"]),
    ("dns", &["api-machinery", "component", "pod-rules"]),
    (
        "simulation",
        &["api-machinery", "apiserver", "component", "controllers", "pod-rules", "scheduler", "store"],
    ),
    ("skiff", &["*"]),
    ("fuzz", &["*"]),
    ("xtask", &[]),
];

/// Findings for every arrow that the table does not have.
pub fn check(repository: &Path) -> Result<Vec<String>> {
    let metadata =
        crate::run("cargo", &["metadata", "--format-version=1", "--no-deps", "--offline"], repository)?;
    let metadata: Value = serde_json::from_slice(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has a name")?;
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            findings.push(format!("{name}: not in the dependency table of xtask/src/tidy/dependencies.rs"));
            continue;
        };
        for arrow in arrows(package, &names) {
            if !allowed.contains(&"*") && !allowed.contains(&arrow) {
                findings.push(format!("{name} -> {arrow}: not an arrow of the dependency table"));
            }
        }
    }
    Ok(findings)
}

/// The workspace crates that a package depends on, dev-dependencies apart.
fn arrows<'a>(package: &'a Value, workspace: &[&str]) -> Vec<&'a str> {
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    dependencies
        .iter()
        .filter(|dependency| dependency["kind"] != "dev")
        .filter_map(|dependency| dependency["name"].as_str())
        .filter(|name| workspace.contains(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_normal_and_build_dependencies_on_the_workspace_are_arrows() {
        let package = serde_json::json!({"dependencies": [
            {"name": "store", "kind": null}, {"name": "host", "kind": "dev"}, {"name": "serde", "kind": null},
        ]});
        assert_eq!(arrows(&package, &["store", "host"]), ["store"]);
    }
}
