//! Starting programs: ones that are waited for (with a deadline and bounded output) and ones that outlive us.
//! Which program and when is the caller's business; nothing is retried here.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// Why a program could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It could not be started, fed or read from.
    #[error("{program}: {source}")]
    Io {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ran longer than allowed and was killed.
    #[error("{program}: still running after {limit:?}, killed")]
    Timeout {
        /// The program.
        program: String,
        /// What it was allowed.
        limit: Duration,
    },
    /// It ended with a failure.
    #[error("{program}: exit status {status}: {stderr}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit code, or 128 and the signal that ended it.
        status: i32,
        /// What it said, shortened.
        stderr: String,
    },
}

/// A program to run to its end.
#[derive(Debug, Clone)]
pub struct Command {
    /// Path or name of the program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to ours.
    pub env: BTreeMap<OsString, OsString>,
    /// What it reads from standard input.
    pub stdin: Vec<u8>,
    /// It is killed after this time.
    pub limit: Duration,
    /// Output beyond this many bytes a stream is read and dropped.
    pub output_limit: usize,
}

impl Command {
    /// A command without arguments, with 30 seconds and 1 MiB of output.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            stdin: Vec::new(),
            limit: Duration::from_secs(30),
            output_limit: 1 << 20,
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets what it reads.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Sets its deadline.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    fn name(&self) -> String {
        self.program.display().to_string()
    }
}

/// How a program ended and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code, or 128 and the signal that ended it.
    pub status: i32,
    /// Standard output, up to the limit.
    pub stdout: Vec<u8>,
    /// Standard error, up to the limit.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether the exit code was zero.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// Runs programs; a trait so that tests can answer in their place.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Runs `command` to its end, whatever its exit code.
    async fn output(&self, command: &Command) -> Result<Output, ProcessError>;

    /// Runs `command` and demands exit code zero.
    async fn run(&self, command: &Command) -> Result<Output, ProcessError> {
        let output = self.output(command).await?;
        if output.success() {
            return Ok(output);
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let stderr = words.trim().chars().take(2000).collect();
        Err(ProcessError::Failed { program: command.name(), status: output.status, stderr })
    }
}

/// Runs programs on this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinuxRunner;

#[async_trait]
impl Runner for LinuxRunner {
    async fn output(&self, command: &Command) -> Result<Output, ProcessError> {
        let fail = |source| ProcessError::Io { program: command.name(), source };
        match tokio::time::timeout(command.limit, run_to_end(command)).await {
            Ok(result) => result.map_err(fail),
            // Dropping the future killed the child.
            Err(_) => Err(ProcessError::Timeout { program: command.name(), limit: command.limit }),
        }
    }
}

/// Runs `program` on this machine to its end and demands exit code zero.
///
/// # Errors
/// See [`ProcessError`].
pub async fn run(program: &str, args: &[&str]) -> Result<Output, ProcessError> {
    LinuxRunner.run(&Command::new(program).args(args.iter().copied())).await
}

#[expect(clippy::disallowed_methods, reason = "this is the place that starts programs")]
async fn run_to_end(command: &Command) -> io::Result<Output> {
    let mut child = tokio::process::Command::new(&command.program)
        .args(&command.args)
        .envs(&command.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().expect("stdin was asked for as a pipe");
    let mut stdout = child.stdout.take().expect("stdout was asked for as a pipe");
    let mut stderr = child.stderr.take().expect("stderr was asked for as a pipe");
    let feed = async move {
        // A program that ends without reading everything is judged by its exit code.
        match stdin.write_all(&command.stdin).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    };
    let (fed, out, err, status) = tokio::join!(
        feed,
        read_bounded(&mut stdout, command.output_limit),
        read_bounded(&mut stderr, command.output_limit),
        child.wait()
    );
    fed?;
    Ok(Output { status: exit_code(status?), stdout: out?, stderr: err? })
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

/// Reads to the end, so that the writer never blocks, and keeps what fits.
async fn read_bounded(stream: &mut (impl AsyncRead + Unpin), limit: usize) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut piece = vec![0; 16 << 10];
    loop {
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            return Ok(kept);
        }
        let room = limit - kept.len();
        kept.extend_from_slice(&piece[..read.min(room)]);
    }
}

/// A program that outlives us: in its own session, without our terminal, its output appended to a file.
#[derive(Debug, Clone)]
pub struct Daemon {
    program: PathBuf,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    log: PathBuf,
    stdin: Option<Arc<File>>,
}

impl Daemon {
    /// A daemon without arguments that writes to `log`.
    pub fn new(program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: BTreeMap::new(), log: log.into(), stdin: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to our environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Gives it an open file as its standard input, locks included: they last as long as it does.
    #[must_use]
    pub fn stdin(mut self, file: File) -> Self {
        self.stdin = Some(Arc::new(file));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// Its log cannot be opened, or the program cannot be started.
    pub fn spawn(&self) -> Result<Identity, ProcessError> {
        let fail = |source| ProcessError::Io { program: self.program.display().to_string(), source };
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(fail)?;
        let pid = self.start(&log).map_err(fail)?;
        Identity::of(pid).ok_or_else(|| fail(io::Error::other("ended at once")))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the place that starts programs")]
    #[expect(unsafe_code, reason = "std offers no session leader")]
    fn start(&self, log: &File) -> io::Result<i32> {
        let mut command = tokio::process::Command::new(&self.program);
        let stdin = match &self.stdin {
            Some(file) => Stdio::from(file.try_clone()?),
            None => Stdio::null(),
        };
        command.args(&self.args).envs(&self.env).stdin(stdin);
        command.stdout(log.try_clone()?).stderr(log.try_clone()?).current_dir("/");
        // SAFETY: setsid is async-signal-safe and touches no memory of ours.
        unsafe { command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(io::Error::from)) };
        // Dropping the handle neither kills nor leaks: tokio reaps the child when it ends.
        let child = command.spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("ended at once"))?;
        i32::try_from(pid).map_err(io::Error::other)
    }
}

/// Every process that runs now, as far as this one can see.
///
/// # Errors
/// `/proc` cannot be read.
pub fn all() -> io::Result<Vec<Identity>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse().ok()).and_then(Identity::of));
    }
    Ok(found)
}

