//! Container logs: the format that runtimes write (`TIME STREAM TAG TEXT`), which part of a file is asked for, and
//! sending it, to its end or for as long as the container runs. Whose log may be read is decided elsewhere.

use std::collections::VecDeque;
use std::io::{self, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::{mpsc, watch};

use crate::lifecycle::{RuntimePod, State};
/// Bytes read at once; a line that is longer is sent in parts.
const BLOCK: usize = 64 << 10;

/// Which stream is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Stream {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// What part of a log is asked for, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail: Option<u64>,
    pub limit: Option<u64>,
    pub since: Option<Timestamp>,
    pub stream: Stream,
}

impl Options {
    /// From a query, in upstream's names.
    ///
    /// # Errors
    /// A value is no number, or out of range; in words.
    pub fn parse(query: &str, now: Timestamp) -> Result<Self, String> {
        let mut options = Self::default();
        for (key, value) in form(query) {
            let flag = matches!(value.as_str(), "true" | "1" | "");
            let number = |least: u64| match value.parse::<u64>() {
                Ok(number) if number >= least => Ok(number),
                _ => Err(format!("Invalid value: {value:?}: {key}: must be a number of at least {least}")),
            };
            match key.as_str() {
                "follow" => options.follow = flag,
                "previous" => options.previous = flag,
                "timestamps" => options.timestamps = flag,
                "tailLines" => options.tail = Some(number(0)?),
                "limitBytes" => options.limit = Some(number(1)?),
                "sinceSeconds" => options.since = Some(now - Duration::from_secs(number(1)?.min(1 << 32))),
                "sinceTime" => {
                    let time = value.parse().map_err(|_| format!("Invalid value: {value:?}: sinceTime"))?;
                    options.since = Some(time);
                }
                "stream" => {
                    options.stream = match value.as_str() {
                        "All" => Stream::All,
                        "Stdout" => Stream::Stdout,
                        "Stderr" => Stream::Stderr,
                        _ => return Err(format!("Invalid value: {value:?}: stream")),
                    }
                }
                _ => {}
            }
        }
        Ok(options)
    }
}

