//! Debian's cloud kernel: downloaded as a package, unpacked into the build folder, never installed on the host.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::text;

/// The package that names the current kernel as what it depends on.
const CURRENT: &str = "linux-image-cloud-amd64";

/// A kernel that can be booted, and its modules.
pub struct Kernel {
    /// As `uname -r` prints it.
    pub release: String,
    /// The compressed kernel.
    pub image: PathBuf,
    /// `/lib/modules/RELEASE` of the package.
    pub modules: PathBuf,
}

/// Downloads and unpacks it into `folder`, unless that was done before.
pub fn fetch(folder: &Path) -> Result<Kernel> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the kernel for the virtual machine is known for x86_64 only");
    }
    let packages = folder.join("packages");
    fs::create_dir_all(&packages).with_context(|| format!("cannot make {}", packages.display()))?;
    let meta = crate::images::fetch(CURRENT, &packages)?;
    let depends = crate::run("dpkg-deb", &["--field", text(&meta)?, "Depends"], &packages)?;
    let package = image_package(&String::from_utf8(depends)?)?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let unpacked = folder.join("kernel").join(&release);
    if !unpacked.exists() {
        let file = crate::images::fetch(&package, &packages)?;
        // Named when it is complete. The process's number keeps two runs apart.
        let part = folder.join("kernel").join(format!("{release}.{}.part", std::process::id()));
        fs::create_dir_all(&part)?;
        crate::run("dpkg-deb", &["--extract", text(&file)?, text(&part)?], &packages)?;
        if let Err(error) = fs::rename(&part, &unpacked) {
            fs::remove_dir_all(&part)?;
            if !unpacked.exists() {
                return Err(error).with_context(|| format!("cannot name {}", unpacked.display()));
            }
        }
    }
    Ok(Kernel {
        image: unpacked.join(format!("boot/vmlinuz-{release}")),
        modules: unpacked.join(format!("lib/modules/{release}")),
        release,
    })
}

/// The package of the image among what the current kernel's package depends on.
fn image_package(depends: &str) -> Result<String> {
    let names = depends.split([',', '|']).filter_map(|one| one.split_whitespace().next());
    let mut images = names.filter(|name| name.starts_with("linux-image-"));
    images.next().map(str::to_owned).with_context(|| format!("{CURRENT} depends on no kernel: {depends}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_current_one_depends_on() {
        let depends = "initramfs-tools | dracut, linux-image-6.1.0-56-cloud-amd64 (= 6.1.180-1)\n";
        assert_eq!(image_package(depends).unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        assert!(image_package("kmod").is_err());
    }
}
