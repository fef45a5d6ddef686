//! Runs the virtual machine to its end and judges its report. A machine that says nothing has failed: what counts is
//! that it ran tests, that none failed, and that it said it was done.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::text;

/// How much of the kernel's own words a failure shows.
const CONSOLE_LINES: usize = 60;

/// What the first serial line gets is the file `console`, and the second is read here.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=4 panic=-1 random.trust_cpu=on";

/// What the machine reported.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    passed: usize,
    failed: Vec<String>,
    /// How many tests it says there were; nothing if it never came to its end.
    done: Option<usize>,
}

impl Report {
    fn read(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("pass", _)) => self.passed += 1,
            Some(("fail", test)) => self.failed.push(test.to_owned()),
            Some(("done", count)) => self.done = count.parse().ok(),
            _ => {}
        }
    }

    fn judge(&self) -> Result<()> {
        let Some(count) = self.done else { bail!("the machine never said that it was done") };
        if !self.failed.is_empty() {
            bail!("{} of {count} tests failed: {}", self.failed.len(), self.failed.join(", "));
        }
        if count == 0 {
            bail!("no test ran");
        }
        if self.passed != count {
            bail!("{count} tests were to run, and {} were reported", self.passed);
        }
        Ok(())
    }
}

/// Boots, prints the report as it comes, and fails unless all is well.
pub fn run(kernel: &Path, initramfs: &Path, console: &Path, limit: Duration) -> Result<()> {
    let serial = format!("file:{}", text(console)?);
    let limit = limit.as_secs().to_string();
    #[expect(clippy::disallowed_methods, reason = "a build chore, not a part of the product")]
    let mut machine = Command::new("timeout")
        .args(["--foreground", "--kill-after=10", &limit, "qemu-system-x86_64"])
        .args(["-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "2048"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-nic", "none", "-no-reboot"])
        .args(["-kernel", text(kernel)?, "-initrd", text(initramfs)?, "-append", KERNEL_ARGUMENTS])
        .args(["-serial", &serial, "-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start timeout and qemu-system-x86_64")?;
    let mut report = Report::default();
    let output = machine.stdout.take().context("the machine's report is piped")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{}", line.trim_end());
        report.read(line.trim_end());
    }
    let status = machine.wait()?;
    let outcome = match status.code() {
        Some(0) => report.judge(),
        Some(124) => report.judge().context(format!("stopped after {limit} s")),
        _ => Err(anyhow::anyhow!("qemu-system-x86_64: {status}")),
    };
    if outcome.is_err() {
        eprintln!("the end of the kernel's log:\n{}", tail(console)?);
    }
    outcome
}

fn tail(console: &Path) -> Result<String> {
    let log = fs::read(console).with_context(|| format!("cannot read {}", console.display()))?;
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    Ok(lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_report_without_failures_is_well() {
        let cases: [(&[&str], &str); 6] = [
            (&["pass host a 1", "pass kube-proxy b 2", "done 2"], "well"),
            (&["pass host a 1"], "the machine never said that it was done"),
            (&["done 0"], "no test ran"),
            (&["pass host a 1", "done 2"], "2 tests were to run, and 1 were reported"),
            (&["| done 1", "fail host a 101", "done 1"], "1 of 1 tests failed: host a 101"),
            (&[], "the machine never said that it was done"),
        ];
        for (lines, expected) in cases {
            let mut report = Report::default();
            lines.iter().for_each(|line| report.read(line));
            let judged = report.judge().map_or_else(|error| error.to_string(), |()| "well".to_owned());
            assert_eq!(judged, expected, "{lines:?}");
        }
    }
}