/// Names and values of a query string.
pub(crate) fn form(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| percent_decode(&text.replace('+', " "));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

/// `%41` is `A`.
pub(crate) fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digits =
            tail.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One line of a log file.
struct Line<'a> {
    time: &'a [u8],
    stderr: bool,
    /// The program wrote more on this line.
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (time, stream, tag) = (fields.next()?, fields.next()?, fields.next()?);
    let text = fields.next().unwrap_or_default();
    let stderr = match stream {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    Some(Line { time, stderr, partial: tag.split(|byte| *byte == b':').next() == Some(b"P"), text })
}

/// The text of a log without what the runtime adds. What is no line of a log (the first, cut one) is left out.
pub(crate) fn plain(text: &str) -> String {
    let mut filter = Filter::new(&Options::default());
    let mut out = Vec::new();
    for line in text.lines() {
        filter.take(line.as_bytes(), &mut out);
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Turns lines of the file into what is asked for.
struct Filter {
    timestamps: bool,
    since: Option<Timestamp>,
    stream: Stream,
    left: Option<u64>,
    fresh_line: bool,
}

impl Filter {
    fn new(options: &Options) -> Self {
        Self {
            timestamps: options.timestamps,
            since: options.since,
            stream: options.stream,
            left: options.limit,
            fresh_line: true,
        }
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    fn take(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(line) else { return };
        let wanted = match self.stream {
            Stream::All => true,
            Stream::Stdout => !line.stderr,
            Stream::Stderr => line.stderr,
        };
        if !wanted || self.is_old(line.time) {
            return;
        }
        let begin = out.len();
        if self.timestamps && self.fresh_line {
            out.extend_from_slice(line.time);
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.fresh_line = !line.partial;
        if let Some(left) = &mut self.left {
            let room = usize::try_from(*left).unwrap_or(usize::MAX);
            out.truncate(out.len().min(begin.saturating_add(room)));
            *left -= (out.len() - begin) as u64;
        }
    }

    fn is_old(&self, time: &[u8]) -> bool {
        let Some(since) = self.since else { return false };
        let time = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
        time.is_some_and(|time| time < since)
    }
}

/// Where the last `count` lines begin.
async fn tail_offset(file: &mut File, count: u64) -> io::Result<u64> {
    let end = file.metadata().await?.len();
    if count == 0 {
        return Ok(end);
    }
    let mut left = count;
    let mut at = end;
    let mut block = vec![0; BLOCK];
    while at > 0 {
        let size = at.min(BLOCK as u64);
        at -= size;
        let part = &mut block[..usize::try_from(size).map_err(io::Error::other)?];
        file.seek(SeekFrom::Start(at)).await?;
        file.read_exact(part).await?;
        for (position, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = at + position as u64 + 1;
            // The newline at the very end closes the last line.
            if after == end {
                continue;
            }
            left -= 1;
            if left == 0 {
                return Ok(after);
            }
        }
    }
    Ok(0)
}

/// Whose log it is, for knowing when there will be no more of it.
pub(crate) struct Subject {
    pub id: String,
    pub observed: watch::Receiver<Arc<RuntimePod>>,
}

impl Subject {
    fn runs(&self) -> bool {
        let seen = self.observed.borrow();
        seen.containers
            .iter()
            .any(|found| found.id == self.id && matches!(found.state, State::Running | State::Created))
    }
}

/// Sends the log of a file; ends when all was sent, or nobody listens.
///
/// # Errors
/// The file cannot be read.
pub(crate) async fn send(
    path: &Path,
    options: &Options,
    mut subject: Subject,
    out: &mpsc::Sender<Result<Bytes, io::Error>>,
) -> io::Result<()> {
    let mut watch = if options.follow { Some(host::notify::Watch::of_log(path)?) } else { None };
    let mut file = File::open(path).await?;
    if let Some(count) = options.tail {
        let from = tail_offset(&mut file, count).await?;
        file.seek(SeekFrom::Start(from)).await?;
    }
    let mut reader = Reader { file, rest: VecDeque::new(), filter: Filter::new(options) };
    loop {
        // Asked before reading: what is written up to the end is read then.
        let runs = subject.runs();
        if !reader.drain(out).await? {
            return Ok(());
        }
        if options.follow && replaced(path, &reader.file).await? {
            // Nothing is added to the old file once the new one is there.
            if !reader.drain(out).await? {
                return Ok(());
            }
            watch = Some(host::notify::Watch::of_log(path)?);
            reader.file = File::open(path).await?;
            continue;
        }
        let Some(watch) = watch.as_mut().filter(|_| runs) else { return Ok(()) };
        tokio::select! {
            changed = watch.changed() => changed?,
            changed = subject.observed.changed() => if changed.is_err() {
                return Ok(());
            },
            () = out.closed() => return Ok(()),
        }
    }
}

/// Whether another file has the name by now.
async fn replaced(path: &Path, file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    match tokio::fs::metadata(path).await {
        Ok(now) => Ok(now.ino() != file.metadata().await?.ino()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

struct Reader {
    file: File,
    /// The beginning of a line whose end was not written yet.
    rest: VecDeque<u8>,
    filter: Filter,
}

impl Reader {
    /// Sends what there is. False when no more is wanted.
    async fn drain(&mut self, out: &mpsc::Sender<Result<Bytes, io::Error>>) -> io::Result<bool> {
        let mut block = vec![0; BLOCK];
        loop {
            let count = self.file.read(&mut block).await?;
            if count == 0 {
                return Ok(true);
            }
            self.rest.extend(&block[..count]);
            let mut text = Vec::new();
            self.lines(&mut text);
            if !text.is_empty() && out.send(Ok(text.into())).await.is_err() {
                return Ok(false);
            }
            if self.filter.is_full() {
                return Ok(false);
            }
        }
    }

    fn lines(&mut self, text: &mut Vec<u8>) {
        let bytes = self.rest.make_contiguous();
        let mut begin = 0;
        while let Some(length) = bytes[begin..].iter().position(|byte| *byte == b'\n') {
            self.filter.take(&bytes[begin..begin + length], text);
            begin += length + 1;
        }
        // A line without end is no log's.
        if bytes.len() - begin > 2 * BLOCK {
            begin = bytes.len();
        }
        self.rest.drain(..begin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.1Z stdout F one\n2026-01-01T00:00:01.2Z stderr P tw\n\
        2026-01-01T00:00:01.3Z stderr F o\n2026-01-01T00:00:02Z stdout F three\n2026-01-01T00:00:03Z stdout F \n";

    async fn read(query: &str) -> String {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).expect("written");
        let now = "2026-01-01T00:00:04Z".parse().expect("a time");
        let options = Options::parse(query, now).expect("a query");
        let (_sender, observed) = watch::channel(Arc::default());
        let (out, mut parts) = mpsc::channel(16);
        send(&path, &options, Subject { id: "c".into(), observed }, &out).await.expect("read");
        drop(out);
        let mut text = Vec::new();
        while let Some(part) = parts.recv().await {
            text.extend_from_slice(&part.expect("bytes"));
        }
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn each_option_does_what_its_name_says() {
        let cases = [
            ("", "one\ntwo\nthree\n\n"),
            (
                "timestamps=true",
                "2026-01-01T00:00:00.1Z one\n2026-01-01T00:00:01.2Z two\n2026-01-01T00:00:02Z three\n2026-01-01T00:00:03Z \n",
            ),
            ("tailLines=2", "three\n\n"),
            ("tailLines=0", ""),
            ("tailLines=100", "one\ntwo\nthree\n\n"),
            ("limitBytes=5", "one\nt"),
            ("sinceSeconds=2", "three\n\n"),
            ("sinceTime=2026-01-01T00%3A00%3A03Z", "\n"),
            ("stream=Stderr", "two\n"),
            ("follow=true&tailLines=1", "\n"),
        ];
        for (query, expected) in cases {
            assert_eq!(read(query).await, expected, "{query}");
        }
    }

    #[test]
    fn bad_options_are_refused() {
        let now = Timestamp::UNIX_EPOCH;
        for query in [
            "tailLines=-1",
            "tailLines=x",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceTime=yesterday",
            "stream=x",
        ] {
            assert!(Options::parse(query, now).is_err(), "{query}");
        }
    }

    #[test]
    fn a_cut_first_line_is_left_out() {
        assert_eq!(plain("0:00Z stdou\n2026-01-01T00:00:00Z stdout F whole"), "whole\n");
    }

    #[tokio::test]
    async fn following_ends_with_the_container() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("0.log");
        std::fs::write(&path, "2026-01-01T00:00:00Z stdout F one\n").expect("written");
        let with =
            |state| Arc::new(RuntimePod { containers: vec![container(state)], ..RuntimePod::default() });
        let (sender, observed) = watch::channel(with(State::Running));
        let (out, mut parts) = mpsc::channel(1);
        let options = Options { follow: true, ..Options::default() };
        let subject = Subject { id: "c".into(), observed };
        let reading = send(&path, &options, subject, &out);
        let writing = async {
            assert_eq!(parts.recv().await.expect("a part").expect("bytes"), "one\n");
            let more = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stdout F two\n";
            std::fs::write(&path, more).expect("written");
            assert_eq!(parts.recv().await.expect("a part").expect("bytes"), "two\n");
            std::fs::rename(&path, dir.path().join("0.log.old")).expect("moved");
            std::fs::write(&path, "2026-01-01T00:00:02Z stdout F three\n").expect("written");
            assert_eq!(parts.recv().await.expect("a part").expect("bytes"), "three\n", "in another file");
            sender.send_replace(with(State::Exited));
        };
        let (read, ()) = tokio::join!(reading, writing);
        read.expect("it ends");
    }

    fn container(state: State) -> crate::lifecycle::Container {
        crate::lifecycle::Container {
            id: "c".into(),
            name: "c".into(),
            sandbox: "s".into(),
            state,
            restart_count: 0,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            image: String::new(),
            image_id: String::new(),
            hash: String::new(),
            log_path: String::new(),
        }
    }
}
