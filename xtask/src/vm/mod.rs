//! Kernel tests in a virtual machine. The kernel that runs `make test` may lack what Skiff meets elsewhere (IPVS, the
//! second version of control groups), so the tests that need a kernel run on Debian's as well: qemu in software
//! emulation, which works where there is no KVM, and an initramfs of the test binaries and the programs they call.
//! The machine has no network device and no disk. What this does not do: run the tests of the whole repository, which
//! emulation would make ten times as slow for nothing.

mod binaries;
mod kernel;
mod machine;
mod root;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use root::Root;

/// Packages whose kernel tests run when none is named.
const PACKAGES: [&str; 2] = ["host", "kube-proxy"];

/// Tests of figures, which mean nothing in emulation. A filter that names one still does not run it.
const SKIPPED: [&str; 1] = ["scale::"];

/// What the tests call by name.
const PROGRAMS: &[&str] = &[
    "busybox",
    "conntrack",
    "flock",
    "ip",
    "iptables",
    "iptables-restore",
    "iptables-save",
    "kmod",
    "modprobe",
    "nft",
];

/// The first process, and what it runs for each test.
const INIT: &str = include_str!("init.sh");
const RUN_TEST: &str = include_str!("run-test.sh");

#[derive(Args)]
pub struct Options {
    /// Only the tests of this package; may be repeated
    #[arg(long = "package", short)]
    packages: Vec<String>,
    /// Only tests whose name contains this; may be repeated
    #[arg(long = "filter")]
    filters: Vec<String>,
    /// Tests that run at the same time; the machine has two processors
    #[arg(long, default_value_t = 2)]
    jobs: u8,
    /// Seconds after which a test has failed
    #[arg(long, default_value_t = 240)]
    test_seconds: u32,
    /// Seconds after which the machine is stopped
    #[arg(long, default_value_t = 1800)]
    seconds: u32,
}

/// Builds the machine, runs it to its end and judges what it reported.
pub fn run(repository: &Path, options: &Options) -> Result<()> {
    let packages = match options.packages.as_slice() {
        [] => PACKAGES.map(str::to_owned).to_vec(),
        named => named.to_vec(),
    };
    let binaries = binaries::build(repository, &packages)?;
    let folder = repository.join("out/vm");
    let kernel = kernel::fetch(&folder)?;
    let scratch = Scratch::new(&folder)?;
    let root = Root::new(scratch.0.join("root"))?;
    for program in PROGRAMS {
        root.program(program)?;
    }
    root.iptables_extensions()?;
    root.modules(&kernel)?;
    for (package, binary) in &binaries {
        root.stripped(binary, &format!("tests/{package}"))?;
    }
    root.script("init", INIT)?;
    root.script("run-test", RUN_TEST)?;
    root.file("options", &settings(options))?;
    let initramfs = scratch.0.join("initramfs");
    root.pack(&initramfs)?;
    let limit = Duration::from_secs(options.seconds.into());
    machine::run(&kernel.image, &initramfs, &scratch.0.join("console"), limit)
}

/// What the first process reads: shell assignments. Names of tests have no quotes, and a filter must not either.
fn settings(options: &Options) -> String {
    let filters = options.filters.iter().map(|filter| filter.replace(|letter| !is_plain(letter), ""));
    let filters = filters.collect::<Vec<_>>().join(" ");
    let skipped = SKIPPED.map(|test| format!("--skip {test}")).join(" ");
    let Options { jobs, test_seconds, .. } = options;
    format!("filters='{filters}'\nskipped='{skipped}'\njobs={jobs}\nbound={test_seconds}\n")
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_:-".contains(letter)
}

/// A folder of this run's own, so that several may run at the same time; gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(folder: &Path) -> Result<Self> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let owner = name.strip_prefix("run-").and_then(|owner| owner.parse::<u32>().ok());
            if owner.is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists()) {
                fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        let own = folder.join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&own)?;
        Ok(Self(own))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("xtask: cannot remove {}: {error}", self.0.display());
        }
    }
}

/// The path as the programs that we call take it.
fn text(path: &Path) -> Result<&str> {
    match path.to_str() {
        Some(text) => Ok(text),
        None => bail!("{} is not UTF-8", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_stays_inside_its_quotes() {
        let filters = vec!["ipvs::a_b".to_owned(), "'; reboot".to_owned()];
        let options = Options { packages: Vec::new(), filters, jobs: 2, test_seconds: 9, seconds: 99 };
        assert_eq!(
            settings(&options),
            "filters='ipvs::a_b reboot'\nskipped='--skip scale::'\njobs=2\nbound=9\n"
        );
    }
}
