//! The root file system of the virtual machine: programs of the host with the libraries that they load, modules of the
//! kernel, and what the caller adds; packed as an initramfs. The layout is Debian's, so that paths which programs hold
//! inside are right.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::kernel::Kernel;
use super::text;

/// Where programs are looked for.
const PATH: [&str; 2] = ["/usr/sbin", "/usr/bin"];

/// Modules for packets, links and overlays; drivers of devices stay away. Folders below `kernel/`.
const MODULES: &[&str] = &[
    "arch",
    "crypto",
    "drivers/net/dummy.ko",
    "drivers/net/tun.ko",
    "drivers/net/veth.ko",
    "drivers/net/vxlan",
    "fs/overlayfs",
    "lib",
    "net",
];

/// A folder that becomes the root.
pub struct Root(PathBuf);

impl Root {
    /// An empty one.
    pub fn new(path: PathBuf) -> Result<Self> {
        let folders = [
            "dev", "etc", "mnt", "proc", "root", "run", "images", "machine", "sys", "tests", "tmp", "var/lib",
        ];
        for folder in folders.iter().chain(&["usr/bin", "usr/sbin", "usr/lib/modules", "usr/lib64"]) {
            fs::create_dir_all(path.join(folder))
                .with_context(|| format!("cannot make {}", path.join(folder).display()))?;
        }
        for merged in ["bin", "sbin", "lib", "lib64"] {
            symlink(format!("usr/{merged}"), path.join(merged))?;
        }
        symlink("busybox", path.join("usr/bin/sh"))?;
        Ok(Self(path))
    }

    /// A program of the host, by its name or its path, wherever its links lead.
    pub fn program(&self, name: &str) -> Result<()> {
        let found = PATH.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
        let named = found.with_context(|| format!("{name} is not installed; run scripts/setup --tests"))?;
        let real = fs::canonicalize(&named)?;
        self.copy(&real)?;
        if real != named && !self.inside(&named).exists() {
            symlink(&real, self.inside(&named)).with_context(|| format!("cannot link {name}"))?;
        }
        self.libraries(&real)
    }

    /// What iptables loads for its matches and targets.
    pub fn iptables_extensions(&self) -> Result<()> {
        let folder = Path::new("/usr/lib/x86_64-linux-gnu/xtables");
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            self.copy(&entry?.path())?;
        }
        Ok(())
    }

    /// A binary without its debug information, under a path of ours.
    pub fn stripped(&self, binary: &Path, to: &str) -> Result<()> {
        let target = self.0.join(to);
        crate::run("strip", &["--strip-debug", "-o", text(&target)?, text(binary)?], &self.0)?;
        self.libraries(binary)
    }

    /// The kernel's modules, with the index that `modprobe` reads.
    pub fn modules(&self, kernel: &Kernel) -> Result<()> {
        let target = self.0.join("usr/lib/modules").join(&kernel.release);
        fs::create_dir_all(target.join("kernel"))?;
        for index in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            fs::copy(kernel.modules.join(index), target.join(index))?;
        }
        for module in MODULES {
            let below = Path::new("kernel").join(module);
            let parent = target.join(&below).parent().context("a module lies in a folder")?.to_owned();
            fs::create_dir_all(&parent)?;
            let source = kernel.modules.join(&below);
            crate::run("cp", &["--recursive", text(&source)?, text(&parent)?], &self.0)?;
        }
        crate::run("depmod", &["--basedir", text(&self.0)?, &kernel.release], &self.0)?;
        Ok(())
    }

    /// A program in the shell's language.
    pub fn script(&self, path: &str, content: &str) -> Result<()> {
        self.file(path, content)?;
        Ok(fs::set_permissions(self.0.join(path), fs::Permissions::from_mode(0o755))?)
    }

    /// A text.
    pub fn file(&self, path: &str, content: &str) -> Result<()> {
        fs::write(self.0.join(path), content).with_context(|| format!("cannot write {path}"))
    }

    /// Writes the archive that the kernel unpacks.
    pub fn pack(&self, archive: &Path) -> Result<()> {
        let pack = r#"find . | cpio --quiet --create --format=newc --owner=0:0 >"$1""#;
        crate::run("bash", &["-o", "pipefail", "-c", pack, "pack", text(archive)?], &self.0)?;
        Ok(())
    }

    /// A file of ours.
    pub fn place(&self, file: &Path, to: &str) -> Result<()> {
        fs::copy(file, self.0.join(to)).with_context(|| format!("cannot copy {}", file.display()))?;
        Ok(())
    }

    /// A file of the host, at its place.
    fn copy(&self, path: &Path) -> Result<()> {
        let target = self.inside(path);
        if target.exists() {
            return Ok(());
        }
        let folder = target.parent().context("a file lies in a folder")?;
        fs::create_dir_all(folder)?;
        fs::copy(path, &target).with_context(|| format!("cannot copy {}", path.display()))?;
        Ok(())
    }

    /// What the dynamic linker loads for a program; nothing for one that is static.
    fn libraries(&self, program: &Path) -> Result<()> {
        let listing = match crate::run("ldd", &[text(program)?], &self.0) {
            Ok(listing) => String::from_utf8(listing)?,
            Err(error) if error.to_string().contains("not a dynamic executable") => return Ok(()),
            Err(error) => return Err(error),
        };
        listing.lines().filter_map(library).try_for_each(|library| self.copy(Path::new(library)))
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The file of one line of `ldd`. The kernel's own (vdso) has none.
fn library(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_what_has_a_file() {
        let lines = [
            "\tlinux-vdso.so.1 (0x00007ffc6e3f2000)",
            "\tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f2f0)",
            "\t/lib64/ld-linux-x86-64.so.2 (0x00007f2f)",
            "\tstatically linked",
        ];
        let found: Vec<&str> = lines.into_iter().filter_map(library).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
