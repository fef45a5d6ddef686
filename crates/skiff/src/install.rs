//! `skiff install`: this binary into the system, and a systemd unit that runs it with the given flags. Installing again
//! replaces both. What a running Skiff does is not touched until it is restarted.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser};

use crate::flags::{Command, Flags};

/// Where the binary goes.
pub const BINARY: &str = "usr/local/bin/skiff";
/// What `skiff upgrade` keeps beside it, until the new one is ready.
pub const PREVIOUS: &str = "skiff.previous";
/// Where units go.
pub const UNITS: &str = "etc/systemd/system";
/// Says that systemd runs this machine.
const BOOTED: &str = "/run/systemd/system";

/// What is installed where.
#[derive(Args, Clone, Debug)]
pub struct InstallFlags {
    /// Install below this folder, for an image of a machine; nothing is started then
    #[arg(long, default_value = "/")]
    pub root: PathBuf,
    /// What the unit runs: `server` or `agent`, with its flags
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 1.., default_value = "server", value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// The unit that runs `role`.
pub fn unit_name(role: &str) -> String {
    format!("skiff-{role}.service")
}

/// The roles that can be installed.
pub const ROLES: [&str; 2] = ["server", "agent"];

/// Writes the files, and starts the unit where systemd runs.
pub async fn run(flags: InstallFlags) -> Result<()> {
    let role = checked(&flags.command)?;
    let binary = flags.root.join(BINARY);
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    if binary.canonicalize().ok().as_ref() != Some(&own) {
        place(&own, &binary)?;
    }
    let name = unit_name(role);
    let path = flags.root.join(UNITS).join(&name);
    let text = unit(role, &Path::new("/").join(BINARY), &flags.command);
    let folder = path.parent().context("a unit is in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    host::files::write_atomic(&path, text.as_bytes(), 0o644)
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {} and {}", binary.display(), path.display());
    if flags.root == Path::new("/") && systemd_runs() {
        systemctl(&["daemon-reload"]).await?;
        systemctl(&["enable", &name]).await?;
        systemctl(&["restart", &name]).await?;
        println!("{name} is enabled and started");
    } else {
        println!(
            "systemd does not run here; where it does: systemctl daemon-reload && systemctl enable --now {name}"
        );
    }
    Ok(())
}

/// The role, if the command line is one that can be run.
fn checked(command: &[String]) -> Result<&str> {
    let parsed = Flags::try_parse_from(std::iter::once("skiff").chain(command.iter().map(String::as_str)))
        .map_err(|error| anyhow::anyhow!("{}", error.to_string().trim_end()))?;
    match parsed.command {
        Command::Server(_) => Ok("server"),
        Command::Agent(_) => Ok("agent"),
        _ => bail!("only `server` and `agent` can be installed"),
    }
}

/// Copies a program so that there is the old one or the new one at any time. The old one can be running.
pub fn place(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a program is in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let bytes = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    host::files::write_atomic(to, &bytes, 0o755).with_context(|| format!("cannot write {}", to.display()))
}

/// Whether systemd runs this machine.
pub fn systemd_runs() -> bool {
    Path::new(BOOTED).exists()
}

/// Runs systemctl.
pub async fn systemctl(arguments: &[&str]) -> Result<()> {
    host::process::run("systemctl", arguments)
        .await
        .with_context(|| format!("systemctl {}", arguments.join(" ")))?;
    Ok(())
}

/// The unit's text. `KillMode=process` and `Delegate=yes`: containers outlive every process of ours, and their cgroups are
/// for us to make.
fn unit(role: &str, binary: &Path, command: &[String]) -> String {
    let what = if role == "server" { "Kubernetes control plane and node" } else { "Kubernetes node" };
    let mut line = quoted(&OsString::from(binary));
    for word in command {
        write!(line, " {}", quoted(&OsString::from(word))).expect("writing to a string");
    }
    format!(
        "[Unit]\n\
         Description=Skiff: {what}\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={line}\n\
         KillMode=process\n\
         Delegate=yes\n\
         Restart=always\n\
         RestartSec=1s\n\
         LimitNOFILE=1048576\n\
         LimitNPROC=infinity\n\
         LimitCORE=infinity\n\
         TasksMax=infinity\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

/// One word of a command line as systemd reads it: no specifier, no variable, no escape of its own.
fn quoted(word: &OsString) -> String {
    let word = word.to_string_lossy();
    let mut out = String::from("\"");
    for letter in word.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            '%' | '$' => out.extend([letter, letter]),
            '\n' => out.push_str("\\n"),
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_unit_runs_the_command_as_it_was_given() {
        let mut command = words("server --data-dir /d --node-name");
        command.push("50% \"$x\" \\ y".to_owned());
        let text = unit("server", Path::new("/usr/local/bin/skiff"), &command);
        for line in [
            r#"ExecStart="/usr/local/bin/skiff" "server" "--data-dir" "/d" "--node-name" "50%% \"$$x\" \\ y""#,
            "KillMode=process",
            "Delegate=yes",
            "Restart=always",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_command_that_could_not_run_is_not_installed() {
        assert_eq!(checked(&words("server --data-dir /d")).expect("a server"), "server");
        let unknown = checked(&words("server --unknown")).expect_err("no such flag").to_string();
        assert!(unknown.contains("--unknown"), "{unknown}");
        assert!(checked(&words("uninstall")).expect_err("no service").to_string().contains("only `server`"));
    }

    #[test]
    fn an_installation_below_a_folder_is_complete_and_can_be_repeated() {
        let root = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for port in ["7443", "8443"] {
            let command = words(&format!("server --https-listen-port {port}"));
            let flags = InstallFlags { root: root.path().to_owned(), command };
            runtime.block_on(run(flags)).expect("installed");
            let unit = std::fs::read_to_string(root.path().join(UNITS).join("skiff-server.service"))
                .expect("a unit");
            assert!(unit.contains(port), "{unit}");
        }
        let own = std::fs::metadata(std::env::current_exe().expect("a file")).expect("a file");
        let installed = std::fs::metadata(root.path().join(BINARY)).expect("a binary");
        assert_eq!(installed.len(), own.len());
    }
}
