//! Snapshots: the whole state at the compacted revision, so that the log before it can go.
//!
//! A snapshot is only needed to forget log; durability never waits for one. Values are encrypted anew, under the
//! first key, so a snapshot also completes a key rotation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cipher::Cipher;
use crate::disk::{Disk, DiskFile};
use crate::frame::{self, FileHeader, FileKind, FrameBuffer, Read, SECTOR};
use crate::index::{Index, Page};
use crate::log::random_salt;
use crate::record::{self, DecodeError, Reader};
use crate::{Revision, StoreError, layout};

/// A block is closed when it has grown to this.
const BLOCK: usize = 256 << 10;

/// Why no snapshot was written.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something else matters more, such as closing the store.
    Cancelled,
    Error(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Error(error)
    }
}

/// Writes the state at a revision, which `next_page` returns piece by piece, and returns the size of the file.
pub(crate) fn write(
    disk: &dyn Disk,
    cipher: &Cipher,
    revision: Revision,
    cancelled: &AtomicBool,
    next_page: impl Fn(Option<&str>) -> Result<Page, StoreError>,
) -> Result<u64, Failure> {
    let name = layout::snapshot(revision);
    let temporary = layout::temporary(&name);
    let written = Writer::begin(disk, cipher, &temporary, revision)
        .map_err(Failure::Error)
        .and_then(|writer| writer.write(cancelled, next_page));
    match written {
        Ok(writer) => {
            let end = writer.end;
            layout::publish(disk, writer.file, &name)?;
            Ok(end)
        }
        Err(failure) => {
            if let Err(error) = disk.remove(&temporary) {
                tracing::debug!(%error, file = temporary, "left for the next start to remove");
            }
            Err(failure)
        }
    }
}

struct Writer<'a> {
    disk: &'a dyn Disk,
    cipher: &'a Cipher,
    name: &'a str,
    file: Box<dyn DiskFile>,
    salt: u32,
    end: u64,
    block: FrameBuffer,
    block_number: u64,
    block_items: u32,
    items: u64,
}

impl<'a> Writer<'a> {
    fn begin(
        disk: &'a dyn Disk,
        cipher: &'a Cipher,
        name: &'a str,
        revision: Revision,
    ) -> Result<Self, StoreError> {
        let salt = random_salt(cipher.random())?;
        let header = FileHeader { kind: FileKind::Snapshot, salt, revision }.encode();
        let doing = || format!("writing snapshot {}", disk.describe(name));
        let mut file = disk.create(name).map_err(|error| layout::failed(doing(), error))?;
        file.write_all_at(header.as_ref(), 0).map_err(|error| layout::failed(doing(), error))?;
        let (end, block) = (SECTOR as u64, FrameBuffer::new());
        Ok(Writer { disk, cipher, name, file, salt, end, block, block_number: 0, block_items: 0, items: 0 })
    }

