//! Kernel tests in a virtual machine. The kernel that runs `make test` may lack what Skiff meets elsewhere (IPVS, the
//! second version of control groups), so the tests that need a kernel run on Debian's as well: qemu in software
//! emulation, which works where there is no KVM, and an initramfs of the test binaries and the programs they call.
//! The machine has no network device and no disk. What this does not do: run the tests of the whole repository, which
//! emulation would make ten times as slow for nothing.

mod binaries;
mod kernel;
mod machine;
mod root;

use std::collections::BTreeMap;
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

/// What a node runs.
const NODE_PROGRAMS: &[&str] = &[
    "bridge",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "pgrep",
    "runc",
    "/usr/lib/cni/bridge",
    "/usr/lib/cni/host-local",
    "/usr/lib/cni/loopback",
    "/usr/lib/cni/portmap",
];

/// The first process, and what it runs for each test.
const INIT: &str = include_str!("init.sh");
const RUN_TEST: &str = include_str!("run-test.sh");
/// What is done with a whole node.
const POD: &str = include_str!("pod.sh");

#[derive(Args)]
pub struct Options {
    /// Only the tests of this package; may be repeated
    #[arg(long = "package", short)]
    packages: Vec<String>,
    /// Only tests whose name contains this; may be repeated
    #[arg(long = "filter")]
    filters: Vec<String>,
    /// Only what runs a pod on a whole node
    #[arg(long, conflicts_with_all = ["packages", "filters"])]
    pod: bool,
    /// The `skiff` to run the pod with, instead of building it
    #[arg(long)]
    skiff: Option<PathBuf>,
    /// Build the whole workspace, as `cargo nextest run --workspace` does, so that nothing is compiled twice after it
    #[arg(long)]
    workspace: bool,
    /// Tests that run at the same time; the machine has two processors
    #[arg(long, default_value_t = 2)]
    jobs: u8,
    /// Seconds after which a test has failed
    #[arg(long, default_value_t = 240)]
    test_seconds: u32,
    /// Seconds after which what is done with the whole machine has failed
    #[arg(long, default_value_t = 1200)]
    machine_seconds: u32,
    /// Seconds after which the machine is stopped
    #[arg(long, default_value_t = 2700)]
    seconds: u32,
}

/// Builds the machine, runs it to its end and judges what it reported.
pub fn run(repository: &Path, options: &Options) -> Result<()> {
    let mut packages = match options.packages.as_slice() {
        [] if options.pod => Vec::new(),
        [] => PACKAGES.map(str::to_owned).to_vec(),
        named => named.to_vec(),
    };
    let pod = options.packages.is_empty() && options.filters.is_empty();
    if pod && options.skiff.is_none() {
        packages.push(binaries::SKIFF.to_owned());
    }
    let mut binaries = match packages.as_slice() {
        [] => BTreeMap::new(),
        packages => binaries::build(repository, packages, options.workspace)?,
    };
    if let Some(skiff) = options.skiff.as_ref().filter(|_| pod) {
        binaries.insert(binaries::SKIFF.to_owned(), skiff.clone());
    }
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
        let folder = if package == binaries::SKIFF { "usr/bin" } else { "tests" };
        root.stripped(binary, &format!("{folder}/{package}"))?;
    }
    if pod {
        node(&root, repository)?;
    }
    root.script("init", INIT)?;
    root.script("run-test", RUN_TEST)?;
    root.file("options", &settings(options))?;
    let initramfs = scratch.0.join("initramfs");
    root.pack(&initramfs)?;
    let limit = Duration::from_secs(options.seconds.into());
    machine::run(&kernel.image, &initramfs, &scratch.0.join("console"), limit)
}

/// What it takes to run a pod.
fn node(root: &Root, repository: &Path) -> Result<()> {
    for program in NODE_PROGRAMS {
        root.program(program)?;
    }
    root.file("etc/hosts", "127.0.0.1 localhost\n")?;
    // Nobody answers there.
    root.file("etc/resolv.conf", "nameserver 172.30.0.1\n")?;
    root.place(&repository.join("out/bin/kubectl"), "usr/bin/kubectl")?;
    crate::images::build(&repository.join("out/images"))?;
    root.place(&repository.join("out/images/busybox.tar"), "images/busybox.tar")?;
    root.script("machine/pod", POD)
}

/// What the first process reads: shell assignments. Names of tests have no quotes, and a filter must not either.
fn settings(options: &Options) -> String {
    let filters = options.filters.iter().map(|filter| filter.replace(|letter| !is_plain(letter), ""));
    let filters = filters.collect::<Vec<_>>().join(" ");
    let skipped = SKIPPED.map(|test| format!("--skip {test}")).join(" ");
    let Options { jobs, test_seconds, machine_seconds, .. } = options;
    format!(
        "filters='{filters}'\nskipped='{skipped}'\njobs={jobs}\nbound={test_seconds}\nmachine_bound={machine_seconds}\n"
    )
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
        let options = Options {
            packages: Vec::new(),
            filters,
            pod: false,
            skiff: None,
            workspace: false,
            jobs: 2,
            test_seconds: 9,
            machine_seconds: 60,
            seconds: 99,
        };
        assert_eq!(
            settings(&options),
            "filters='ipvs::a_b reboot'\nskipped='--skip scale::'\njobs=2\nbound=9\nmachine_bound=60\n"
        );
    }
}
