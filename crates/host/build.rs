//! Builds the pause program: a static executable of a few hundred bytes of code that becomes the sandbox image.
//! It is compiled here rather than shipped, so that the repository holds its source and no binary.

use std::path::PathBuf;
use std::process::Command;

#[expect(clippy::disallowed_methods, reason = "a build script runs the compiler, not a host program")]
fn main() {
    println!("cargo::rerun-if-changed=pause/pause.rs");
    println!("cargo::rerun-if-changed=build.rs");
    let compiler = std::env::var_os("RUSTC").expect("cargo names the compiler");
    let target = std::env::var("TARGET").expect("cargo names the target");
    let out =
        PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo names the output directory")).join("pause");
    let status = Command::new(compiler)
        .args(["--edition=2024", "--crate-type=bin", "--crate-name=pause", "--target", &target])
        .args(["-Cpanic=abort", "-Copt-level=s", "-Cstrip=symbols", "-Crelocation-model=static"])
        .args(["-Ctarget-feature=+crt-static", "-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib"])
        .args(["-Clink-arg=-static", "-Clink-arg=-Wl,--build-id=none,-z,noseparate-code"])
        .arg("-o")
        .arg(&out)
        .arg("pause/pause.rs")
        .status()
        .expect("the compiler that builds this crate can be started");
    assert!(status.success(), "building pause/pause.rs failed: {status}");
}
