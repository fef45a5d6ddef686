//! From files to state: the newest snapshot, then the log after it, frame by frame.
//!
//! Decides what is a torn tail (the one frame that was being written when the power went: cut off) and what is
//! damage (an error that names file and offset). Repairs nothing else and never skips a frame.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cipher::Cipher;
use crate::disk::{Disk, DiskFile};
use crate::frame::{self, FileHeader, FileKind, FrameBuffer, Read, SECTOR};
use crate::index::{FIRST, Index};
use crate::log::{Active, Closed, Log};
use crate::options::Options;
use crate::record::Reader;
use crate::snapshot::{self, decode_failed};
use crate::{Revision, StoreError, layout};

/// What opening a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The newest revision found.
    pub revision: Revision,
    /// The revision of the snapshot that was loaded.
    pub snapshot: Option<Revision>,
    /// How many transactions were read from the log.
    pub replayed: u64,
    /// An unfinished write at the end of the log that was cut off. It was never acknowledged.
    pub torn: Option<TornTail>,
}

/// Where a torn tail was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub file: String,
    /// Its new length.
    pub offset: u64,
    /// What was wrong with what began there.
    pub what: String,
}

/// An opened store's parts.
pub(crate) struct Recovered {
    pub(crate) index: Index,
    pub(crate) log: Log,
    pub(crate) report: Recovery,
    pub(crate) snapshot_bytes: u64,
}

/// Reads everything, makes sure that all of it is durable, and leaves the log ready for the next revision.
pub(crate) fn recover(
    disk: &Arc<dyn Disk>,
    cipher: &Cipher,
    options: &Options,
) -> Result<Recovered, StoreError> {
    let names =
        disk.list().map_err(|error| StoreError::io(format!("listing {}", disk.describe("")), error))?;
    let mut listing = layout::sort(names);
    let snapshot = listing.snapshots.pop();
    let (mut index, snapshot_bytes) = match snapshot {
        Some(revision) => snapshot::load(&**disk, cipher, revision)?,
        None => (Index::new(FIRST), 0),
    };
    let obsolete = split_obsolete(&mut listing.segments, index.revision());
    let segments = listing.segments;
    check_beginning(&**disk, &segments, snapshot, index.revision())?;

    let mut replay = Replay { disk: &**disk, cipher, index: &mut index, next: 0, replayed: 0, torn: None };
    let mut closed = VecDeque::new();
    let mut last = None;
    for (position, first) in segments.iter().enumerate() {
        let segment = replay.segment(*first, segments.get(position + 1).copied())?;
        if position + 1 < segments.len() {
            closed.push_back(Closed { first: *first, bytes: segment.bytes.len() as u64 });
        } else {
            last = Some((*first, segment));
        }
    }
    let Replay { replayed, torn, .. } = replay;

    let active = match last {
        Some((first, segment)) => settle(&**disk, layout::segment(first), first, segment)?,
        None => Active::create(&**disk, cipher.random(), FIRST + 1)?,
    };
    let mut leftovers = listing.temporary;
    leftovers.extend(obsolete.into_iter().map(layout::segment));
    leftovers.extend(listing.snapshots.into_iter().map(layout::snapshot));
    layout::remove(&**disk, &leftovers)?;
    layout::sync_directory(&**disk)?;

    let random = cipher.random().clone();
    let mut log =
        Log::new(Arc::clone(disk), random, closed, active, options.segment_bytes, options.preallocate_bytes);
    mark(&mut log, index.revision())?;
    let report = Recovery { revision: index.revision(), snapshot, replayed, torn };
    Ok(Recovered { index, log, report, snapshot_bytes })
}

/// Writes an empty frame, so that damage to the one before it will be known for damage and not for a torn tail.
/// Only a help: a full disk does not keep the store from opening or closing.
pub(crate) fn mark(log: &mut Log, revision: Revision) -> Result<(), StoreError> {
    match log.append(&mut FrameBuffer::new(), revision + 1, 0) {
        Err(error @ StoreError::DiskFull(_)) => {
            tracing::warn!(%error, "no space to mark the end of the log");
            Ok(())
        }
        done => done,
    }
}

/// Takes out the segments that hold nothing newer than the snapshot: a crash came before their removal.
fn split_obsolete(segments: &mut Vec<Revision>, snapshot: Revision) -> Vec<Revision> {
    let needed = segments.iter().rposition(|first| *first <= snapshot + 1).unwrap_or(0);
    segments.drain(..needed).collect()
}

/// The log must begin at or before what follows the snapshot.
fn check_beginning(
    disk: &dyn Disk,
    segments: &[Revision],
    snapshot: Option<Revision>,
    state: Revision,
) -> Result<(), StoreError> {
    match (segments.first(), snapshot) {
        (Some(first), _) if *first > state + 1 => {
            let what = format!("the log begins with revision {first}, what comes after {state} is missing");
            Err(StoreError::corrupt(disk.describe(&layout::segment(*first)), 0, what))
        }
        (None, Some(revision)) => {
            let file = disk.describe(&layout::snapshot(revision));
            Err(StoreError::corrupt(file, 0, "the log that belongs to this snapshot is missing"))
        }
        _ => Ok(()),
    }
}

