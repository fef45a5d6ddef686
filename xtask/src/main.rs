//! Repository chores that need more than a line of shell: `tidy` holds the parts of the style that a machine can
//! check, `images` builds the container images that the demo and the tests run, `vm` runs tests on another kernel in a
//! virtual machine. Nothing here ships.

mod images;
mod tidy;
mod vm;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Chores of the Skiff repository")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Check lengths, module documentation and the dependency table
    Tidy {
        /// Write today's lengths into the ratchet (it may only shrink)
        #[arg(long)]
        bless: bool,
    },
    /// Build the OCI images of the demo and the tests from Debian packages
    Images {
        /// Folder for the image archives
        #[arg(long, default_value = "out/images")]
        out: PathBuf,
    },
    /// Run tests that need a kernel on Debian's, in a virtual machine without KVM and without a network
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Tidy { bless } => tidy::run(&repository(), bless),
        Chore::Images { out } => images::build(&repository().join(out)),
        Chore::Vm(options) => vm::run(&repository(), &options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the checkout: the folder above this crate.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lives in the workspace").to_path_buf()
}

/// Runs a program to its end and returns what it printed; a failure carries its own words.
fn run(program: &str, arguments: &[&str], folder: &Path) -> Result<Vec<u8>> {
    #[expect(clippy::disallowed_methods, reason = "a build chore, not a part of the product")]
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} {arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}
