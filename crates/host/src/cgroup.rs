//! Control groups, version 1 and 2 alike: make one, set its limits, remove it. Names and sizes are the kubelet's;
//! what a container itself gets is the runtime's.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::mount;

/// Controllers that the kubelet's own groups use. A runtime makes the others itself where it needs them.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Limits of one group. What is `None` is left as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative weight, in version 1's unit (1024 is one CPU).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU time a period; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// The period, in microseconds; 0 is the kernel's default.
    pub cpu_period: u64,
    /// Bytes of memory; -1 is unlimited.
    pub memory: Option<i64>,
}

/// The hierarchy of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hierarchy {
    /// One mount a controller (also when version 2 is mounted beside it without controllers).
    V1(BTreeMap<String, PathBuf>),
    /// One mount for all.
    V2(PathBuf),
}

impl Hierarchy {
    /// Finds out what is mounted.
    ///
    /// # Errors
    /// The mount table cannot be read, or no hierarchy is mounted.
    pub fn detect() -> io::Result<Self> {
        Self::from_table(&mount::table()?).ok_or_else(|| io::Error::other("no cgroup hierarchy is mounted"))
    }

    fn from_table(table: &[mount::Mount]) -> Option<Self> {
        let mut controllers = BTreeMap::new();
        for mount in table.iter().filter(|mount| mount.kind == "cgroup") {
            for controller in CONTROLLERS {
                if mount.options.iter().any(|option| option == controller) {
                    controllers.entry(controller.to_owned()).or_insert_with(|| mount.at.clone());
                }
            }
        }
        if controllers.contains_key("memory") || controllers.contains_key("cpu") {
            return Some(Self::V1(controllers));
        }
        let unified = table.iter().find(|mount| mount.kind == "cgroup2")?;
        Some(Self::V2(unified.at.clone()))
    }

    /// Makes the group (and its parents) if needed and sets its limits. `group` is absolute: `/kubepods/...`.
    ///
    /// # Errors
    /// The system refuses.
    pub fn apply(&self, group: &str, limits: &Limits) -> io::Result<()> {
        match self {
            Self::V1(controllers) => {
                for (controller, root) in controllers {
                    let directory = inside(root, group)?;
                    std::fs::create_dir_all(&directory)?;
                    set_v1(controller, &directory, limits)?;
                }
                Ok(())
            }
            Self::V2(root) => {
                let directory = inside(root, group)?;
                create_v2(root, &directory)?;
                set_v2(&directory, limits)
            }
        }
    }

    /// Removes the group and those in it. What still holds processes stays, and is an error.
    ///
    /// # Errors
    /// The system refuses, mostly because a process is left.
    pub fn remove(&self, group: &str) -> io::Result<()> {
        match self {
            Self::V1(_) => {
                // The runtime made directories under controllers that we do not use, too.
                for mount in mount::table()?.iter().filter(|mount| mount.kind.starts_with("cgroup")) {
                    remove_tree(&inside(&mount.at, group)?)?;
                }
                Ok(())
            }
            Self::V2(root) => remove_tree(&inside(root, group)?),
        }
    }
}

/// A path under `root`; a group name cannot lead out of the hierarchy.
fn inside(root: &Path, group: &str) -> io::Result<PathBuf> {
    let relative = group.trim_start_matches('/');
    if relative.is_empty() || relative.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(io::Error::other(format!("not a cgroup name: {group}")));
    }
    Ok(root.join(relative))
}

fn set_v1(controller: &str, directory: &Path, limits: &Limits) -> io::Result<()> {
    let set = |file: &str, value: String| std::fs::write(directory.join(file), value);
    match controller {
        "cpu" => {
            if let Some(shares) = limits.cpu_shares {
                set("cpu.shares", shares.max(2).to_string())?;
            }
            if let Some(quota) = limits.cpu_quota {
                if limits.cpu_period != 0 {
                    set("cpu.cfs_period_us", limits.cpu_period.to_string())?;
                }
                set("cpu.cfs_quota_us", quota.to_string())?;
            }
            Ok(())
        }
        "memory" => limits.memory.map_or(Ok(()), |bytes| set("memory.limit_in_bytes", bytes.to_string())),
        _ => Ok(()),
    }
}

