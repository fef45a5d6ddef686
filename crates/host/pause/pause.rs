//! Holds a pod's namespaces open: waits for signals, reaps children (it is PID 1 where containers share a PID
//! namespace) and leaves on SIGTERM or SIGINT. No allocator, no libc, no standard library.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGINT: usize = 2;
const SIGTERM: usize = 15;
const SIGCHLD: usize = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
/// The kernel's signal set is 64 bits wide.
const SET_BYTES: usize = 8;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
    pub const EXIT_GROUP: usize = 94;
}

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {main}", "ud2", main = sym main);

#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, xzr", "bl {main}", "brk #1", main = sym main);

/// # Safety
/// The arguments must be what the kernel expects of the call with this number.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel keeps all registers but rax, rcx and r11; memory is the caller's promise.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c,
             in("r10") d, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// # Safety
/// The arguments must be what the kernel expects of the call with this number.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel keeps all registers but x0; memory is the caller's promise.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b, in("x2") c, in("x3") d,
             options(nostack));
    }
    result
}

extern "C" fn main() -> ! {
    let all: u64 = !0;
    let set = &raw const all as usize;
    // SAFETY: `set` points at a signal set of SET_BYTES bytes that outlives the loop; null means "not wanted".
    unsafe {
        // Blocked signals are queued even for PID 1, whose unhandled ones would be dropped.
        call(number::RT_SIGPROCMASK, SIG_BLOCK, set, 0, SET_BYTES);
        loop {
            match call(number::RT_SIGTIMEDWAIT, set, 0, 0, SET_BYTES) as usize {
                SIGINT | SIGTERM => {
                    call(number::EXIT_GROUP, 0, 0, 0, 0);
                }
                SIGCHLD => while call(number::WAIT4, usize::MAX, 0, WNOHANG, 0) > 0 {},
                _ => {}
            }
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: leaving takes no pointers.
    unsafe { call(number::EXIT_GROUP, 1, 0, 0, 0) };
    loop {}
}
