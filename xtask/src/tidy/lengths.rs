//! Lengths of files and functions, against the limits and the ratchet.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use syn::spanned::Spanned;
use syn::visit::Visit;

const FILE_LIMIT: usize = 800;
const FUNCTION_LIMIT: usize = 70;
const RATCHET: &str = "xtask/ratchet.txt";

/// Findings for everything that is over its limit and longer than the ratchet allows.
pub fn check(repository: &Path, files: &[PathBuf], bless: bool) -> Result<Vec<String>> {
    let mut long = BTreeMap::new();
    for file in files {
        measure(&file.display().to_string(), &super::read(repository, file)?, &mut long)
            .with_context(|| format!("cannot parse {}", file.display()))?;
    }
    let ratchet = load(&repository.join(RATCHET))?;
    let findings = judge(&long, &ratchet);
    if bless {
        let kept: String = long.iter().map(|(place, lines)| format!("{lines} {place}\n")).collect();
        fs::write(repository.join(RATCHET), kept)?;
        return Ok(Vec::new());
    }
    Ok(findings)
}

/// Pure: what grew past its allowance, and what the ratchet lists although it is no longer that long.
fn judge(long: &BTreeMap<String, usize>, ratchet: &BTreeMap<String, usize>) -> Vec<String> {
    let mut findings = Vec::new();
    for (place, lines) in long {
        match ratchet.get(place) {
            Some(allowed) if lines <= allowed => {}
            Some(allowed) => findings.push(format!("{place}: {lines} lines, the ratchet allows {allowed}")),
            None => findings.push(format!("{place}: {lines} lines is over the limit")),
        }
    }
    for (place, allowed) in ratchet {
        if long.get(place).is_none_or(|lines| lines < allowed) {
            findings.push(format!("{place}: shorter than {RATCHET} says; run `cargo xtask tidy --bless`"));
        }
    }
    findings
}

fn load(path: &Path) -> Result<BTreeMap<String, usize>> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = fs::read_to_string(path)?;
    text.lines()
        .map(|line| {
            let (lines, place) = line.split_once(' ').context("a ratchet line is `LINES PLACE`")?;
            Ok((place.to_owned(), lines.parse()?))
        })
        .collect()
}

/// Adds the file and each of its functions that is over the limit.
fn measure(name: &str, text: &str, long: &mut BTreeMap<String, usize>) -> Result<()> {
    let lines = text.lines().count();
    if lines > FILE_LIMIT {
        long.insert(name.to_owned(), lines);
    }
    let mut functions = Functions { file: name, long };
    functions.visit_file(&syn::parse_file(text)?);
    Ok(())
}

struct Functions<'a> {
    file: &'a str,
    long: &'a mut BTreeMap<String, usize>,
}

impl Functions<'_> {
    fn note(&mut self, name: &syn::Ident, span: proc_macro2::Span) {
        let lines = span.end().line + 1 - span.start().line;
        if lines > FUNCTION_LIMIT {
            let place = format!("{}::{name}", self.file);
            let longest = self.long.entry(place).or_default();
            *longest = lines.max(*longest);
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.note(&function.sig.ident, function.block.span());
        syn::visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.note(&function.sig.ident, function.block.span());
        syn::visit::visit_impl_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_function_is_found_by_name_and_a_short_one_is_not() {
        let body = "    call();\n".repeat(FUNCTION_LIMIT);
        let mut long = BTreeMap::new();
        measure("a.rs", &format!("fn long() {{\n{body}}}\nfn short() {{}}\n"), &mut long).unwrap();
        assert_eq!(long.into_iter().collect::<Vec<_>>(), [("a.rs::long".to_owned(), FUNCTION_LIMIT + 2)]);
    }

    #[test]
    fn the_ratchet_turns_one_way() {
        let at = |lines| BTreeMap::from([("a.rs".to_owned(), lines)]);
        assert!(judge(&at(900), &at(900)).is_empty());
        assert_eq!(judge(&at(901), &at(900)).len(), 1, "grown");
        assert_eq!(judge(&at(850), &at(900)).len(), 1, "shrunk, so the ratchet must follow");
        assert_eq!(judge(&at(801), &BTreeMap::new()).len(), 1, "new");
    }
}
