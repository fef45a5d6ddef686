//! The container images of the demo and the tests, built from Debian's packages: there is no registry to pull from,
//! and an image that the repository builds is one whose content can be read here. What this does not do: resolve
//! package dependencies; each image names all it needs.

mod archive;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// One image: what goes into its root and how it starts.
struct Image {
    /// The reference under which a runtime knows it; also the name of the archive.
    reference: &'static str,
    archive: &'static str,
    packages: &'static [&'static str],
    /// Further files: path below the root, content.
    files: &'static [(&'static str, &'static str)],
    /// Empty folders that the program expects.
    folders: &'static [&'static str],
    /// Symbolic links: path below the root, target.
    links: &'static [(&'static str, &'static str)],
    config: fn() -> Value,
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n";

/// Serves the mounted page and tells which pod answered. While `/run/draining` is there, each answer ends its connection
/// and the readiness probe fails: clients move on without a broken request before SIGQUIT comes.
const NGINX_CONF: &str = "\
daemon off;
user www-data;
worker_processes 1;
error_log /dev/stderr warn;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
  include /etc/nginx/mime.types;
  access_log off;
  keepalive_timeout 60s;
  keepalive_requests 1000000;
  server {
    listen 80 backlog=1024;
    root /usr/share/nginx/html;
    add_header X-Pod $hostname always;
    location / { if (-f /run/draining) { rewrite ^(.*)$ /draining$1 last; } }
    location /draining/ { internal; keepalive_timeout 0; alias /usr/share/nginx/html/; }
    location = /healthz { if (-f /run/draining) { return 503; } return 200 'ok\\n'; }
  }
}
";

const IMAGES: &[Image] = &[
    Image {
        reference: "skiff.local/nginx:1.22",
        archive: "nginx.tar",
        packages: &[
            "nginx",
            "nginx-common",
            "libc6",
            "libcrypt1",
            "libpcre2-8-0",
            "libssl3",
            "zlib1g",
            "libgcc-s1",
            "busybox-static",
        ],
        files: &[
            ("etc/passwd", PASSWD),
            ("etc/group", GROUP),
            ("etc/nginx/nginx.conf", NGINX_CONF),
            ("usr/share/nginx/html/index.html", "no page is mounted here\n"),
        ],
        folders: &["run", "tmp", "var/log/nginx", "var/lib/nginx", "root"],
        links: &[
            ("bin/sh", "busybox"),
            ("bin/touch", "busybox"),
            ("bin/sleep", "busybox"),
            ("bin/wget", "busybox"),
            ("bin/nslookup", "busybox"),
            ("bin/timeout", "busybox"),
        ],
        config: || {
            json!({
                "Cmd": ["/usr/sbin/nginx"],
                "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "ExposedPorts": {"80/tcp": {}},
                "StopSignal": "SIGQUIT",
            })
        },
    },
    Image {
        reference: "skiff.local/busybox:1.35",
        archive: "busybox.tar",
        packages: &["busybox-static"],
        files: &[("etc/passwd", PASSWD), ("etc/group", GROUP)],
        folders: &["run", "tmp", "root", "var/tmp"],
        links: &[
            ("bin/sh", "busybox"),
            ("bin/sleep", "busybox"),
            ("bin/wget", "busybox"),
            ("bin/nslookup", "busybox"),
            ("bin/cat", "busybox"),
            ("bin/ls", "busybox"),
            ("bin/echo", "busybox"),
            ("bin/httpd", "busybox"),
            ("bin/nc", "busybox"),
            ("bin/env", "busybox"),
            ("bin/hostname", "busybox"),
            ("bin/id", "busybox"),
            ("bin/true", "busybox"),
            ("bin/false", "busybox"),
            ("bin/kill", "busybox"),
            ("bin/ps", "busybox"),
            ("bin/ip", "busybox"),
            ("bin/test", "busybox"),
            ("bin/touch", "busybox"),
            ("bin/stat", "busybox"),
        ],
        config: || json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}),
    },
];

/// Builds every image that is missing from `out`, or older than this program.
pub fn build(out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let built_by = fs::metadata(std::env::current_exe()?)?.modified()?;
    for image in IMAGES {
        let archive = out.join(image.archive);
        let fresh = fs::metadata(&archive).and_then(|file| file.modified()).is_ok_and(|made| made > built_by);
        if fresh {
            continue;
        }
        let root = out.join("root").join(image.archive);
        assemble(image, &root, &out.join("packages"))?;
        archive::write(&root, image.reference, (image.config)(), &archive)?;
        fs::remove_dir_all(&root)?;
        println!("{} -> {}", image.reference, archive.display());
    }
    Ok(())
}

/// Unpacks the packages and adds the image's own files.
fn assemble(image: &Image, root: &Path, packages: &Path) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    fs::create_dir_all(root)?;
    fs::create_dir_all(packages)?;
    for package in image.packages {
        let file = fetch(package, packages)?;
        let file = file.to_str().context("package paths are UTF-8")?;
        crate::run(
            "dpkg-deb",
            &["--extract", file, root.to_str().context("image paths are UTF-8")?],
            packages,
        )?;
    }
    for documentation in ["usr/share/doc", "usr/share/man", "usr/share/lintian", "usr/share/info"] {
        let folder = root.join(documentation);
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
    }
    for folder in image.folders {
        fs::create_dir_all(root.join(folder))?;
    }
    for (path, content) in image.files {
        let file = root.join(path);
        fs::create_dir_all(file.parent().context("an image file lies in a folder")?)?;
        fs::write(file, content)?;
    }
    for (path, target) in image.links {
        std::os::unix::fs::symlink(target, root.join(path)).with_context(|| format!("cannot link {path}"))?;
    }
    Ok(())
}

/// The package's file, downloaded once.
pub fn fetch(package: &str, folder: &Path) -> Result<PathBuf> {
    let have = || -> Result<Option<PathBuf>> {
        let mut found: Vec<PathBuf> = fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        found.retain(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(&format!("{package}_")) && name.ends_with(".deb"))
        });
        found.sort();
        Ok(found.pop())
    };
    if let Some(file) = have()? {
        return Ok(file);
    }
    let download = || crate::run("apt-get", &["download", "-q", package], folder);
    if download().is_err() {
        // A machine that never had, or has old, lists of what there is.
        crate::run("apt-get", &["update", "-q"], folder)?;
        download()?;
    }
    match have()? {
        Some(file) => Ok(file),
        None => bail!("apt-get download {package} left no file"),
    }
}
