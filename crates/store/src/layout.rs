//! Which files a data directory holds, and how one comes into being: written under a temporary name, synced,
//! renamed, and the directory synced. A file under its real name is therefore always complete.

use std::io;

use crate::disk::{Disk, DiskFile};
use crate::error::is_full;
use crate::{Revision, StoreError};

/// The name of the log segment that begins with this revision.
pub(crate) fn segment(first: Revision) -> String {
    format!("{first:020}.log")
}

/// The name of the snapshot of the state at this revision.
pub(crate) fn snapshot(revision: Revision) -> String {
    format!("{revision:020}.snap")
}

/// The name of a file that is not complete yet.
pub(crate) fn temporary(name: &str) -> String {
    format!("{name}.tmp")
}

/// What a directory holds, by name only.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// First revisions, ascending.
    pub(crate) segments: Vec<Revision>,
    /// Revisions, ascending.
    pub(crate) snapshots: Vec<Revision>,
    /// Left over from a crash.
    pub(crate) temporary: Vec<String>,
}

/// Sorts names into what they are; anything else is not the store's.
pub(crate) fn sort(names: Vec<String>) -> Listing {
    let mut listing = Listing::default();
    for name in names {
        if let Some(first) = name.strip_suffix(".log").and_then(number) {
            listing.segments.push(first);
        } else if let Some(revision) = name.strip_suffix(".snap").and_then(number) {
            listing.snapshots.push(revision);
        } else if name.ends_with(".tmp") {
            listing.temporary.push(name);
        }
    }
    listing.segments.sort_unstable();
    listing.snapshots.sort_unstable();
    listing
}

fn number(text: &str) -> Option<Revision> {
    if text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// Gives a complete file its real name, durably.
pub(crate) fn publish(
    disk: &dyn Disk,
    mut file: Box<dyn DiskFile>,
    name: &str,
) -> Result<Box<dyn DiskFile>, StoreError> {
    let temporary = temporary(name);
    sync(disk, &mut *file, &temporary)?;
    disk.rename(&temporary, name)
        .map_err(|error| failed(format!("renaming to {}", disk.describe(name)), error))?;
    sync_directory(disk)?;
    Ok(file)
}

/// Syncs a file. A failure is final: the system may have thrown away what it could not write.
pub(crate) fn sync(disk: &dyn Disk, file: &mut dyn DiskFile, name: &str) -> Result<(), StoreError> {
    file.sync()
        .map_err(|error| StoreError::stopped(format!("fsync of {} failed: {error}", disk.describe(name))))
}

/// Syncs the directory, with the same consequence.
pub(crate) fn sync_directory(disk: &dyn Disk) -> Result<(), StoreError> {
    disk.sync_directory()
        .map_err(|error| StoreError::stopped(format!("fsync of {} failed: {error}", disk.describe(""))))
}

/// A write that failed: for want of space, or for a reason that no retry mends.
pub(crate) fn failed(doing: impl Into<String>, error: io::Error) -> StoreError {
    if is_full(&error) { StoreError::DiskFull(doing.into()) } else { StoreError::io(doing.into(), error) }
}

/// Removes files that are no longer needed. What a crash leaves of this is harmless and removed at the next start.
pub(crate) fn remove(disk: &dyn Disk, names: &[String]) -> Result<(), StoreError> {
    for name in names {
        match disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(format!("removing {}", disk.describe(name)), error));
            }
            _ => {}
        }
    }
    if names.is_empty() { Ok(()) } else { sync_directory(disk) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_into_what_they_are() {
        let names =
            [snapshot(30), segment(7), segment(31), temporary(&snapshot(40)), "LOCK".into(), "7.log".into()];
        let listing = sort(names.to_vec());
        assert_eq!(listing.segments, [7, 31]);
        assert_eq!(listing.snapshots, [30]);
        assert_eq!(listing.temporary, [temporary(&snapshot(40))]);
    }
}
