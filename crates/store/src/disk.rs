//! The little that the store needs of a disk, so that a simulated one can lose, tear and reorder what was not
//! synced.
//!
//! A disk is one flat directory that belongs to the store alone. Nothing here retries or interprets: an error
//! is handed up with the system's own kind (`StorageFull` for a full disk).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One directory of files.
pub trait Disk: Send + Sync {
    /// How messages name a file: its path.
    fn describe(&self, name: &str) -> String;

    /// Takes the directory for one writer, until the returned guard is dropped.
    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError>;

    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Creates an empty file, or empties an existing one. Durable only after [`sync_directory`](Disk::sync_directory).
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Renames a file over whatever has the new name. Durable only after [`sync_directory`](Disk::sync_directory).
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file. Durable only after [`sync_directory`](Disk::sync_directory).
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    fn sync_directory(&self) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Fills the buffer from the offset; an error if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all bytes at the offset, extending the file as needed. After an error any part may be written.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts or extends (with zeros) the file.
    fn set_len(&mut self, length: u64) -> io::Result<()>;

    /// Makes contents and length durable. After an error nothing is known about what was written since the
    /// last success, and calling it again proves nothing.
    fn sync(&mut self) -> io::Result<()>;

    /// Whether it holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Held while the directory is taken.
pub trait DiskLock: Send + Sync {}

/// Why the directory could not be taken.
#[derive(Debug)]
pub enum LockError {
    /// Another process has it; the text says which, when known, as in ` (process 123)`.
    Held(String),
    /// The system refused.
    Io(io::Error),
}

const LOCK: &str = "LOCK";

/// A directory of the real file system.
#[derive(Clone, Debug)]
pub struct FileDisk {
    directory: PathBuf,
}

impl FileDisk {
    /// The directory at this path, made (and made durable) if it is missing.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<FileDisk> {
        let directory = directory.into();
        if !directory.is_dir() {
            create_durably(&directory)?;
        }
        Ok(FileDisk { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Creates a directory and those above it, each with its entry synced in its parent.
fn create_durably(directory: &Path) -> io::Result<()> {
    let parent = match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        create_durably(parent)?;
    }
    match fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(parent)?.sync_all(),
    }
}

impl Disk for FileDisk {
    fn describe(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError> {
        let mut options = private();
        let mut file =
            options.read(true).write(true).create(true).open(self.path(LOCK)).map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LockError::Held(holder(&mut file))),
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        // The process id only helps whoever reads the refusal: a full disk must not keep the store from opening.
        let noted = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::debug!(%error, "cannot note the process id in the lock file");
        }
        Ok(Box::new(FileLock { _file: file }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            if let (true, Ok(name)) = (entry.file_type()?.is_file(), entry.file_name().into_string()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(private().read(true).write(true).open(self.path(name))?)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = private();
        let file = options.read(true).write(true).create(true).truncate(true).open(self.path(name))?;
        Ok(Box::new(RealFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

/// Files that only their owner can read: not every value in them is encrypted.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!(" (process {})", text.trim()),
        _ => String::new(),
    }
}

/// The kernel releases the lock when the file is closed, however the process ends.
struct FileLock {
    _file: File,
}

impl DiskLock for FileLock {}

struct RealFile(File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        // fdatasync: it also writes the length when that is needed to read the data back.
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder_and_is_free_after_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = FileDisk::new(folder.path().join("a/b")).expect("made");
        let lock = disk.lock().expect("free");
        match disk.lock() {
            Err(LockError::Held(holder)) => assert_eq!(holder, format!(" (process {})", std::process::id())),
            _ => panic!("taken twice"),
        }
        drop(lock);
        assert!(disk.lock().is_ok());
    }
}
