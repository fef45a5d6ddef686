//! Keeps containers from filling the disk with their logs: a log that grew too long is moved aside, and of those only the
//! newest are kept. What a container wrote is never read or changed here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use component::Context;

use crate::pods::Workers;
use crate::runtime::Runtime;

/// Between looks at the sizes; upstream's interval.
const LOOK: Duration = Duration::from_secs(10);
/// A log that is longer is moved aside.
const LONGEST: u64 = 10 << 20;
/// Files of one log, the present one included.
const FILES: usize = 5;

/// Looks after all logs until it is dropped.
pub(crate) async fn run(context: Context, runtime: Arc<dyn Runtime>, workers: Workers) {
    loop {
        tokio::time::sleep(LOOK).await;
        for (id, path) in workers.logs() {
            let mark = context.clock.now().strftime("%Y%m%d-%H%M%S").to_string();
            if let Err(error) = rotate(runtime.as_ref(), &id, &path, &mark, LONGEST).await {
                tracing::warn!(%error, log = %path.display(), "a log grows beyond its limit");
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RotateError {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error(transparent)]
    Runtime(#[from] cri::Error),
}

async fn rotate(
    runtime: &dyn Runtime,
    id: &str,
    path: &Path,
    mark: &str,
    longest: u64,
) -> Result<(), RotateError> {
    match std::fs::metadata(path) {
        Ok(found) if found.len() > longest => {}
        Ok(_) => return Ok(()),
        // It ended, and its pod with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{mark}"));
    let aside = PathBuf::from(aside);
    std::fs::rename(path, &aside)?;
    if let Err(error) = runtime.reopen_log(id).await {
        // It still writes to the old file, which must go on to have the log's name.
        std::fs::rename(&aside, path)?;
        return Err(error.into());
    }
    Ok(drop_oldest(path)?)
}

fn drop_oldest(path: &Path) -> io::Result<()> {
    let Some((directory, name)) = path.parent().zip(path.file_name()) else { return Ok(()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut old = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            old.push(entry.path());
        }
    }
    old.sort();
    let surplus = old.len().saturating_sub(FILES - 1);
    old.iter().take(surplus).try_for_each(std::fs::remove_file)
}

#[cfg(test)]
mod tests {
    use api_machinery::clock::Clock;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::worker::FakeRuntime;

    #[tokio::test(start_paused = true)]
    async fn long_logs_are_moved_aside_and_the_oldest_dropped() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("0.log");
        let runtime = FakeRuntime::new(Clock::simulated(jiff::Timestamp::UNIX_EPOCH), TaskTracker::new());
        let names = || {
            let entries = std::fs::read_dir(dir.path()).expect("it is there");
            let mut names: Vec<_> = entries
                .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        };
        std::fs::write(&path, "short").expect("written");
        rotate(&runtime, "c", &path, "1", 5).await.expect("nothing to do");
        assert_eq!(names(), ["0.log"]);
        for mark in ["1", "2", "3", "4", "5", "6"] {
            std::fs::write(&path, "longer").expect("written");
            rotate(&runtime, "c", &path, mark, 5).await.expect("moved");
        }
        assert_eq!(names(), ["0.log.3", "0.log.4", "0.log.5", "0.log.6"], "the runtime makes the new one");
        assert_eq!(runtime.calls("reopen").len(), 6);

        std::fs::write(&path, "longer").expect("written");
        runtime.set_away(true);
        rotate(&runtime, "c", &path, "7", 5).await.expect_err("the runtime is away");
        assert!(names().contains(&"0.log".to_owned()), "the log has its name again");
    }
}
