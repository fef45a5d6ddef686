//! Lets the linker keep one copy of functions that are the same: every component decodes the same kinds of objects, and each
//! crate brings its own copy of that code.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    let profile = std::env::var("PROFILE").unwrap_or_default();
    // Only where Rust itself links with lld, which knows how.
    if target == "x86_64-unknown-linux-gnu" && profile == "release" {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
