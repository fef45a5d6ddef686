//! The write side of the append log: segments, preallocation, rotation, and the one sync that makes a group durable.
//!
//! Knows frames but not what they mean; reading them back is `recovery`'s.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cipher::Random;
use crate::disk::{Disk, DiskFile};
use crate::error::is_full;
use crate::frame::{FileHeader, FileKind, FrameBuffer, SECTOR};
use crate::{Revision, StoreError, layout};

/// A segment that takes no more frames.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) first: Revision,
    pub(crate) bytes: u64,
}

/// The segment that frames are appended to.
pub(crate) struct Active {
    pub(crate) name: String,
    pub(crate) first: Revision,
    pub(crate) salt: u32,
    pub(crate) file: Box<dyn DiskFile>,
    /// Where the next frame goes.
    pub(crate) end: u64,
    /// The file is zeros from `end` to here.
    pub(crate) allocated: u64,
}

impl Active {
    /// Creates the segment that begins with this revision.
    pub(crate) fn create(disk: &dyn Disk, random: &Random, first: Revision) -> Result<Active, StoreError> {
        let name = layout::segment(first);
        let temporary = layout::temporary(&name);
        let doing = || format!("creating log segment {}", disk.describe(&name));
        let salt = random_salt(random)?;
        let header = FileHeader { kind: FileKind::Log, salt, revision: first }.encode();
        let mut file = disk.create(&temporary).map_err(|error| layout::failed(doing(), error))?;
        file.write_all_at(header.as_ref(), 0).map_err(|error| layout::failed(doing(), error))?;
        let file = layout::publish(disk, file, &name)?;
        let end = SECTOR as u64;
        Ok(Active { name, first, salt, file, end, allocated: end })
    }
}

/// A salt for the checksums of a new file.
pub(crate) fn random_salt(random: &Random) -> Result<u32, StoreError> {
    let mut salt = [0; 4];
    random(&mut salt).map_err(|error| StoreError::io("drawing a salt", error))?;
    Ok(u32::from_le_bytes(salt))
}

/// The open log.
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    random: Random,
    closed: VecDeque<Closed>,
    active: Active,
    segment_bytes: u64,
    preallocate_bytes: u64,
    rotate_at: u64,
}

impl Log {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        random: Random,
        closed: VecDeque<Closed>,
        active: Active,
        segment_bytes: u64,
        preallocate_bytes: u64,
    ) -> Log {
        let rotate_at = segment_bytes;
        Log { disk, random, closed, active, segment_bytes, preallocate_bytes, rotate_at }
    }

    /// Writes and syncs one frame. After `DiskFull` nothing has happened; after any other error nothing is known,
    /// and nothing more may be written.
    pub(crate) fn append(
        &mut self,
        frame: &mut FrameBuffer,
        first: Revision,
        count: u32,
    ) -> Result<(), StoreError> {
        if self.active.end >= self.rotate_at && self.active.first < first {
            self.rotate(first)?;
        }
        let bytes = frame.finish(self.active.salt, first, count);
        self.reserve(bytes.len() as u64)?;
        let Log { disk, active, .. } = self;
        match active.file.write_all_at(bytes, active.end) {
            Ok(()) => {}
            Err(error) if is_full(&error) => return Err(self.erase()),
            Err(error) => {
                return Err(StoreError::stopped(format!(
                    "writing {} failed: {error}",
                    disk.describe(&active.name)
                )));
            }
        }
        layout::sync(&**disk, &mut *active.file, &active.name)?;
        active.end += bytes.len() as u64;
        Ok(())
    }

    /// Has zeros on the disk where the frame will go. Overwriting them cannot run out of space on most file
    /// systems, and syncing them needs no journal.
    fn reserve(&mut self, length: u64) -> Result<(), StoreError> {
        let needed = self.active.end + length;
        if needed <= self.active.allocated {
            return Ok(());
        }
        let ample = needed.max(self.active.allocated + self.preallocate_bytes);
        match self.extend(ample) {
            Err(StoreError::DiskFull(_)) => self.extend(needed),
            done => done,
        }
    }

    fn extend(&mut self, until: u64) -> Result<(), StoreError> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let Log { disk, active, .. } = self;
        let mut at = active.allocated;
        while at < until {
            let length = ZEROS.len().min(usize::try_from(until - at).unwrap_or(usize::MAX));
            active.file.write_all_at(&ZEROS[..length], at).map_err(|error| {
                let doing = format!("extending {}", disk.describe(&active.name));
                if is_full(&error) {
                    StoreError::DiskFull(doing)
                } else {
                    StoreError::stopped(format!("{doing} failed: {error}"))
                }
            })?;
            at += length as u64;
        }
        active.allocated = until;
        Ok(())
    }

    /// Takes back a frame that found no space after all (a file system that copies on write). It was answered
    /// with "did not happen", so it must not be found by a recovery.
    fn erase(&mut self) -> StoreError {
        let Log { disk, active, .. } = self;
        let path = disk.describe(&active.name);
        if let Err(error) = active.file.write_all_at(&[0; SECTOR], active.end) {
            return StoreError::stopped(format!("{path} is full and cannot be restored: {error}"));
        }
        match layout::sync(&**disk, &mut *active.file, &active.name) {
            Ok(()) => StoreError::DiskFull(format!("writing {path}")),
            Err(error) => error,
        }
    }

    /// Goes on in a new segment, or, if there is no space or no file handle for one, in this one for a while.
    fn rotate(&mut self, first: Revision) -> Result<(), StoreError> {
        let active = match Active::create(&*self.disk, &self.random, first) {
            Ok(active) => active,
            Err(stopped @ StoreError::Stopped(_)) => return Err(stopped),
            Err(error) => {
                tracing::warn!(%error, "going on in the old log segment");
                self.rotate_at = self.active.end + self.preallocate_bytes.max(self.segment_bytes / 4);
                return Ok(());
            }
        };
        let mut old = std::mem::replace(&mut self.active, active);
        self.rotate_at = self.segment_bytes;
        // Not synced: whether the zeros at the end are there or not after a crash makes no difference.
        if let Err(error) = old.file.set_len(old.end) {
            tracing::debug!(%error, segment = old.name, "cannot give back preallocated space");
        }
        self.closed.push_back(Closed { first: old.first, bytes: old.end });
        Ok(())
    }

    /// How many bytes of log a snapshot at this revision would make superfluous.
    pub(crate) fn reclaimable(&self, revision: Revision) -> u64 {
        self.closed.iter().take(self.superfluous(revision)).map(|segment| segment.bytes).sum()
    }

    /// Removes the segments that hold nothing newer than a durable snapshot, and the older snapshot.
    pub(crate) fn reclaim(
        &mut self,
        revision: Revision,
        old_snapshot: Option<Revision>,
    ) -> Result<(), StoreError> {
        let superfluous = self.closed.drain(..self.superfluous(revision));
        let mut names: Vec<String> = superfluous.map(|segment| layout::segment(segment.first)).collect();
        names.extend(old_snapshot.filter(|old| *old != revision).map(layout::snapshot));
        layout::remove(&*self.disk, &names)
    }

    /// How many closed segments end at or before this revision.
    fn superfluous(&self, revision: Revision) -> usize {
        let ends = self.closed.iter().skip(1).map(|segment| segment.first).chain([self.active.first]);
        ends.take_while(|next| *next <= revision + 1).count().min(self.closed.len())
    }
}
