//! Files that readers never see half-written: single files, and directories of projected files as kubelets make them.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The link that names the current generation of a projected directory.
const CURRENT: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Writes a file so that after a crash it holds the old bytes or the new ones, and both are on disk when it returns.
///
/// # Errors
/// The system refuses.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().ok_or_else(|| io::Error::other("a file needs a directory"))?;
    let name = path.file_name().ok_or_else(|| io::Error::other("a file needs a name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    let temporary = directory.join(temporary);
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(&temporary)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

/// Makes a directory and its parents; the last one gets exactly this mode.
///
/// # Errors
/// The system refuses.
pub fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// One file of a projected directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projected {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
    /// Its owner, when not ours.
    pub user: Option<u32>,
}

/// Makes `directory` show exactly `files` (relative paths), switching from the old set to the new in one step: the
/// files are in a directory of their own, `..data` links to it, and the visible names link through `..data`.
/// Returns whether anything changed. `generation` names the new directory and must not have been used before.
///
/// # Errors
/// A path leads out of the directory, or the system refuses.
pub fn project(directory: &Path, files: &BTreeMap<String, Projected>, generation: &str) -> io::Result<bool> {
    for path in files.keys() {
        check_relative(path)?;
    }
    let old = fs::read_link(directory.join(CURRENT)).ok();
    if let Some(old) = &old
        && shows(&directory.join(old), files)?
    {
        link_visible(directory, files)?;
        return Ok(false);
    }
    let name = format!("..{generation}");
    let fresh = directory.join(&name);
    make_dir(&fresh, 0o755)?;
    for (path, file) in files {
        write_projected(&fresh.join(path), file)?;
    }
    let next = directory.join(NEXT);
    remove_if_there(&next)?;
    std::os::unix::fs::symlink(&name, &next)?;
    fs::rename(&next, directory.join(CURRENT))?;
    link_visible(directory, files)?;
    drop_stale(directory, files)?;
    match old {
        Some(old) if old != Path::new(&name) => remove_dir_if_there(&directory.join(old))?,
        _ => {}
    }
    Ok(true)
}

fn write_projected(path: &Path, file: &Projected) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    fs::write(path, &file.bytes)?;
    if let Some(user) = file.user {
        std::os::unix::fs::chown(path, Some(user), None)?;
    }
    fs::set_permissions(path, Permissions::from_mode(file.mode))
}