/// Cuts the last segment after its last frame and makes sure that what was read is durable, since it is about to be
/// shown to clients: after a crash of the process alone, it may so far only be in the system's memory.
fn settle(disk: &dyn Disk, name: String, first: Revision, segment: Segment) -> Result<Active, StoreError> {
    let Segment { mut file, salt, bytes, doubtful } = segment;
    let end = bytes.len() as u64;
    if doubtful {
        match rewrite(disk, &name, &bytes) {
            Ok(file) => return Ok(Active { name, first, salt, file, end, allocated: end }),
            Err(error @ StoreError::DiskFull(_)) => {
                tracing::warn!(%error, "syncing the end of the log in place")
            }
            Err(error) => return Err(error),
        }
    }
    let path = disk.describe(&name);
    file.set_len(end).map_err(|error| StoreError::io(format!("truncating {path}"), error))?;
    layout::sync(disk, &mut *file, &name)?;
    Ok(Active { name, first, salt, file, end, allocated: end })
}

/// Writes a file anew. Syncing the old one would not do if a sync of its end has failed before: the system then
/// shows what it could not write as if it were written, and the next sync succeeds without trying again.
fn rewrite(disk: &dyn Disk, name: &str, bytes: &[u8]) -> Result<Box<dyn DiskFile>, StoreError> {
    let temporary = layout::temporary(name);
    let doing = || format!("writing {}", disk.describe(&temporary));
    let mut file = disk.create(&temporary).map_err(|error| layout::failed(doing(), error))?;
    if let Err(error) = file.write_all_at(bytes, 0) {
        let error = layout::failed(doing(), error);
        layout::remove(disk, &[temporary])?;
        return Err(error);
    }
    layout::publish(disk, file, name)
}

/// A segment that was read.
struct Segment {
    file: Box<dyn DiskFile>,
    salt: u32,
    /// Up to the end of the last frame that is more than a mark.
    bytes: Vec<u8>,
    /// Nothing shows that the last transactions were ever synced: no later frame, not even a part of one.
    doubtful: bool,
}

struct Replay<'a> {
    disk: &'a dyn Disk,
    cipher: &'a Cipher,
    index: &'a mut Index,
    /// The revision that comes next in the log.
    next: Revision,
    replayed: u64,
    torn: Option<TornTail>,
}

impl Replay<'_> {
    /// Applies a segment. `successor` is where the next one begins; the last segment has none and may be torn.
    fn segment(&mut self, first: Revision, successor: Option<Revision>) -> Result<Segment, StoreError> {
        let name = layout::segment(first);
        let path = self.disk.describe(&name);
        let unreadable = |error| StoreError::io(format!("reading {path}"), error);
        let file = self.disk.open(&name).map_err(unreadable)?;
        let length = file.len().map_err(unreadable)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0).map_err(unreadable)?;
        let header = FileHeader::decode(&bytes, FileKind::Log, first)
            .map_err(|what| StoreError::corrupt(&path, 0, what))?;

        self.next = first;
        let mut at = SECTOR;
        let mut doubtful = false;
        let mut end = SECTOR;
        loop {
            match frame::read(&bytes, at, header.salt) {
                Read::Frame(frame) => {
                    self.frame(&frame).map_err(|error| error.locate(&path, at))?;
                    doubtful = frame.count > 0;
                    // A mark at the end proves that what is before it was synced, but may itself not be.
                    end = if doubtful { frame.next } else { at };
                    at = frame.next;
                }
                Read::End => {
                    self.complete(successor, &path, at, "records are missing")?;
                    break;
                }
                Read::Bad(what) if successor.is_some() => {
                    // Behind the last frame lies what a failed write left; before it, damage.
                    self.complete(successor, &path, at, what)?;
                    break;
                }
                Read::Bad(what) => {
                    self.tail(&bytes, at, header.salt, &path, what)?;
                    (doubtful, end) = (false, at);
                    break;
                }
            }
        }
        bytes.truncate(end);
        Ok(Segment { file, salt: header.salt, bytes, doubtful })
    }

    fn complete(
        &self,
        successor: Option<Revision>,
        path: &str,
        at: usize,
        what: &str,
    ) -> Result<(), StoreError> {
        match successor {
            Some(successor) if successor != self.next => {
                let what = format!("{what} (revision {} of {})", self.next, successor - 1);
                Err(StoreError::corrupt(path, at as u64, what))
            }
            _ => Ok(()),
        }
    }

    /// A frame was not synced before the next was begun, so only the very last one can be torn.
    fn tail(&mut self, bytes: &[u8], at: usize, salt: u32, path: &str, what: &str) -> Result<(), StoreError> {
        if let Some(valid) = frame::find(bytes, at + SECTOR, salt) {
            let what = format!("{what}, and a valid record follows at offset {valid}");
            return Err(StoreError::corrupt(path, at as u64, what));
        }
        tracing::warn!(
            file = path,
            offset = at,
            what,
            "cutting off an unfinished write at the end of the log"
        );
        self.torn = Some(TornTail { file: path.to_owned(), offset: at as u64, what: what.to_owned() });
        Ok(())
    }

    fn frame(&mut self, frame: &frame::Frame<'_>) -> Result<(), Unlocated> {
        if frame.first != self.next {
            let what = format!("revision {} where {} should follow", frame.first, self.next);
            return Err(Unlocated::Order(what));
        }
        let mut entries = Reader::new(frame.payload, self.cipher);
        for _ in 0..frame.count {
            let ops = entries.txn().map_err(Unlocated::Decode)?;
            if self.next > self.index.revision() {
                self.index.apply(ops);
                self.replayed += 1;
            }
            self.next += 1;
        }
        entries.finish().map_err(Unlocated::Decode)
    }
}

enum Unlocated {
    Order(String),
    Decode(crate::record::DecodeError),
}

impl Unlocated {
    fn locate(self, path: &str, at: usize) -> StoreError {
        match self {
            Unlocated::Order(what) => StoreError::corrupt(path, at as u64, what),
            Unlocated::Decode(error) => decode_failed(error, path, at as u64),
        }
    }
}
