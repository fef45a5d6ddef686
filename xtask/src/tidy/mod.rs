//! The part of the style guide that a test can hold: file and function lengths, module documentation, and which
//! crate may depend on which. Lengths are a ratchet: what is over the limit today is listed in
//! `xtask/ratchet.txt` and may only shrink. Formatting and lints belong to rustfmt and clippy.

mod dependencies;
mod lengths;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Runs every check and reports all findings at once.
pub fn run(repository: &Path, bless: bool) -> Result<()> {
    let files = sources(repository)?;
    let mut findings = dependencies::check(repository)?;
    findings.extend(undocumented(repository, &files)?);
    findings.extend(lengths::check(repository, &files, bless)?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy: {} files", files.len());
        return Ok(());
    }
    bail!("tidy: {} findings", findings.len())
}

/// All hand-written Rust files that git knows or could know, in order.
fn sources(repository: &Path) -> Result<Vec<PathBuf>> {
    let listing =
        crate::run("git", &["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"], repository)?;
    let mut files: Vec<PathBuf> = String::from_utf8(listing)?.lines().map(PathBuf::from).collect();
    files.retain(|file| repository.join(file).is_file());
    files.sort();
    files.dedup();
    Ok(files)
}

/// Files whose first line is not a module comment.
fn undocumented(repository: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for file in files {
        let text = read(repository, file)?;
        if !text.starts_with("//!") {
            findings.push(format!("{}: starts without a `//!` that says what it is for", file.display()));
        }
    }
    Ok(findings)
}

fn read(repository: &Path, file: &Path) -> Result<String> {
    fs::read_to_string(repository.join(file)).with_context(|| format!("cannot read {}", file.display()))
}
