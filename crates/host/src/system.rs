//! Facts about this machine, read from the kernel. They are read when asked for and never cached here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

/// `CAP_SYS_RESOURCE`: without it no process may lower its own OOM score.
pub const CAP_SYS_RESOURCE: u32 = 24;

/// What a node says about its machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The host name.
    pub hostname: String,
    /// The kernel's release.
    pub kernel: String,
    /// Architecture in Kubernetes' (Go's) words.
    pub architecture: String,
    /// The distribution's own name of itself.
    pub os_image: String,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// Changes with each boot.
    pub boot_id: String,
    /// The firmware's identity of the machine.
    pub system_uuid: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that anybody may still write.
    pub available: u64,
    /// Bytes that are free but kept for the system's administrator; of some machines' disks that is the greatest part.
    pub reserved: u64,
    /// Inodes in all; 0 where the file system does not count them.
    pub inodes: u64,
    /// Inodes left.
    pub inodes_free: u64,
}

/// Reads the facts. What cannot be read is left empty, as on machines that do not have it.
///
/// # Errors
/// The kernel does not say how much memory there is.
pub fn machine() -> io::Result<Machine> {
    let names = rustix::system::uname();
    let text = |bytes: &std::ffi::CStr| bytes.to_string_lossy().into_owned();
    let machine_id = line("/etc/machine-id");
    let system_uuid = line("/sys/class/dmi/id/product_uuid");
    Ok(Machine {
        hostname: text(names.nodename()),
        kernel: text(names.release()),
        architecture: architecture(&text(names.machine())).to_owned(),
        os_image: os_image(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
        system_uuid: if system_uuid.is_empty() { machine_id.clone() } else { system_uuid },
        machine_id,
        boot_id: line("/proc/sys/kernel/random/boot_id"),
        cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        memory: memory("MemTotal")?,
    })
}

/// Bytes of memory that can be had without swapping.
///
/// # Errors
/// The kernel does not say.
pub fn memory_available() -> io::Result<u64> {
    memory("MemAvailable")
}

fn memory(field: &str) -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    meminfo(&text, field).ok_or_else(|| io::Error::other(format!("no {field} in /proc/meminfo")))
}

fn meminfo(text: &str, field: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kibibytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Room on the file system that holds `path`.
///
/// # Errors
/// The path does not exist.
pub fn disk(path: &Path) -> io::Result<Disk> {
    let found = rustix::fs::statvfs(path)?;
    let block = found.f_frsize;
    Ok(Disk {
        total: found.f_blocks * block,
        available: found.f_bavail * block,
        reserved: found.f_bfree.saturating_sub(found.f_bavail) * block,
        inodes: found.f_files,
        inodes_free: found.f_favail,
    })
}

/// Process ids in use and the most that there may be.
///
/// # Errors
/// `/proc` cannot be read.
pub fn processes() -> io::Result<(u64, u64)> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let running = load.split(' ').nth(3).and_then(|field| field.split_once('/')?.1.parse().ok());
    let most = std::fs::read_to_string("/proc/sys/kernel/pid_max")?.trim().parse();
    Ok((running.unwrap_or(0), most.map_err(io::Error::other)?))
}

/// Whether this process has the capability with this number in effect.
#[must_use]
pub fn has_capability(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    mask >> number & 1 == 1
}

/// The address that this machine would be reached at: the source of its default route, else its first address that
/// is not loopback, else loopback. Nothing is sent.
#[must_use]
pub fn primary_address() -> IpAddr {
    default_source().or_else(first_local).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Connecting a datagram socket only looks up the route; no packet leaves.
fn default_source() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

fn first_local() -> Option<IpAddr> {
    local_addresses(&std::fs::read_to_string("/proc/net/fib_trie").ok()?).into_iter().next().map(IpAddr::V4)
}

/// This machine's own addresses in the kernel's routing trie: a line with the address, then one that says it is ours.
fn local_addresses(trie: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in trie.lines() {
        if let Some(address) = line.trim().strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.trim() == "/32 host LOCAL" {
            found
                .extend(last.filter(|address: &Ipv4Addr| !address.is_loopback() && !found.contains(address)));
        }
    }
    found
}

fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i686" | "i586" => "386",
        other => other,
    }
}

fn os_image(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn line(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_plausible() {
        let machine = machine().expect("a Linux machine");
        assert!(machine.cpus >= 1 && machine.memory > 64 << 20, "{machine:?}");
        assert!(!machine.kernel.is_empty() && !machine.hostname.is_empty());
        let disk = disk(Path::new("/")).expect("a root");
        assert!(disk.total > 0 && disk.available + disk.reserved <= disk.total, "{disk:?}");
    }

    #[test]
    fn memory_is_in_kibibytes() {
        let text = "MemTotal:       24684912 kB\nMemFree:        1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(meminfo(text, "MemAvailable"), Some(2048 * 1024));
        assert_eq!(meminfo(text, "SwapTotal"), None);
    }

    #[test]
    fn own_addresses_are_found_in_the_trie() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.2.0\n        /24 link UNICAST\n     |-- 10.0.2.15\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(local_addresses(trie), [Ipv4Addr::new(10, 0, 2, 15)]);
    }
}