/// One process and no other: a PID together with its start, since PIDs are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The process id.
    pub pid: i32,
    /// Clock ticks from boot to its start.
    pub started: u64,
}

impl Identity {
    /// The process that has `pid` now, unless it is gone or a zombie.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, started) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, started })
    }

    /// Whether exactly this process still runs.
    #[must_use]
    pub fn alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }

    /// The program that it runs, when that can be seen.
    #[must_use]
    pub fn program(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }

    /// Its arguments, program first.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let bytes = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
        words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// Asks it to end (SIGTERM). Nothing happens when it is already gone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it (SIGKILL). Nothing happens when it is already gone.
    ///
    /// # Errors
    /// The system refuses.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        // The handle pins the process before its identity is compared, so a reused PID is never hit.
        let Some(handle) = self.handle()? else { return Ok(()) };
        match rustix::process::pidfd_send_signal(&handle, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => other.map_err(io::Error::from),
        }
    }

    fn handle(&self) -> io::Result<Option<rustix::fd::OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(self.alive().then_some(handle))
    }

    /// Waits until it has ended; at once when it already has.
    ///
    /// # Errors
    /// The system refuses a handle on it.
    pub async fn exited(&self) -> io::Result<()> {
        let Some(handle) = self.handle()? else { return Ok(()) };
        // A handle on a process becomes readable when the process ends.
        let handle = watch(handle)?;
        handle.readable().await.map(|_| ())
    }

    /// Reads an identity from a file that [`Identity`]'s text form was written to.
    #[must_use]
    pub fn read(path: &Path) -> Option<Self> {
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.pid, self.started)
    }
}

pub(crate) fn watch(handle: rustix::fd::OwnedFd) -> io::Result<AsyncFd<rustix::fd::OwnedFd>> {
    watch_for(handle, tokio::io::Interest::READABLE)
}

#[expect(unsafe_code, reason = "tokio wants the promise that the descriptor stays the same")]
pub(crate) fn watch_for(
    handle: rustix::fd::OwnedFd,
    interest: tokio::io::Interest,
) -> io::Result<AsyncFd<rustix::fd::OwnedFd>> {
    // SAFETY: an OwnedFd is open, and the same, for as long as it lives; AsyncFd owns it from here on.
    unsafe { AsyncFd::register_with_interest(handle, interest) }
        .map_err(|error| io::Error::other(error.to_string()))
}

/// A text that is not an identity.
#[derive(Debug, thiserror::Error)]
#[error("not a process identity")]
pub struct ParseIdentityError;

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pid, started) = text.split_once(' ').ok_or(ParseIdentityError)?;
        let pid = pid.parse().map_err(|_| ParseIdentityError)?;
        let started = started.parse().map_err(|_| ParseIdentityError)?;
        Ok(Self { pid, started })
    }
}

/// State and start time from `/proc/PID/stat`. The name in parentheses may itself hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let started = fields.nth(18)?.parse().ok()?;
    Some((state, started))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_and_exit_code_come_back() {
        let command = Command::new("/bin/sh").args(["-c", "cat; echo no >&2; exit 3"]).stdin("yes");
        let output = LinuxRunner.output(&command).await.expect("sh is there");
        assert_eq!(output, Output { status: 3, stdout: b"yes".to_vec(), stderr: b"no\n".to_vec() });
        let error = LinuxRunner.run(&command).await.expect_err("3 is a failure");
        assert_eq!(error.to_string(), "/bin/sh: exit status 3: no");
    }

    #[tokio::test]
    async fn a_program_past_its_deadline_is_killed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pid_file = dir.path().join("pid");
        let script = format!("echo $$ > {}; exec sleep 600", pid_file.display());
        let command = Command::new("/bin/sh").args(["-c", &script]).limit(Duration::from_millis(300));
        let error = LinuxRunner.output(&command).await.expect_err("it sleeps longer");
        assert!(matches!(error, ProcessError::Timeout { .. }), "{error}");
        let pid = std::fs::read_to_string(pid_file).expect("it started").trim().parse().expect("a number");
        if let Some(identity) = Identity::of(pid) {
            tokio::time::timeout(Duration::from_secs(10), identity.exited())
                .await
                .expect("killed")
                .expect("seen");
        }
    }

    #[tokio::test]
    async fn output_is_bounded_without_blocking_the_writer() {
        let mut command = Command::new("/bin/sh").args(["-c", "head -c 5000000 /dev/zero"]);
        command.output_limit = 1000;
        let output = LinuxRunner.run(&command).await.expect("it ends");
        assert_eq!(output.stdout.len(), 1000);
    }

    #[test]
    fn a_process_is_more_than_its_pid() {
        let own = Identity::of(i32::try_from(std::process::id()).expect("pids fit")).expect("we run");
        assert!(own.alive());
        let other = Identity { started: own.started + 1, ..own };
        assert!(!other.alive());
        assert_eq!(own.to_string().parse::<Identity>().expect("round trip"), own);
    }

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(parse_stat(stat), Some(('S', 4711)));
    }
}
