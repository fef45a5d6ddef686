//! Encryption of values at rest: AES-256-GCM for the keys under configured prefixes.
//!
//! Happens only between memory and disk. Keeps no key files and derives no keys: the caller passes the bytes.

use std::fmt;
use std::io;
use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::StoreError;

/// Fills a buffer with random bytes. The simulation passes a seeded one.
pub type Random = Arc<dyn Fn(&mut [u8]) -> io::Result<()> + Send + Sync>;

/// The operating system's randomness.
pub fn system_random() -> Random {
    use ring::rand::{SecureRandom, SystemRandom};
    let source = SystemRandom::new();
    Arc::new(move |buffer| {
        source.fill(buffer).map_err(|_| io::Error::other("the system gave no random bytes"))
    })
}

/// What is encrypted, and under which keys.
#[derive(Clone, Debug, Default)]
pub struct Encryption {
    /// Values of keys that begin with one of these are encrypted, such as `/registry/secrets/`.
    pub prefixes: Vec<String>,
    /// The first one encrypts, all decrypt: to rotate, put the new key in front and keep the old one until a
    /// snapshot has been written since.
    pub keys: Vec<EncryptionKey>,
}

/// A named key. One key may encrypt 2^32 values before its random nonces are no longer safe.
#[derive(Clone)]
pub struct EncryptionKey {
    /// Stored beside each value, never reused for another secret.
    pub id: u32,
    /// The AES-256 key.
    pub secret: [u8; 32],
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "EncryptionKey({})", self.id)
    }
}

/// Why a stored value does not decrypt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    UnknownKey(u32),
    Damaged,
}

/// The configured keys, ready for use.
pub(crate) struct Cipher {
    prefixes: Vec<String>,
    keys: Vec<(u32, LessSafeKey)>,
    random: Random,
}

impl Cipher {
    pub(crate) fn new(encryption: &Encryption, random: Random) -> Result<Cipher, StoreError> {
        if !encryption.prefixes.is_empty() && encryption.keys.is_empty() {
            return Err(StoreError::InvalidOptions("prefixes to encrypt, but no encryption key".to_owned()));
        }
        let mut keys: Vec<(u32, LessSafeKey)> = Vec::new();
        for EncryptionKey { id, secret } in &encryption.keys {
            if keys.iter().any(|(known, _)| known == id) {
                return Err(StoreError::InvalidOptions(format!("two encryption keys have the id {id}")));
            }
            let key = UnboundKey::new(&AES_256_GCM, secret)
                .map_err(|_| StoreError::InvalidOptions(format!("encryption key {id} is not usable")))?;
            keys.push((*id, LessSafeKey::new(key)));
        }
        Ok(Cipher { prefixes: encryption.prefixes.clone(), keys, random })
    }

    pub(crate) fn random(&self) -> &Random {
        &self.random
    }

    /// Whether the value of this key must not reach the disk readable.
    pub(crate) fn covers(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    /// Appends key id, nonce, ciphertext and tag.
    pub(crate) fn seal(&self, key: &str, value: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let (id, cipher) = self.keys.first().ok_or_else(|| io::Error::other("no encryption key"))?;
        let mut nonce = [0; NONCE_LEN];
        (self.random)(&mut nonce)?;
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&nonce);
        let begin = out.len();
        out.extend_from_slice(value);
        let tag = cipher
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                bound_to(*id, key),
                &mut out[begin..],
            )
            .map_err(|_| io::Error::other("a value could not be encrypted"))?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// The value behind what [`seal`](Cipher::seal) wrote for this key.
    pub(crate) fn open(&self, key: &str, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let (id, rest) = sealed.split_first_chunk::<4>().ok_or(OpenError::Damaged)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::Damaged)?;
        let id = u32::from_le_bytes(*id);
        let (_, cipher) =
            self.keys.iter().find(|(known, _)| *known == id).ok_or(OpenError::UnknownKey(id))?;
        let mut value = ciphertext.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length =
            cipher.open_in_place(nonce, bound_to(id, key), &mut value).map_err(|_| OpenError::Damaged)?.len();
        value.truncate(length);
        value.shrink_to_fit();
        Ok(value)
    }
}

/// A ciphertext is only valid for the key it was stored under: nobody with the files can swap two secrets.
fn bound_to(id: u32, key: &str) -> Aad<Vec<u8>> {
    Aad::from([&id.to_le_bytes()[..], key.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher(ids: &[u32]) -> Cipher {
        let keys = ids.iter().map(|id| EncryptionKey { id: *id, secret: [*id as u8; 32] }).collect();
        let encryption = Encryption { prefixes: vec!["/s/".to_owned()], keys };
        Cipher::new(&encryption, system_random()).expect("valid options")
    }

    fn sealed(by: &Cipher, key: &str, value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        by.seal(key, value, &mut out).expect("sealed");
        out
    }

    #[test]
    fn opens_only_under_its_own_key_and_undamaged() {
        let cipher = cipher(&[1]);
        let secret = sealed(&cipher, "/s/a", b"hunter2");
        assert_eq!(cipher.open("/s/a", &secret).as_deref(), Ok(&b"hunter2"[..]));
        assert_eq!(cipher.open("/s/b", &secret), Err(OpenError::Damaged));
        for position in 4..secret.len() {
            let mut damaged = secret.clone();
            damaged[position] ^= 1;
            assert_eq!(cipher.open("/s/a", &damaged), Err(OpenError::Damaged), "byte {position}");
        }
        assert_ne!(secret, sealed(&cipher, "/s/a", b"hunter2"), "a nonce is used once");
    }

    #[test]
    fn a_rotated_key_still_opens_what_it_sealed() {
        let old = sealed(&cipher(&[1]), "/s/a", b"old");
        let rotated = cipher(&[2, 1]);
        assert_eq!(rotated.open("/s/a", &old).as_deref(), Ok(&b"old"[..]));
        assert_eq!(sealed(&rotated, "/s/a", b"new")[..4], 2u32.to_le_bytes());
        assert_eq!(cipher(&[2]).open("/s/a", &old), Err(OpenError::UnknownKey(1)));
    }

    #[test]
    fn refuses_keys_that_cannot_work() {
        let key = |id| EncryptionKey { id, secret: [0; 32] };
        let new = |prefixes: &[&str], keys: Vec<EncryptionKey>| {
            let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
            Cipher::new(&Encryption { prefixes, keys }, system_random()).is_ok()
        };
        assert!(new(&[], vec![]));
        assert!(!new(&["/s/"], vec![]));
        assert!(!new(&["/s/"], vec![key(1), key(1)]));
    }
}
