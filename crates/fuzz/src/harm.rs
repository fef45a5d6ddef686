//! One input on one target, and what no input may do: panic, take longer than a second, or hold more than 64 MiB.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use peak_alloc::PeakAlloc;
use tokio::time::Instant;

use crate::Target;

/// Counts what all programs that link this crate allocate: its own tests.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// How long an input may take.
pub const SLOW: Duration = Duration::from_secs(1);
/// How many bytes it may hold at a time.
pub const LARGE: usize = 64 << 20;
/// A machine that was busy with something else is asked this often before an input counts as slow.
const ATTEMPTS: usize = 3;

/// What an input did.
#[derive(Debug, thiserror::Error)]
pub enum Harm {
    /// It broke an assertion of ours or of a library, or the target's own.
    #[error("panicked: {0}")]
    Panicked(String),
    /// It took too long.
    #[error("took {0:?}")]
    Slow(Duration),
    /// It took too much memory.
    #[error("held {0} bytes")]
    Large(usize),
}

/// Tries an input; gives what the target says of it.
///
/// # Errors
/// The harm that it did.
pub fn attempt(target: &Target, input: &[u8]) -> Result<String, Harm> {
    let mut quickest = Duration::MAX;
    for _ in 0..ATTEMPTS {
        let before = HEAP.current_usage();
        HEAP.reset_peak_usage();
        let start = Instant::now();
        let said = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
        quickest = quickest.min(start.elapsed());
        let held = HEAP.peak_usage().saturating_sub(before);
        let said = said.map_err(|panic| Harm::Panicked(words(&*panic)))?;
        if held > LARGE {
            return Err(Harm::Large(held));
        }
        if quickest <= SLOW {
            return Ok(said);
        }
    }
    Err(Harm::Slow(quickest))
}

fn words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(run: fn(&[u8]) -> String) -> Target {
        Target { name: "test", run, words: &[] }
    }

    #[test]
    fn harm_is_seen() {
        let panics = target(|input| panic!("{} bytes", input.len()));
        assert_eq!(attempt(&panics, b"ab").expect_err("harm").to_string(), "panicked: 2 bytes");
        let large = target(|input| vec![1u8; LARGE + input.len()].len().to_string());
        assert!(matches!(attempt(&large, b"a"), Err(Harm::Large(_))));
        let slow = target(|_| {
            let start = Instant::now();
            while start.elapsed() <= SLOW {
                std::hint::spin_loop();
            }
            String::new()
        });
        assert!(matches!(attempt(&slow, b""), Err(Harm::Slow(_))));
        assert_eq!(attempt(&target(|_| "fine".to_owned()), b"").expect("no harm"), "fine");
    }
}
