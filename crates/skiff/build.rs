//! What the linker is told of the shipped binary.

use std::env::var;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| var(name).is_ok_and(|found| found == value);
    // Only where Rust itself links with lld, which knows how.
    if !is("TARGET", "x86_64-unknown-linux-gnu") || !is("PROFILE", "release") {
        return;
    }
    // One copy of functions that are the same: every component decodes the same kinds of objects, and each crate brings its
    // own copy of that code.
    println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    // A list of what must be moved when the program starts takes a bit a place instead of 24 bytes. Who loads the program
    // must know of it; a static one loads itself.
    let features = var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        println!("cargo:rustc-link-arg-bins=-Wl,--pack-dyn-relocs=relr");
    }
}
