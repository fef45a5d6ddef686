//! A disk on which the writing of a snapshot stands still half-way until the log finds no room, so that the two meet in
//! every run of a test and not only when threads happen to be slow.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use store::simdisk::SimDisk;
use store::{Disk, DiskFile, DiskLock, LockError};

/// What has happened so far.
#[derive(Default, Clone, Copy)]
pub struct Met {
    /// A snapshot has taken room and waits.
    pub snapshot_waits: bool,
    /// The log was refused room, twice in a row in one file: it asks for ample room first, and then for what it needs.
    pub log_refused: bool,
}

#[derive(Clone)]
pub struct HeldDisk {
    disk: SimDisk,
    met: Arc<(Mutex<Met>, Condvar)>,
}

impl HeldDisk {
    pub fn new(disk: SimDisk) -> HeldDisk {
        HeldDisk { disk, met: Arc::default() }
    }

    pub fn met(&self) -> Met {
        *self.met.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until this is so.
    pub fn wait_for(&self, so: impl Fn(&Met) -> bool) {
        let met = self.met.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.met.1.wait_while(met, |met| !so(met)).unwrap_or_else(PoisonError::into_inner));
    }

    fn note(&self, change: impl FnOnce(&mut Met)) {
        change(&mut self.met.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.met.1.notify_all();
    }

    fn file(&self, name: &str, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(HeldFile {
            file,
            disk: self.clone(),
            snapshot: name.contains(".snap"),
            writes: 0,
            refused: false,
        })
    }
}

impl Disk for HeldDisk {
    fn describe(&self, name: &str) -> String {
        self.disk.describe(name)
    }

    fn lock(&self) -> Result<Box<dyn DiskLock>, LockError> {
        self.disk.lock()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(name, self.disk.open(name)?))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(name, self.disk.create(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }
}

struct HeldFile {
    file: Box<dyn DiskFile>,
    disk: HeldDisk,
    snapshot: bool,
    writes: u32,
    /// The last write found no room.
    refused: bool,
}

/// A snapshot's header and its first block: what takes room before it waits.
const BEFORE_THE_WAIT: u32 = 2;

impl DiskFile for HeldFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.snapshot && self.writes == BEFORE_THE_WAIT {
            self.disk.note(|met| met.snapshot_waits = true);
            self.disk.wait_for(|met| met.log_refused);
        }
        self.writes += 1;
        let written = self.file.write_all_at(bytes, offset);
        let full = matches!(&written, Err(error) if error.kind() == io::ErrorKind::StorageFull);
        if !self.snapshot && self.refused && full {
            self.disk.note(|met| met.log_refused = true);
        }
        self.refused = full;
        written
    }

    fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}