/// Makes the path level by level and hands the controllers down to it.
fn create_v2(root: &Path, directory: &Path) -> io::Result<()> {
    let relative = directory.strip_prefix(root).map_err(io::Error::other)?;
    let available = std::fs::read_to_string(root.join("cgroup.controllers"))?;
    let wanted = ["cpu", "cpuset", "io", "memory", "pids"];
    let present = available.split_ascii_whitespace().filter(|controller| wanted.contains(controller));
    let enable = present.map(|controller| format!("+{controller}")).collect::<Vec<_>>().join(" ");
    let mut level = root.to_owned();
    for part in relative.components() {
        std::fs::write(level.join("cgroup.subtree_control"), &enable)?;
        level.push(part);
        match std::fs::create_dir(&level) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn set_v2(directory: &Path, limits: &Limits) -> io::Result<()> {
    let set = |file: &str, value: String| std::fs::write(directory.join(file), value);
    if let Some(shares) = limits.cpu_shares {
        set("cpu.weight", weight(shares).to_string())?;
    }
    if let Some(quota) = limits.cpu_quota {
        let quota = if quota < 0 { "max".to_owned() } else { quota.to_string() };
        let period = if limits.cpu_period == 0 { 100_000 } else { limits.cpu_period };
        set("cpu.max", format!("{quota} {period}"))?;
    }
    if let Some(bytes) = limits.memory {
        set("memory.max", if bytes < 0 { "max".to_owned() } else { bytes.to_string() })?;
    }
    Ok(())
}

/// Shares (2 to 262144) on version 2's scale (1 to 10000).
fn weight(shares: u64) -> u64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

/// Groups are removed leaves first; their files go with them.
fn remove_tree(directory: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounted(at: &str, kind: &str, options: &[&str]) -> mount::Mount {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        mount::Mount { at: at.into(), kind: kind.into(), options }
    }

    #[test]
    fn a_hybrid_machine_counts_as_version_1() {
        let table = [
            mounted("/sys/fs/cgroup/unified", "cgroup2", &["rw"]),
            mounted("/sys/fs/cgroup/cpu,cpuacct", "cgroup", &["rw", "cpu", "cpuacct"]),
            mounted("/sys/fs/cgroup/memory", "cgroup", &["rw", "memory"]),
        ];
        let Some(Hierarchy::V1(found)) = Hierarchy::from_table(&table) else { panic!("version 1") };
        assert_eq!(found["cpu"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found["memory"], Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(Hierarchy::from_table(&table[..1]), Some(Hierarchy::V2("/sys/fs/cgroup/unified".into())));
        assert_eq!(Hierarchy::from_table(&[]), None);
    }

    #[test]
    fn names_stay_inside_the_hierarchy() {
        let root = Path::new("/sys/fs/cgroup");
        assert_eq!(inside(root, "/kubepods/pod1").expect("fine"), root.join("kubepods/pod1"));
        for bad in ["/", "", "/kubepods/../..", "/a//b"] {
            assert!(inside(root, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn weights_span_the_scale() {
        assert_eq!((weight(0), weight(2), weight(1024), weight(262_144)), (1, 1, 39, 10000));
    }

    #[test]
    fn version_1_files_are_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let roots = ["cpu", "memory"].map(|name| (name.to_owned(), dir.path().join(name)));
        let hierarchy = Hierarchy::V1(roots.into());
        let limits = Limits {
            cpu_shares: Some(512),
            cpu_quota: Some(50_000),
            cpu_period: 100_000,
            memory: Some(1 << 20),
        };
        hierarchy.apply("/kubepods/pod1", &limits).expect("ordinary files here");
        let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).expect("written");
        assert_eq!(read("cpu/kubepods/pod1/cpu.shares"), "512");
        assert_eq!(read("cpu/kubepods/pod1/cpu.cfs_quota_us"), "50000");
        assert_eq!(read("memory/kubepods/pod1/memory.limit_in_bytes"), "1048576");
    }

    /// A group of this machine's own hierarchy, whichever version that is, and its folders of CPU and memory; `None`,
    /// loudly, where that is impossible and nobody insists on it.
    struct Real {
        hierarchy: Hierarchy,
        top: String,
        group: String,
    }

    impl Real {
        fn new(name: &str, limits: &Limits) -> Option<Self> {
            let top = format!("/skiff-test-{name}-{}", std::process::id());
            let group = format!("{top}/inner");
            let hierarchy = Hierarchy::detect().expect("a hierarchy");
            if let Err(error) = hierarchy.apply(&group, limits) {
                assert!(
                    std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_none(),
                    "cannot make {group}: {error}"
                );
                eprintln!("SKIPPED: cannot make {group} ({error}); run as root to test control groups");
                return None;
            }
            Some(Self { hierarchy, top, group })
        }

        fn file(&self, controller: &str, file: &str) -> PathBuf {
            let root = match &self.hierarchy {
                Hierarchy::V1(controllers) => &controllers[controller],
                Hierarchy::V2(root) => root,
            };
            inside(root, &self.group).expect("a name").join(file)
        }

        /// What the kernel says, in the words of either version.
        fn read(&self, controller: &str, [v1, v2]: [&str; 2]) -> String {
            let file = if matches!(self.hierarchy, Hierarchy::V1(_)) { v1 } else { v2 };
            std::fs::read_to_string(self.file(controller, file)).expect("the kernel's file").trim().to_owned()
        }

        /// Runs a line of shell in the group.
        #[expect(clippy::disallowed_methods, reason = "the test looks at the process itself")]
        fn start(&self, line: &str) -> std::process::Child {
            let join = ["cpu", "memory"].map(|name| self.file(name, "cgroup.procs").display().to_string());
            let line = format!("echo $$ >{} && echo $$ >{} && {line}", join[0], join[1]);
            std::process::Command::new("sh")
                .args(["-c", &line])
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .expect("a shell")
        }
    }

    impl Drop for Real {
        fn drop(&mut self) {
            if let Err(error) = self.hierarchy.remove(&self.top) {
                eprintln!("{}: {error}", self.top);
            }
        }
    }

    #[test]
    fn the_kernel_knows_the_limits_and_their_end() {
        let limits = Limits {
            cpu_shares: Some(512),
            cpu_quota: Some(20_000),
            cpu_period: 100_000,
            memory: Some(32 << 20),
        };
        let Some(real) = Real::new("limits", &limits) else { return };
        let (weight, quota, memory) = (
            ["cpu.shares", "cpu.weight"],
            ["cpu.cfs_quota_us", "cpu.max"],
            ["memory.limit_in_bytes", "memory.max"],
        );
        let (v1, all) = (matches!(real.hierarchy, Hierarchy::V1(_)), 32 << 20);
        assert_eq!(real.read("cpu", weight), if v1 { "512" } else { "20" });
        assert_eq!(real.read("cpu", quota), if v1 { "20000" } else { "20000 100000" });
        assert_eq!(real.read("memory", memory), all.to_string());
        let unlimited = Limits { cpu_quota: Some(-1), memory: Some(-1), ..Limits::default() };
        real.hierarchy.apply(&real.group, &unlimited).expect("limits end");
        assert_eq!(real.read("cpu", weight), if v1 { "512" } else { "20" }, "what is not said stays");
        assert_eq!(real.read("cpu", quota), if v1 { "-1" } else { "max 100000" });
        let unlimited = real.read("memory", memory);
        assert!(unlimited == "max" || unlimited.parse::<u64>().expect("bytes") > 1 << 60, "{unlimited}");
    }

    #[test]
    fn processes_get_what_the_limits_say_and_hold_their_group() {
        use std::io::{BufRead, BufReader};
        use std::os::unix::process::ExitStatusExt;

        let limits = Limits { cpu_quota: Some(5_000), memory: Some(32 << 20), ..Limits::default() };
        let Some(real) = Real::new("processes", &limits) else { return };
        // It works until it is held up, or has done a hundred times what the quota has room for.
        let statistics = real.file("cpu", "cpu.stat");
        let work = format!(
            "n=0; until grep -q '^nr_throttled [1-9]' {}; do n=$((n+1)); [ $n -lt 500 ]; done",
            statistics.display()
        );
        let status = real.start(&format!("set -e; {work}")).wait().expect("it ends");
        let statistics = std::fs::read_to_string(&statistics).expect("the kernel's file");
        assert!(status.success(), "never held up: {statistics}");

        let unlimited = Limits { cpu_quota: Some(-1), ..Limits::default() };
        real.hierarchy.apply(&real.group, &unlimited).expect("its CPU is its own again");
        // One line without an end, which it keeps.
        let status = real.start("exec tail /dev/zero").wait().expect("it ends");
        assert_eq!(status.signal(), Some(9), "more memory than its limit: {status}");

        let mut quiet = real.start("echo here; exec cat");
        let mut line = String::new();
        BufReader::new(quiet.stdout.take().expect("piped")).read_line(&mut line).expect("it says so");
        assert_eq!(line, "here\n");
        assert!(real.hierarchy.remove(&real.top).is_err(), "a group with a process stays");
        assert!(real.file("memory", "cgroup.procs").exists());
        quiet.kill().expect("it runs");
        quiet.wait().expect("it ends");
        real.hierarchy.remove(&real.top).expect("an empty group goes");
        assert!(!real.file("memory", "").exists());
        real.hierarchy.remove(&real.top).expect("what is gone may be removed again");
    }
}
