//! What is freed goes back to the system. The C library keeps freed memory for itself unless it is told otherwise: after
//! thousands of clients have come and gone, a process would stay as large as it was at its largest.
//!
//! The same goes for the pages of the program's own code that only its start needed.
//!
//! Nothing here replaces the allocator, and where it is not glibc nothing happens: others give memory back by themselves.

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::time::Duration;

use rustix::mm::Advice;
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

/// When a process has started: what it has run until then it mostly never runs again.
const STARTED: Duration = Duration::from_secs(20);

/// Gives back what small allocations left free, when it is much, until `shutdown`; and once the code that only the start
/// needed.
pub async fn give_back_small(shutdown: CancellationToken) {
    if shutdown.run_until_cancelled(tokio::time::sleep(STARTED)).await.is_none() {
        return;
    }
    if let Err(error) = give_back_code() {
        tracing::debug!(%error, "the code that only the start needed stays in memory");
    }
    let mut keeper = Keeper::default();
    while shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        keeper.look();
    }
}

/// Takes this program's code out of its memory. What is run again comes back from the page cache, some pages at a time;
/// it was never written to, so nothing is lost.
fn give_back_code() -> io::Result<()> {
    advise_code(Advice::LinuxDontNeed)
}

/// Says what is to become of this program's code; only advice that leaves the pages as they are.
fn advise_code(advice: Advice) -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let program = program.to_string_lossy();
    for (start, length) in maps.lines().filter_map(|line| code(line, &program)) {
        let start = ptr::with_exposed_provenance_mut::<c_void>(start);
        #[expect(unsafe_code, reason = "madvise could throw away what was written; code is not")]
        // SAFETY: the pages are private, executable and not writable, so they equal the file, from which they come back.
        unsafe {
            rustix::mm::madvise(start, length, advice)?;
        }
    }
    Ok(())
}

/// Start and length of a mapping of `program`'s code, if a line of `maps` is one.
fn code(line: &str, program: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    if !rest.starts_with("r-xp ") || !rest.ends_with(&format!(" {program}")) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
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
    fn code_is_told_from_all_else() {
        let line = "55d0c0a00000-55d0c0b00000 r-xp 00100000 fe:00 123                        /usr/bin/skiff";
        assert_eq!(code(line, "/usr/bin/skiff"), Some((0x55d0_c0a0_0000, 0x10_0000)));
        assert_eq!(code(line, "/bin/skiff"), None);
        for other in ["r--p", "rw-p", "r-xs", "rwxp"] {
            assert_eq!(code(&line.replace("r-xp", other), "/usr/bin/skiff"), None, "{other}");
        }
        let replaced = format!("{line} (deleted)");
        assert!(code(&replaced, "/usr/bin/skiff (deleted)").is_some());
        assert_eq!(code("7f00-7e00 r-xp 0 0:0 0 /a", "/a"), None);
        assert_eq!(code("", "/a"), None);
    }

    /// KiB of this program's code that are in memory.
    fn resident_code() -> usize {
        let program = std::fs::read_link("/proc/self/exe").expect("a program");
        let text = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let mut sum = 0;
        let mut ours = false;
        for line in text.lines() {
            if line.split(' ').next().is_some_and(|word| word.contains('-')) {
                ours = code(line, &program.to_string_lossy()).is_some();
            } else if let Some(size) = line.strip_prefix("Rss:").filter(|_| ours) {
                sum += size.trim().trim_end_matches(" kB").parse::<usize>().expect("a size");
            }
        }
        sum
    }

    #[test]
    fn code_that_is_not_run_any_more_goes_and_comes_back() {
        advise_code(Advice::LinuxPopulateRead).expect("all of it is in memory");
        let before = resident_code();
        give_back_code().expect("given back");
        let after = resident_code();
        assert!(after < before, "{after} KiB of {before} are left");
        code_is_told_from_all_else();
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
