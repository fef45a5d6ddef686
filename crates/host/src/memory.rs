//! What is freed goes back to the system. The C library keeps freed memory for itself unless it is told otherwise: after
//! thousands of clients have come and gone, a process would stay as large as it was at its largest.
//!
//! Nothing here replaces the allocator, and where it is not glibc nothing happens: others give memory back by themselves.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Allocations from here on have pages of their own, which are given back the moment they are freed.
const LARGE: usize = 64 << 10;
/// Free memory at the end of the heap that is kept.
const KEPT: usize = 256 << 10;
/// How often smaller pieces are looked after.
const EVERY: Duration = Duration::from_secs(30);
/// What must have become free since the last time to be worth the work.
const WORTH: usize = 16 << 20;

/// Gives back large allocations at once, for the life of this process. To be called before threads begin.
pub fn give_back_large() {
    if !glibc::set(glibc::MMAP_THRESHOLD, LARGE) || !glibc::set(glibc::TRIM_THRESHOLD, KEPT) {
        tracing::debug!("the allocator keeps its own counsel");
    }
}

/// Gives back what small allocations left free, when it is much, until `shutdown`.
pub async fn give_back_small(shutdown: CancellationToken) {
    let mut keeper = Keeper::default();
    while shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        keeper.look();
    }
}

/// Knows how much that is free was given back already: the C library goes on counting it.
#[derive(Default)]
struct Keeper {
    given: usize,
}

impl Keeper {
    /// Gives back what has become free if it is much. Says whether anything was given.
    fn look(&mut self) -> bool {
        let free = glibc::free();
        self.given = self.given.min(free);
        if free - self.given < WORTH {
            return false;
        }
        self.given = free;
        glibc::trim()
    }
}

#[cfg(target_env = "gnu")]
mod glibc {
    use std::ffi::c_int;

    pub const TRIM_THRESHOLD: c_int = -1;
    pub const MMAP_THRESHOLD: c_int = -3;

    /// `struct mallinfo2`: ten sizes, of which the ninth is what is free.
    #[repr(C)]
    struct Info([usize; 10]);

    #[expect(unsafe_code, reason = "the C library's own functions, as malloc.h declares them")]
    unsafe extern "C" {
        safe fn mallopt(parameter: c_int, value: c_int) -> c_int;
        safe fn mallinfo2() -> Info;
        safe fn malloc_trim(pad: usize) -> c_int;
    }

    pub fn set(parameter: c_int, value: usize) -> bool {
        c_int::try_from(value).is_ok_and(|value| mallopt(parameter, value) == 1)
    }

    pub fn free() -> usize {
        mallinfo2().0[8]
    }

    pub fn trim() -> bool {
        malloc_trim(0) == 1
    }
}

#[cfg(not(target_env = "gnu"))]
mod glibc {
    pub const TRIM_THRESHOLD: i32 = 0;
    pub const MMAP_THRESHOLD: i32 = 0;

    pub fn set(_: i32, _: usize) -> bool {
        true
    }

    pub fn free() -> usize {
        0
    }

    pub fn trim() -> bool {
        false
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    fn resident() -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").expect("statm");
        let pages: usize = pages.split(' ').nth(1).expect("a field").parse().expect("a number");
        pages * 4096
    }

    #[test]
    fn what_is_freed_goes_back() {
        give_back_large();
        let mut keeper = Keeper::default();
        let before = resident();
        let large: Vec<Vec<u8>> = (0..200).map(|_| vec![1; 256 << 10]).collect();
        assert!(resident() - before > 40 << 20, "50 MiB are in use");
        drop(large);
        let after = resident().saturating_sub(before);
        assert!(after < 4 << 20, "{after} bytes of large pieces are kept");

        // Small ones between others that stay, so that the heap does not shrink by itself.
        let mut kept = Vec::new();
        let mut small: Vec<Vec<u8>> = Vec::new();
        for _ in 0..2000 {
            small.push(vec![1; 30 << 10]);
            kept.push(vec![1_u8; 32]);
        }
        drop(small);
        assert!(resident().saturating_sub(before) > 40 << 20, "the C library keeps them");
        assert!(keeper.look(), "they are given back");
        let after = resident().saturating_sub(before);
        assert!(after < 8 << 20, "{after} bytes of small pieces are kept");
        assert!(!keeper.look(), "and there is nothing more to do");
        assert_eq!(kept.len(), 2000);
    }
}
