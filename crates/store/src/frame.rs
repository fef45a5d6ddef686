//! The unit of every store file: a checksummed frame that begins on a sector and is padded to one.
//!
//! One frame is written and synced before the next is begun, so at most the last one of a log can be torn, and a
//! damaged frame with a valid one after it was damaged later. Because a frame never shares a sector with another,
//! a sector that is destroyed while it is written takes nothing acknowledged with it.
//! What the payload means belongs to `record`, `log` and `snapshot`.

use crate::Revision;

/// The unit in which a disk writes or loses data.
pub(crate) const SECTOR: usize = 512;

/// magic, payload length, first, count, payload checksum, zero, header checksum
const HEADER: usize = 32;
const MAGIC: u32 = u32::from_le_bytes(*b"SkFr");

/// A frame under construction. Reused, so that a commit allocates nothing once the buffer has grown.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
    /// Where the payload of a finished frame ends and its padding begins.
    end: Option<usize>,
}

impl FrameBuffer {
    pub(crate) fn new() -> FrameBuffer {
        FrameBuffer { bytes: vec![0; HEADER], end: None }
    }

    /// Begins anew. A buffer that one huge transaction blew up is given back.
    pub(crate) fn clear(&mut self) {
        const KEEP: usize = 1 << 20;
        self.bytes.truncate(HEADER);
        self.end = None;
        if self.bytes.capacity() > KEEP {
            self.bytes.shrink_to(KEEP);
        }
    }

    /// Where the payload is appended.
    pub(crate) fn payload(&mut self) -> &mut Vec<u8> {
        if let Some(end) = self.end.take() {
            self.bytes.truncate(end);
        }
        &mut self.bytes
    }

    pub(crate) fn payload_len(&self) -> usize {
        self.end.unwrap_or(self.bytes.len()) - HEADER
    }

    /// The whole frame, padded, ready to be written at a multiple of [`SECTOR`]. A frame that found no room may be finished
    /// once more, for another file.
    pub(crate) fn finish(&mut self, salt: u32, first: u64, count: u32) -> &[u8] {
        self.payload();
        let length = u32::try_from(self.payload_len()).expect("groups are bounded far below 4 GiB");
        let payload = checksum(salt, &self.bytes[HEADER..]);
        let header = &mut self.bytes[..HEADER];
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8..16].copy_from_slice(&first.to_le_bytes());
        header[16..20].copy_from_slice(&count.to_le_bytes());
        header[20..24].copy_from_slice(&payload.to_le_bytes());
        header[24..28].fill(0);
        let own = checksum(salt, &header[..28]);
        header[28..32].copy_from_slice(&own.to_le_bytes());
        self.end = Some(self.bytes.len());
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR), 0);
        &self.bytes
    }
}

/// A checksum that only who knows the file's salt can forge: a stored value that imitates a frame is not one.
fn checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// A frame that was read and whose checksums hold.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    /// The number of its first entry: a revision in a log, a block number in a snapshot.
    pub(crate) first: Revision,
    /// How many entries it holds.
    pub(crate) count: u32,
    /// The entries.
    pub(crate) payload: &'a [u8],
    /// Where the next frame begins.
    pub(crate) next: usize,
}

/// What lies at an offset.
#[derive(Debug)]
pub(crate) enum Read<'a> {
    Frame(Frame<'a>),
    /// Nothing but zeros, or nothing, to the end of the file.
    End,
    /// Something that is not a valid frame.
    Bad(&'static str),
}

/// Reads the frame at an offset, which is a multiple of [`SECTOR`].
pub(crate) fn read(bytes: &[u8], offset: usize, salt: u32) -> Read<'_> {
    match parse(bytes, offset, salt) {
        Ok(frame) => Read::Frame(frame),
        Err(_) if bytes.get(offset..).is_none_or(|rest| rest.iter().all(|byte| *byte == 0)) => Read::End,
        Err(what) => Read::Bad(what),
    }
}

/// How long the frame is whose first sector this is, by its own checksummed word.
pub(crate) fn extent(sector: &[u8; SECTOR], salt: u32) -> Result<usize, &'static str> {
    let length = header(sector, salt)?;
    Ok((HEADER + length).next_multiple_of(SECTOR))
}

/// The offset of the first valid frame at or after an offset.
pub(crate) fn find(bytes: &[u8], from: usize, salt: u32) -> Option<usize> {
    (from..bytes.len()).step_by(SECTOR).find(|offset| parse(bytes, *offset, salt).is_ok())
}

