//! Real processes on a real disk, killed while eight writers write: nothing acknowledged is lost.
//!
//! The process is this test binary itself, running the one test below that is otherwise ignored. It says on its
//! standard output what it tries (`T writer chance`) and what it was answered (`A writer revision`).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use store::{EmbeddedStore, FileDisk, Options, Outcome, Retention, Store};

use crate::ledger::{Ledger, WRITERS};
use crate::power::txn;
use crate::support::{Chance, all, run, soak};

const KILLS: u64 = 100;
const FOLDER: &str = "SKIFF_STORE_TEST_FOLDER";
const SEED: &str = "SKIFF_STORE_TEST_SEED";

fn open(folder: &Path) -> EmbeddedStore {
    let options = Options {
        segment_bytes: 64 << 10,
        preallocate_bytes: 16 << 10,
        snapshot_after_bytes: 128 << 10,
        retention: Retention { max_events: 100, ..Retention::manual() },
        ..Options::default()
    };
    let disk = Arc::new(FileDisk::new(folder).expect("a disk"));
    EmbeddedStore::open(disk, options).expect("opened")
}

fn say(line: &str) {
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).expect("somebody listens");
}

#[test]
#[ignore = "only does something in the process that the test below starts"]
fn child() {
    let (Some(folder), Ok(seed)) = (std::env::var_os(FOLDER), std::env::var(SEED)) else { return };
    let mut chance = Chance::new(seed.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let store = Arc::new(open(Path::new(&folder)));
        say("\nready");
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(store.clone(), writer, chance.fork()));
        }
        writers.join_all().await;
    });
}

async fn write(store: Arc<EmbeddedStore>, writer: usize, mut chance: Chance) {
    loop {
        let decided = chance.next();
        say(&format!("T {writer} {decided}"));
        let attempt = Ledger::default().attempt(writer, decided);
        match store.commit(txn(&attempt)).await.expect("a disk that works") {
            Outcome::Committed { revision } => say(&format!("A {writer} {revision}")),
            conflict @ Outcome::Conflict { .. } => panic!("{conflict:?} without a condition"),
        }
    }
}

fn start(folder: &Path, seed: u64) -> Child {
    #[expect(
        clippy::disallowed_methods,
        reason = "a process of our own to kill; the host crate is not for tests"
    )]
    std::process::Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "kill::child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("started")
}

/// Notes what the process says, kills it after so many answers, and notes what it had still said.
fn listen_and_kill(mut child: Child, answers: u64, ledger: &mut Ledger) -> u64 {
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let mut answered = 0;
    let lines = output.lines().map(|line| line.expect("text")).skip_while(|line| line != "ready").skip(1);
    for line in lines {
        let mut words = line.split(' ');
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        match (line.chars().next(), number(), number(), number()) {
            (Some('T'), None, Some(writer), Some(chance)) => {
                ledger.attempt(usize::try_from(writer).expect("small"), chance);
            }
            (Some('A'), None, Some(writer), Some(revision)) => {
                ledger.acknowledged_last(usize::try_from(writer).expect("small"), revision);
                answered += 1;
            }
            _ => panic!("the writing process said {line:?}"),
        }
        if answered == answers {
            child.kill().expect("killed");
        }
    }
    child.wait().expect("gone");
    answered
}

#[test]
fn a_hundred_kills_under_eight_writers() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let folder = folder.path().join("store");
    let mut ledger = Ledger::default();
    let mut chance = Chance::new(1);
    let (mut answers, mut torn) = (0, 0);
    let kills = KILLS * soak();
    for seed in 0..kills {
        answers += listen_and_kill(start(&folder, seed), 1 + chance.below(300), &mut ledger);
        let store = open(&folder);
        torn += u64::from(store.recovery().torn.is_some());
        run(async { ledger.check(store.current_revision(), &all(&store).await) });
    }
    println!("{answers} answers, {torn} unfinished writes");
    assert!(answers > 50 * kills, "hardly anything was written: {answers}");
}
