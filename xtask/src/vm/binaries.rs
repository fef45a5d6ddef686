//! Which test binary of a package holds its kernel tests: the integration binary `it` where there is one, or the
//! library's own tests. Cargo builds them, and the binary under test, and says where they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The package of the binary under test, and the binary's name.
pub const SKIFF: &str = "skiff";

/// Builds the tests of the packages; package -> binary. `workspace` builds everything, as nextest does for the whole
/// workspace: the features of dependencies are the same then, and nothing is compiled twice.
pub fn build(repository: &Path, packages: &[String], workspace: bool) -> Result<BTreeMap<String, PathBuf>> {
    let mut arguments = vec!["test", "--no-run", "--quiet", "--message-format=json"];
    if workspace {
        arguments.push("--workspace");
    } else {
        packages.iter().for_each(|package| arguments.extend(["--package", package]));
    }
    #[expect(clippy::disallowed_methods, reason = "a build chore, not a part of the product")]
    let output = Command::new("cargo")
        .args(&arguments)
        .current_dir(repository)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo {arguments:?}: {}", output.status);
    }
    let mut found = choose(&String::from_utf8(output.stdout)?)?;
    found.retain(|package, _| packages.contains(package));
    for package in packages {
        if !found.contains_key(package) {
            bail!("{package} has neither a test binary `it` nor a library with tests");
        }
    }
    Ok(found)
}

/// Reads cargo's messages.
fn choose(messages: &str) -> Result<BTreeMap<String, PathBuf>> {
    let mut found: BTreeMap<String, (bool, PathBuf)> = BTreeMap::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo writes a message a line")?;
        let Some((package, integration, binary)) = candidate(&message) else { continue };
        match found.get(&package) {
            Some((true, _)) => {}
            _ => drop(found.insert(package, (integration, binary))),
        }
    }
    Ok(found.into_iter().map(|(package, (_, binary))| (package, binary)).collect())
}

/// The package, whether it is the integration binary, and the file. A crate's folder has its name.
fn candidate(message: &Value) -> Option<(String, bool, PathBuf)> {
    let executable = message["executable"].as_str()?;
    let target = &message["target"];
    if target["kind"][0] == "bin" && target["name"] == SKIFF && message["profile"]["test"] == false {
        return Some((SKIFF.to_owned(), true, executable.into()));
    }
    let integration = target["kind"][0] == "test" && target["name"] == "it";
    if message["profile"]["test"] != true || !(integration || target["kind"][0] == "lib") {
        return None;
    }
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    Some((folder.file_name()?.to_str()?.to_owned(), integration, executable.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_integration_binary_wins_whatever_the_order_and_skiff_is_the_program() {
        let message = |package: &str, kind: &str, name: &str| {
            let manifest = format!("/r/crates/{package}/Cargo.toml");
            let target = serde_json::json!({"kind": [kind], "name": name});
            let executable = format!("/t/{package}-{name}");
            let profile = serde_json::json!({"test": kind != "bin"});
            serde_json::json!({"manifest_path": manifest, "target": target, "executable": executable,
                               "profile": profile})
            .to_string()
        };
        let built = r#"{"reason": "build-finished", "success": true}"#.to_owned();
        let lines = [
            message("a", "lib", "a"),
            message("a", "test", "it"),
            message("b", "test", "it"),
            message("b", "lib", "b"),
            message("c", "lib", "c"),
            message("d", "test", "e2e"),
            message("skiff", "test", "e2e"),
            message("skiff", "bin", "skiff"),
            built,
        ];
        let found = choose(&lines.join("\n")).unwrap();
        let expected = [("a", "/t/a-it"), ("b", "/t/b-it"), ("c", "/t/c-c"), ("skiff", "/t/skiff-skiff")];
        assert_eq!(found, expected.map(|(package, path)| (package.to_owned(), path.into())).into());
    }
}