/// Whether a generation holds exactly these files.
fn shows(generation: &Path, files: &BTreeMap<String, Projected>) -> io::Result<bool> {
    let mut found = Vec::new();
    collect(generation, Path::new(""), &mut found)?;
    found.sort();
    if !found.iter().map(String::as_str).eq(files.keys().map(String::as_str)) {
        return Ok(false);
    }
    for (path, file) in files {
        let at = generation.join(path);
        let mode = fs::metadata(&at)?.permissions().mode() & 0o777;
        if mode != file.mode & 0o777 || fs::read(&at)? != file.bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn collect(root: &Path, relative: &Path, found: &mut Vec<String>) -> io::Result<()> {
    let entries = match fs::read_dir(root.join(relative)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let path = relative.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, found)?;
        } else {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn top(path: &str) -> &str {
    path.split_once('/').map_or(path, |(first, _)| first)
}

fn link_visible(directory: &Path, files: &BTreeMap<String, Projected>) -> io::Result<()> {
    for name in files.keys().map(|path| top(path)) {
        let visible = directory.join(name);
        if fs::symlink_metadata(&visible).is_err() {
            match std::os::unix::fs::symlink(Path::new(CURRENT).join(name), &visible) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn drop_stale(directory: &Path, files: &BTreeMap<String, Projected>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = name.starts_with("..") || files.keys().any(|path| top(path) == name);
        if !wanted && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_dir_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn check_relative(path: &str) -> io::Result<()> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !plain || path.starts_with("..") {
        return Err(io::Error::other(format!("not a path inside the volume: {path:?}")));
    }
    Ok(())
}

/// Opens `relative` under `root` without ever leaving it, whatever links a container put there, making missing
/// directories on the way. The open file is what to mount: a path could change its meaning in between.
///
/// # Errors
/// The path leads out of `root`, or the system refuses.
pub fn open_beneath(root: &Path, relative: &Path, make_mode: u32) -> io::Result<rustix::fd::OwnedFd> {
    let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !relative.components().all(plain) {
        return Err(io::Error::other("the path leads out of the volume"));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let base = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut walked = PathBuf::new();
    for part in relative.components().filter(|part| matches!(part, Component::Normal(_))) {
        let parent = if walked.as_os_str().is_empty() { Path::new(".") } else { walked.as_path() };
        let holder = rustix::fs::openat2(&base, parent, flags, Mode::empty(), resolve)?;
        match rustix::fs::mkdirat(&holder, part.as_os_str(), Mode::from_raw_mode(make_mode)) {
            Ok(()) | Err(Errno::EXIST | Errno::NOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
        walked.push(part);
    }
    let last = if walked.as_os_str().is_empty() { Path::new(".") } else { walked.as_path() };
    rustix::fs::openat2(&base, last, flags, Mode::empty(), resolve).map_err(io::Error::from)
}

/// A path that leads to exactly this open file, for as long as it is open.
#[must_use]
pub fn descriptor_path(file: &rustix::fd::OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Makes something that `file` can be mounted on: a directory for a directory, else an empty file.
///
/// # Errors
/// The system refuses.
pub fn make_mount_point(file: &rustix::fd::OwnedFd, at: &Path) -> io::Result<()> {
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    if kind == rustix::fs::FileType::Directory {
        return fs::create_dir_all(at);
    }
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).open(at).map(drop)
}

/// Sets a file's permissions.
///
/// # Errors
/// The system refuses.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Gives everything at and under `path` to a group: what the owner may do the group may do too, and what is made in its
/// directories belongs to it. Links are not followed.
///
/// # Errors
/// The system refuses.
pub fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    std::os::unix::fs::lchown(path, None, Some(group))?;
    if found.is_symlink() {
        return Ok(());
    }
    let mode = found.permissions().mode() & 0o7777;
    let owner_bits = (mode & 0o700) >> 3;
    if found.is_dir() {
        set_mode(path, mode | owner_bits | 0o2000)?;
        for entry in fs::read_dir(path)? {
            give_to_group(&entry?.path(), group)?;
        }
        return Ok(());
    }
    set_mode(path, mode | owner_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> BTreeMap<String, Projected> {
        let file = |text: &str| Projected { bytes: text.as_bytes().to_vec(), mode: 0o644, user: None };
        entries.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    #[test]
    fn a_projected_directory_switches_in_one_step() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = dir.path();
        let read = |name: &str| fs::read_to_string(at.join(name));
        assert!(project(at, &files(&[("a", "1"), ("sub/b", "2")]), "g1").expect("first"));
        let first = fs::read_link(at.join("..data")).expect("a link");
        assert!(!project(at, &files(&[("a", "1"), ("sub/b", "2")]), "g2").expect("the same"));
        assert_eq!(
            fs::read_link(at.join("..data")).expect("a link"),
            first,
            "nothing changed, nothing moved"
        );
        assert!(project(at, &files(&[("a", "3"), ("c", "4")]), "g3").expect("changed"));
        assert_eq!((read("a").expect("a"), read("c").expect("c")), ("3".into(), "4".into()));
        assert!(read("sub/b").is_err(), "what is no longer wanted is gone");
        assert!(!at.join(first).exists(), "the old generation is gone");
    }

    #[test]
    fn a_key_cannot_escape_its_volume() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for path in ["../x", "/etc/x", "a/../../x", "", "..data/x"] {
            assert!(project(dir.path(), &files(&[(path, "1")]), "g1").is_err(), "{path}");
        }
    }

    #[test]
    fn links_in_a_volume_lead_nowhere_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::os::unix::fs::symlink("/etc", dir.path().join("evil")).expect("a link");
        assert!(open_beneath(dir.path(), Path::new("evil/passwd"), 0o755).is_err());
        assert!(open_beneath(dir.path(), Path::new("../x"), 0o755).is_err());
        open_beneath(dir.path(), Path::new("made/on/the/way"), 0o755).expect("made");
        assert!(dir.path().join("made/on/the/way").is_dir());
        fs::write(dir.path().join("file"), "x").expect("written");
        open_beneath(dir.path(), Path::new("file"), 0o755).expect("a file will do");
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        write_atomic(&path, b"one", 0o600).expect("written");
        write_atomic(&path, b"two", 0o600).expect("written");
        assert_eq!(fs::read(&path).expect("there"), b"two");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1, "nothing temporary is left");
    }
}