    fn write(
        mut self,
        cancelled: &AtomicBool,
        next_page: impl Fn(Option<&str>) -> Result<Page, StoreError>,
    ) -> Result<Self, Failure> {
        let mut after: Option<Arc<str>> = None;
        loop {
            if cancelled.load(Ordering::Relaxed) {
                return Err(Failure::Cancelled);
            }
            let page = next_page(after.as_deref())?;
            for item in &page.items {
                record::encode_item(item, self.cipher, self.block.payload())
                    .map_err(|error| StoreError::io("encrypting a snapshot", error))?;
                self.block_items += 1;
                if self.block.payload_len() >= BLOCK {
                    self.flush()?;
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if self.block_items > 0 {
            self.flush()?;
        }
        // The last block holds no items but their number: a snapshot without it is not one.
        let items = self.items;
        self.block.payload().extend_from_slice(&items.to_le_bytes());
        self.flush()?;
        Ok(self)
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let bytes = self.block.finish(self.salt, self.block_number, self.block_items);
        self.file.write_all_at(bytes, self.end).map_err(|error| {
            layout::failed(format!("writing snapshot {}", self.disk.describe(self.name)), error)
        })?;
        self.end += bytes.len() as u64;
        self.items += u64::from(self.block_items);
        self.block_number += 1;
        self.block_items = 0;
        self.block.clear();
        Ok(())
    }
}

/// Reads the snapshot of a revision. Any damage is an error: it was synced before it got its name.
pub(crate) fn load(disk: &dyn Disk, cipher: &Cipher, revision: Revision) -> Result<(Index, u64), StoreError> {
    let name = layout::snapshot(revision);
    let path = disk.describe(&name);
    let unreadable = |error| StoreError::io(format!("reading snapshot {path}"), error);
    let file = disk.open(&name).map_err(unreadable)?;
    let length = file.len().map_err(unreadable)?;
    let mut reader = Blocks { file, path: &path, length, at: 0 };
    let sector = reader.sector()?;
    let header = FileHeader::decode(&sector, FileKind::Snapshot, revision)
        .map_err(|what| StoreError::corrupt(&path, 0, what))?;
    reader.at = SECTOR as u64;
    let mut items = Vec::new();
    for number in 0.. {
        let at = reader.at;
        let block = reader.block(header.salt)?;
        let frame = match frame::read(&block, 0, header.salt) {
            Read::Frame(frame) if frame.first == number => frame,
            Read::Frame(_) => {
                return Err(StoreError::corrupt(&path, at, "a block is missing before this one"));
            }
            Read::End => return Err(StoreError::corrupt(&path, at, "a block is missing")),
            Read::Bad(what) => return Err(StoreError::corrupt(&path, at, what)),
        };
        if frame.count == 0 {
            if frame.payload != (items.len() as u64).to_le_bytes() {
                return Err(StoreError::corrupt(
                    &path,
                    at,
                    "the snapshot holds another number of keys than it says",
                ));
            }
            return Ok((Index::restore(revision, items), length));
        }
        let mut entries = Reader::new(frame.payload, cipher);
        for _ in 0..frame.count {
            items.push(entries.item().map_err(|error| decode_failed(error, &path, at))?);
        }
        entries.finish().map_err(|error| decode_failed(error, &path, at))?;
    }
    unreachable!("the loop only ends by returning")
}

/// A payload that does not decode although its checksum holds, with its place.
pub(crate) fn decode_failed(error: DecodeError, path: &str, offset: u64) -> StoreError {
    match error {
        DecodeError::Malformed(what) => StoreError::corrupt(path, offset, what),
        DecodeError::Undecipherable { key } => {
            let what = format!(
                "the value of {key} does not decrypt: it or its encryption key is not the one written"
            );
            StoreError::corrupt(path, offset, what)
        }
        DecodeError::UnknownKey { key, id } => StoreError::UnknownEncryptionKey { key, key_id: id },
    }
}

/// Reads a file block by block, so that a large snapshot is never in memory twice.
struct Blocks<'a> {
    file: Box<dyn DiskFile>,
    path: &'a str,
    length: u64,
    at: u64,
}

impl Blocks<'_> {
    fn sector(&self) -> Result<[u8; SECTOR], StoreError> {
        let mut sector = [0; SECTOR];
        self.read(&mut sector)?;
        Ok(sector)
    }

    fn block(&mut self, salt: u32) -> Result<Vec<u8>, StoreError> {
        let extent = frame::extent(&self.sector()?, salt)
            .map_err(|what| StoreError::corrupt(self.path, self.at, what))?;
        self.fits(extent)?;
        let mut block = vec![0; extent];
        self.read(&mut block)?;
        self.at += extent as u64;
        Ok(block)
    }

    fn read(&self, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.fits(buffer.len())?;
        self.file
            .read_exact_at(buffer, self.at)
            .map_err(|error| StoreError::io(format!("reading snapshot {}", self.path), error))
    }

    fn fits(&self, length: usize) -> Result<(), StoreError> {
        if self.at + length as u64 <= self.length {
            return Ok(());
        }
        Err(StoreError::corrupt(self.path, self.at, "the file ends in the middle of a block"))
    }
}
