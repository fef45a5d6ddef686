//! Power losses: what was acknowledged or shown is there afterwards, and no revision is used twice.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use store::simdisk::SimDisk;
use store::{EmbeddedStore, Encryption, EncryptionKey, Options, Outcome, Store, StoreError, Txn, Writer};

use crate::ledger::{Attempt, Ledger, WRITERS};
use crate::support::{Chance, all, open, run, small, soak};

const CHAINS: u64 = 50;
const LOSSES: u64 = 20;

fn options(seed: u64, mode: Writer) -> Options {
    let encryption = Encryption {
        prefixes: vec!["/secret/".to_owned()],
        keys: vec![EncryptionKey { id: 9, secret: [7; 32] }],
    };
    Options { mode, encryption, ..small(seed) }
}

pub fn txn(attempt: &Attempt) -> Txn {
    attempt.changes.iter().fold(Txn::new(), |txn, (key, value)| match value {
        Some(value) => txn.put(&**key, value.clone()),
        None => txn.delete(&**key),
    })
}

/// One writer, until the power goes.
async fn write(store: Arc<EmbeddedStore>, ledger: Rc<RefCell<Ledger>>, writer: usize, mut chance: Chance) {
    loop {
        let attempt = ledger.borrow_mut().attempt(writer, chance.next());
        match store.commit(txn(&attempt)).await {
            Ok(Outcome::Committed { revision }) => ledger.borrow_mut().acknowledged(&attempt, revision),
            Ok(conflict) => panic!("{conflict:?} without a condition"),
            Err(StoreError::Stopped(_)) => return,
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    }
}

/// One that watches until the store is gone.
async fn watch(store: Arc<EmbeddedStore>, ledger: Rc<RefCell<Ledger>>) {
    let mut watch = store.watch("", store.current_revision()).await.expect("watched");
    drop(store);
    while let Some(batch) = watch.next_batch().await {
        let Ok(batch) = batch else { return };
        for event in batch.events {
            let value = event.value.as_ref().map(|value| std::str::from_utf8(value).expect("text"));
            ledger.borrow_mut().shown(event.revision, value);
        }
    }
}

async fn write_until_the_power_goes(store: EmbeddedStore, ledger: &Rc<RefCell<Ledger>>, chance: &mut Chance) {
    let store = Arc::new(store);
    let tasks = tokio::task::LocalSet::new();
    let watching = tasks.spawn_local(watch(store.clone(), ledger.clone()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tasks.spawn_local(write(store.clone(), ledger.clone(), writer, chance.fork())))
        .collect();
    drop(store);
    tasks
        .run_until(async {
            for writer in writers {
                writer.await.expect("a writer");
            }
            watching.await.expect("a watcher");
        })
        .await;
}

async fn check(ledger: &RefCell<Ledger>, store: &EmbeddedStore) {
    let items = all(store).await;
    ledger.borrow_mut().check(store.current_revision(), &items);
}

/// Loses power again and again on one disk, while starting and while writing. Returns what is left on it.
fn chain(seed: u64, mode: Writer) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut chance = Chance::new(seed);
    let mut disk = SimDisk::new(seed);
    let ledger = Rc::new(RefCell::new(Ledger::default()));
    for loss in 0..LOSSES {
        if chance.below(4) == 0 {
            disk.cut_power_after(chance.below(12));
        }
        match open(&disk, options(seed * LOSSES + loss, mode)) {
            Ok(store) => run(async {
                check(&ledger, &store).await;
                disk.cut_power_after(chance.below(150));
                write_until_the_power_goes(store, &ledger, &mut chance).await;
            }),
            Err(StoreError::Corrupt { file, offset, what }) => panic!("{file} at {offset}: {what}"),
            // The power went while it was opened.
            Err(_) => {}
        }
        if chance.below(3) == 0 {
            // Killed before: what is shown after the restart may so far only be in the system's memory.
            disk = disk.kill();
            let store = open(&disk, options(seed, mode)).expect("opened");
            run(async { check(&ledger, &store).await });
            disk = disk.lose_power();
        } else {
            disk = disk.lose_power();
        }
    }
    let store = open(&disk, options(seed, mode)).expect("opened");
    run(async { check(&ledger, &store).await });
    assert!(store.current_revision() > LOSSES, "hardly anything was written");
    drop(store);
    disk.files()
}

#[test]
fn a_thousand_power_losses_under_eight_writers() {
    for seed in 0..CHAINS * soak() {
        chain(seed, if seed % 2 == 0 { Writer::Thread } else { Writer::Inline });
    }
}

#[test]
fn without_threads_a_seed_gives_the_same_bytes_twice() {
    for seed in 1000..1005 {
        assert_eq!(chain(seed, Writer::Inline), chain(seed, Writer::Inline), "seed {seed}");
    }
}
