//! Mounting and unmounting, behind a trait so that volume code runs in tests without privileges.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// Mounts on this node.
pub trait Mounts: Send + Sync {
    /// Mounts an empty memory file system, of at most `size` bytes when given.
    ///
    /// # Errors
    /// The system refuses.
    fn tmpfs(&self, at: &Path, size: Option<u64>) -> io::Result<()>;

    /// Makes `source` appear at `at` too.
    ///
    /// # Errors
    /// The system refuses.
    fn bind(&self, source: &Path, at: &Path) -> io::Result<()>;

    /// Takes away what is mounted at `at`, even while in use.
    ///
    /// # Errors
    /// The system refuses.
    fn unmount(&self, at: &Path) -> io::Result<()>;

    /// What is mounted at or under `directory`, innermost last.
    ///
    /// # Errors
    /// The mount table cannot be read.
    fn under(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The real mounts of this process's mount namespace.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinuxMounts;

impl Mounts for LinuxMounts {
    fn tmpfs(&self, at: &Path, size: Option<u64>) -> io::Result<()> {
        let mut options = String::from("mode=0777");
        if let Some(size) = size {
            options.push_str(&format!(",size={size}"));
        }
        let options = CString::new(options).map_err(io::Error::other)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("tmpfs", at, "tmpfs", flags, options.as_c_str()).map_err(io::Error::from)
    }

    fn bind(&self, source: &Path, at: &Path) -> io::Result<()> {
        rustix::mount::mount_bind(source, at).map_err(io::Error::from)
    }

    fn unmount(&self, at: &Path) -> io::Result<()> {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        rustix::mount::unmount(at, flags).map_err(io::Error::from)
    }

    fn under(&self, directory: &Path) -> io::Result<Vec<PathBuf>> {
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        let all = table.lines().filter_map(parse_line).map(|mount| mount.at);
        Ok(all.filter(|at| at.starts_with(directory)).collect())
    }
}

/// Unmounts everything at and under `directory`, so that removing the directory removes nothing else.
///
/// # Errors
/// The first refusal.
pub fn unmount_under(mounts: &dyn Mounts, directory: &Path) -> io::Result<()> {
    let mut found = mounts.under(directory)?;
    while let Some(at) = found.pop() {
        mounts.unmount(&at)?;
    }
    Ok(())
}

/// One line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub at: PathBuf,
    /// File system type.
    pub kind: String,
    /// Options of the file system itself.
    pub options: Vec<String>,
}

/// The mount table of this process.
///
/// # Errors
/// `/proc` cannot be read.
pub fn table() -> io::Result<Vec<Mount>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().filter_map(parse_line).collect())
}

/// The type of the file system that holds `path`, from the mount table.
///
/// # Errors
/// The path does not exist, or `/proc` cannot be read.
pub fn filesystem_of(path: &Path) -> io::Result<String> {
    let path = path.canonicalize()?;
    let holder = table()?.into_iter().filter(|mount| path.starts_with(&mount.at));
    // Of mounts at the same place the last one counts.
    let best = holder.enumerate().max_by_key(|(order, mount)| (mount.at.as_os_str().len(), *order));
    best.map(|(_, mount)| mount.kind).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

fn parse_line(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let at = left.split(' ').nth(4)?;
    let mut right = right.split(' ');
    let kind = right.next()?.to_owned();
    let options = right.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect();
    Some(Mount { at: PathBuf::from(unescape(at)), kind, options })
}

/// The table writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let code = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_table_are_understood() {
        let line = r"36 35 98:0 / /mnt/with\040blank rw,noatime master:1 - cgroup cgroup rw,cpu,cpuacct";
        let mount = parse_line(line).expect("a well-formed line");
        assert_eq!(mount.at, Path::new("/mnt/with blank"));
        assert_eq!(mount.kind, "cgroup");
        assert_eq!(mount.options, ["rw", "cpu", "cpuacct"]);
    }

    #[test]
    fn the_file_system_of_proc_is_proc() {
        assert_eq!(filesystem_of(Path::new("/proc/self")).expect("proc is mounted"), "proc");
    }
}
