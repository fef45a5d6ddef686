//! Randomness as a parameter: the operating system's, or a seeded stream that replays.
//!
//! The seeded stream is for the simulation and tests and is not fit for secrets; keys and tokens of a real server
//! come from `from_os`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};

/// The alphabet of names made from `generateName`: no vowels, so that no words appear.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Where random bytes come from. Clones share one stream.
#[derive(Clone)]
pub struct Entropy(Arc<Source>);

enum Source {
    Os(SystemRandom),
    Seeded(Mutex<SplitMix>),
}

struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match &*self.0 {
            Source::Os(_) => "Entropy(os)",
            Source::Seeded(_) => "Entropy(seeded)",
        })
    }
}

impl Entropy {
    /// The operating system's generator.
    pub fn from_os() -> Entropy {
        Entropy(Arc::new(Source::Os(SystemRandom::new())))
    }

    /// A stream that is the same for the same seed.
    pub fn seeded(seed: u64) -> Entropy {
        Entropy(Arc::new(Source::Seeded(Mutex::new(SplitMix(seed)))))
    }

    /// Fills `buffer` with random bytes.
    pub fn fill(&self, buffer: &mut [u8]) {
        match &*self.0 {
            Source::Os(random) => {
                random.fill(buffer).expect("a Linux that booted always answers getrandom");
            }
            Source::Seeded(state) => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                for chunk in buffer.chunks_mut(8) {
                    let bytes = state.next().to_le_bytes();
                    chunk.copy_from_slice(&bytes[..chunk.len()]);
                }
            }
        }
    }

    /// A random number.
    pub fn u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A number in `0..bound`, each equally likely; 0 when the bound is 0.
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        // Numbers of the last, incomplete run would favour small results: draw again.
        let fair = u64::MAX - u64::MAX % bound;
        loop {
            let drawn = self.u64();
            if drawn < fair {
                return drawn % bound;
            }
        }
    }

    /// A number in `0.0..1.0`.
    pub fn unit_f64(&self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `len` characters of the alphabet that upstream makes names from.
    pub fn suffix(&self, len: usize) -> String {
        (0..len)
            .map(|_| char::from(SUFFIX_ALPHABET[self.below(SUFFIX_ALPHABET.len() as u64) as usize]))
            .collect()
    }

    /// A version 4 UUID.
    pub fn uuid(&self) -> String {
        let mut bytes = [0u8; 16];
        self.fill(&mut bytes);
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        let mut text = String::with_capacity(36);
        for (index, byte) in bytes.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for digit in [byte >> 4, byte & 0x0f] {
                text.push(char::from_digit(u32::from(digit), 16).expect("a nibble is a hexadecimal digit"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_and_clones_share() {
        let (one, two) = (Entropy::seeded(7), Entropy::seeded(7));
        let first = one.uuid();
        assert_eq!(first, two.uuid());
        assert_ne!(first, one.clone().uuid());
        assert_ne!(Entropy::seeded(8).uuid(), first);
    }

    #[test]
    fn shapes() {
        for entropy in [Entropy::from_os(), Entropy::seeded(1)] {
            let uuid = entropy.uuid();
            assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
            assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
            let suffix = entropy.suffix(200);
            assert!(suffix.bytes().all(|byte| SUFFIX_ALPHABET.contains(&byte)));
            assert_eq!(suffix.len(), 200);
            assert!((0..100).all(|_| entropy.below(3) < 3));
            assert_eq!(entropy.below(0), 0);
            assert!((0..100).all(|_| (0.0..1.0).contains(&entropy.unit_f64())));
        }
    }
}