fn parse(bytes: &[u8], offset: usize, salt: u32) -> Result<Frame<'_>, &'static str> {
    let rest = bytes.get(offset..).unwrap_or_default();
    let length = header(rest, salt)?;
    let header = &rest[..HEADER];
    let payload = rest.get(HEADER..HEADER + length).ok_or("a record is cut short")?;
    if word(header, 20) != checksum(salt, payload) {
        return Err("the checksum of a record does not match");
    }
    let first = u64::from(word(header, 8)) | u64::from(word(header, 12)) << 32;
    let next = offset + (HEADER + length).next_multiple_of(SECTOR);
    Ok(Frame { first, count: word(header, 16), payload, next })
}

/// Checks the header of a frame and returns the length of the payload.
fn header(bytes: &[u8], salt: u32) -> Result<usize, &'static str> {
    let header = bytes.get(..HEADER).ok_or("a record header is cut short")?;
    if word(header, 0) != MAGIC {
        return Err("no record begins here");
    }
    if word(header, 28) != checksum(salt, &header[..28]) {
        return Err("the checksum of a record header does not match");
    }
    Ok(word(header, 4) as usize)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

/// What the first sector of a file says about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) kind: FileKind,
    /// Seeds the checksums of all other frames.
    pub(crate) salt: u32,
    /// Log: the first revision. Snapshot: the revision whose state it is.
    pub(crate) revision: Revision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum FileKind {
    Log = 1,
    Snapshot = 2,
}

const FORMAT: u32 = 1;

impl FileHeader {
    pub(crate) fn encode(&self) -> FrameBuffer {
        let mut frame = FrameBuffer::new();
        frame.payload().extend_from_slice(&FORMAT.to_le_bytes());
        frame.payload().extend_from_slice(&(self.kind as u32).to_le_bytes());
        frame.payload().extend_from_slice(&self.salt.to_le_bytes());
        frame.finish(0, self.revision, 0);
        frame
    }

    /// Reads the first sector of a file that should be of this kind and revision.
    pub(crate) fn decode(
        bytes: &[u8],
        kind: FileKind,
        revision: Revision,
    ) -> Result<FileHeader, &'static str> {
        let frame = parse(bytes, 0, 0)?;
        if frame.payload.len() != 12 {
            return Err("the file header has another length");
        }
        if word(frame.payload, 0) != FORMAT {
            return Err("the file is of a format that this version does not know");
        }
        if word(frame.payload, 4) != kind as u32 {
            return Err("the file is of another kind than its name says");
        }
        if frame.first != revision {
            return Err("the file is of another revision than its name says");
        }
        Ok(FileHeader { kind, salt: word(frame.payload, 8), revision })
    }
}

impl AsRef<[u8]> for FrameBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8], first: u64) -> Vec<u8> {
        let mut buffer = FrameBuffer::new();
        buffer.payload().extend_from_slice(payload);
        buffer.finish(7, first, 1).to_vec()
    }

    #[test]
    fn reads_back_what_was_framed_and_nothing_else() {
        let mut file = frame(&[1; 600], 5);
        file.extend(frame(b"second", 6));
        file.extend([0; 700]);
        let Read::Frame(one) = read(&file, 0, 7) else { panic!("the first frame") };
        assert_eq!((one.first, one.count, one.payload, one.next), (5, 1, &[1; 600][..], 1024));
        let Read::Frame(two) = read(&file, one.next, 7) else { panic!("the second frame") };
        assert_eq!((two.first, two.payload), (6, &b"second"[..]));
        assert!(matches!(read(&file, two.next, 7), Read::End));
        assert!(matches!(read(&file, 0, 8), Read::Bad(_)), "another salt");
    }

    #[test]
    fn a_frame_is_the_same_when_it_is_finished_again() {
        let mut buffer = FrameBuffer::new();
        buffer.payload().extend_from_slice(b"once");
        let once = buffer.finish(7, 5, 1).to_vec();
        assert_eq!(buffer.finish(7, 5, 1), once);
        assert_eq!(buffer.payload_len(), 4);
        let other = buffer.finish(8, 5, 1).to_vec();
        let Read::Frame(read) = read(&other, 0, 8) else { panic!("for another file") };
        assert_eq!(read.payload, b"once");
    }

    #[test]
    fn every_flipped_bit_of_a_frame_is_noticed() {
        let file = frame(&[9; 100], 5);
        for position in 0..(HEADER + 100) * 8 {
            let mut damaged = file.clone();
            damaged[position / 8] ^= 1 << (position % 8);
            assert!(matches!(read(&damaged, 0, 7), Read::Bad(_)), "bit {position}");
        }
    }

    #[test]
    fn a_payload_that_imitates_a_frame_is_not_found() {
        let imitation = { FrameBuffer::new() }.finish(0, 6, 1).to_vec();
        let mut file = frame(&[&[0; SECTOR - HEADER][..], &imitation].concat(), 5);
        file[HEADER] ^= 1;
        assert_eq!(find(&file, SECTOR, 7), None);
        let real = file.len();
        file.extend(frame(b"real", 6));
        assert_eq!(find(&file, SECTOR, 7), Some(real));
    }
}
