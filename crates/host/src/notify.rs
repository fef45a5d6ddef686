//! Waiting for a file to grow or a directory to get new files, without looking again and again. Says that something
//! happened, not what: the caller looks.

use std::io;
use std::mem::MaybeUninit;
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use tokio::io::unix::AsyncFd;

/// A watched file or directory. Changes from its making on are noticed.
#[derive(Debug)]
pub struct Watch {
    handle: AsyncFd<rustix::fd::OwnedFd>,
}

impl Watch {
    /// Watches a file for being written to, or a directory for files that were written or moved into it.
    ///
    /// # Errors
    /// The path does not exist, or the system has no watch left.
    pub fn new(path: &Path) -> io::Result<Self> {
        let handle = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let flags = if path.is_dir() {
            WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO
        } else {
            WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF
        };
        add_watch(&handle, path, flags)?;
        Ok(Self { handle: crate::process::watch(handle)? })
    }

    /// Watches a file for being written to, and its directory for another file that takes its place.
    ///
    /// # Errors
    /// The path does not exist, or the system has no watch left.
    pub fn of_log(path: &Path) -> io::Result<Self> {
        let watch = Self::new(path)?;
        if let Some(directory) = path.parent() {
            add_watch(watch.handle.get_ref(), directory, WatchFlags::CREATE)?;
        }
        Ok(watch)
    }

    /// Returns when something happened since the last return.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.handle.readable().await?;
            if drain(ready.get_inner())? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

/// Reads all messages that wait; whether there was one.
fn drain(handle: &rustix::fd::OwnedFd) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(handle, &mut buffer);
    let mut any = false;
    loop {
        match reader.next() {
            Ok(_) => any = true,
            Err(rustix::io::Errno::AGAIN) => return Ok(any),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn growth_and_new_files_are_noticed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("log");
        std::fs::write(&file, "a").expect("written");
        let mut watch = Watch::new(&file).expect("it is there");
        let mut directory = Watch::new(dir.path()).expect("it is there");
        std::fs::write(&file, "ab").expect("written");
        watch.changed().await.expect("growth");
        std::fs::write(dir.path().join("new"), "x").expect("written");
        directory.changed().await.expect("a new file");
    }
}
