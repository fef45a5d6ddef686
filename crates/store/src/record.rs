//! How transactions and snapshot entries are written as bytes, encrypting on the way out and decrypting on the
//! way in. Knows no files: errors say what is wrong, the caller adds where.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::api::{Item, Op};
use crate::cipher::{Cipher, OpenError};

const DELETE: u8 = 0;
const PLAIN: u8 = 1;
const SEALED: u8 = 2;

/// What is wrong with a payload whose checksum holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    Malformed(&'static str),
    Undecipherable { key: String },
    UnknownKey { key: String, id: u32 },
}

/// Appends a transaction. After an error the buffer is as before.
pub(crate) fn encode_txn(ops: &[Op], cipher: &Cipher, out: &mut Vec<u8>) -> io::Result<()> {
    let before = out.len();
    put_length(out, ops.len());
    for op in ops {
        let written = match op {
            Op::Put(key, value) => encode_put(key, value, cipher, out),
            Op::Delete(key) => {
                out.push(DELETE);
                put_bytes(out, key.as_bytes());
                Ok(())
            }
        };
        if let Err(error) = written {
            out.truncate(before);
            return Err(error);
        }
    }
    Ok(())
}

fn encode_put(key: &str, value: &[u8], cipher: &Cipher, out: &mut Vec<u8>) -> io::Result<()> {
    let sealed = cipher.covers(key);
    out.push(if sealed { SEALED } else { PLAIN });
    put_bytes(out, key.as_bytes());
    if !sealed {
        put_bytes(out, value);
        return Ok(());
    }
    let length_at = out.len();
    put_length(out, 0);
    cipher.seal(key, value, out)?;
    let length = length(out.len() - length_at - 4);
    out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// Appends an entry of a snapshot.
pub(crate) fn encode_item(item: &Item, cipher: &Cipher, out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(&item.mod_revision.to_le_bytes());
    encode_put(&item.key, &item.value, cipher, out)
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_length(out: &mut Vec<u8>, value: usize) {
    out.extend_from_slice(&length(value).to_le_bytes());
}

fn length(value: usize) -> u32 {
    u32::try_from(value).expect("keys, values and transactions are bounded far below 4 GiB")
}

/// Reads entries one after the other.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    cipher: &'a Cipher,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(payload: &'a [u8], cipher: &'a Cipher) -> Reader<'a> {
        Reader { rest: payload, cipher }
    }

    /// Everything must have been read.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed("a record is longer than it says"))
        }
    }

    pub(crate) fn txn(&mut self) -> Result<Vec<Op>, DecodeError> {
        let count = self.length()?;
        let mut ops = Vec::new();
        for _ in 0..count {
            ops.push(match self.take(1)?[0] {
                DELETE => Op::Delete(self.key()?.into()),
                tag => {
                    let (key, value) = self.put(tag)?;
                    Op::Put(key, value)
                }
            });
        }
        Ok(ops)
    }

    pub(crate) fn item(&mut self) -> Result<Item, DecodeError> {
        let mut revision = [0; 8];
        revision.copy_from_slice(self.take(8)?);
        let tag = self.take(1)?[0];
        let (key, value) = self.put(tag)?;
        Ok(Item { key, value, mod_revision: u64::from_le_bytes(revision) })
    }

    fn put(&mut self, tag: u8) -> Result<(Arc<str>, Bytes), DecodeError> {
        let key = self.key()?;
        let length = self.length()?;
        let stored = self.take(length)?;
        let value = match tag {
            // Copied: a slice would keep the whole file in memory for one small value.
            PLAIN => Bytes::copy_from_slice(stored),
            SEALED => self.cipher.open(key, stored).map(Bytes::from).map_err(|error| match error {
                OpenError::UnknownKey(id) => DecodeError::UnknownKey { key: key.to_owned(), id },
                OpenError::Damaged => DecodeError::Undecipherable { key: key.to_owned() },
            })?,
            _ => return Err(DecodeError::Malformed("a record holds an unknown operation")),
        };
        Ok((key.into(), value))
    }

    fn key(&mut self) -> Result<&'a str, DecodeError> {
        let length = self.length()?;
        std::str::from_utf8(self.take(length)?).map_err(|_| DecodeError::Malformed("a key is not UTF-8"))
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        let mut length = [0; 4];
        length.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(length) as usize)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(DecodeError::Malformed("a record ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::{Encryption, EncryptionKey, system_random};

    fn cipher() -> Cipher {
        let keys = vec![EncryptionKey { id: 3, secret: [5; 32] }];
        Cipher::new(&Encryption { prefixes: vec!["/s/".to_owned()], keys }, system_random()).expect("valid")
    }

    #[test]
    fn transactions_and_items_read_back() {
        let cipher = cipher();
        let ops = vec![
            Op::Put("/a".into(), "plain".into()),
            Op::Delete("/b".into()),
            Op::Put("/s/c".into(), "topsecret".into()),
            Op::Put("/empty".into(), Bytes::new()),
        ];
        let item = Item { key: "/s/d".into(), value: "alsosecret".into(), mod_revision: 77 };
        let mut bytes = Vec::new();
        encode_txn(&ops, &cipher, &mut bytes).expect("encoded");
        encode_item(&item, &cipher, &mut bytes).expect("encoded");
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        let mut reader = Reader::new(&bytes, &cipher);
        assert_eq!(reader.txn(), Ok(ops));
        assert_eq!(reader.item(), Ok(item));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_payload_cut_anywhere_is_malformed_and_never_panics() {
        let cipher = cipher();
        let mut bytes = Vec::new();
        encode_txn(&[Op::Put("/s/c".into(), "v".into()), Op::Delete("/b".into())], &cipher, &mut bytes)
            .expect("encoded");
        for end in 0..bytes.len() {
            assert!(Reader::new(&bytes[..end], &cipher).txn().is_err(), "cut at {end}");
        }
    }
}
