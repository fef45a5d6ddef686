//! Disks that are full or fail: what is refused, what goes on, and that a failed sync is final.

use std::io::ErrorKind;
use std::sync::Arc;

use store::simdisk::{Operation, SimDisk};
use store::{EmbeddedStore, Options, Retention, Store, StoreError, Txn, Writer};

use crate::held_disk::HeldDisk;
use crate::support::{all, open, put, run, small};

#[test]
fn a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room() {
    for mode in [Writer::Inline, Writer::Thread] {
        run(async {
            let disk = SimDisk::new(1);
            let options = || Options { mode, retention: Retention::manual(), ..small(1) };
            let store = open(&disk, options()).expect("opened");
            let mut watch = store.watch("", 1).await.expect("watched");
            put(&store, "/before", "1").await.expect("put");
            disk.set_capacity(Some(disk.used() + 6000));
            let mut written = 1;
            let refused = loop {
                match put(&store, &format!("/n/{written}"), vec![b'x'; 700]).await {
                    Ok(revision) => written = revision,
                    Err(error) => break error,
                }
            };
            let StoreError::DiskFull(what) = &refused else { panic!("{refused}") };
            assert!(what.contains("simulated/") && written > 3, "{what} after {written}");
            assert!(matches!(put(&store, "/again", vec![0; 3000]).await, Err(StoreError::DiskFull(_))));
            assert_eq!(store.current_revision(), written, "nothing happened");
            assert!(store.get("/before").await.expect("read").is_some(), "reads go on");
            for revision in 2..=written {
                assert_eq!(watch.next().await.expect("open").expect("told").revision, revision);
            }
            disk.set_capacity(None);
            assert_eq!(put(&store, "/after", "1").await, Ok(written + 1), "room again");
            let before = all(&store).await;
            drop(store);
            let store = open(&disk, options()).expect("opened");
            assert_eq!((all(&store).await, store.current_revision()), (before, written + 1));
        });
    }
}

#[test]
fn a_store_opens_on_a_full_disk() {
    run(async {
        let disk = SimDisk::new(1);
        let store = open(&disk, small(1)).expect("opened");
        put(&store, "/a", "1").await.expect("put");
        drop(store);
        disk.set_capacity(Some(disk.used()));
        let store = open(&disk, small(1)).expect("opened although full");
        assert_eq!(all(&store).await[0].value, "1");
        let store = open(&disk.kill(), small(1)).expect("opened although full and not closed");
        assert_eq!(all(&store).await[0].value, "1");
    });
}

#[test]
fn a_write_that_found_no_space_after_all_did_not_happen() {
    run(async {
        let disk = SimDisk::new(1);
        let store = open(&disk, small(1)).expect("opened");
        put(&store, "/a", "1").await.expect("put");
        // The zeros are there already: this is the record itself, as on a file system that copies on write.
        disk.fail_next(Operation::Write, ErrorKind::StorageFull);
        let refused = put(&store, "/a", "2").await;
        assert!(matches!(refused, Err(StoreError::DiskFull(_))), "{refused:?}");
        let after = open(&disk.kill(), small(1)).expect("opened");
        assert_eq!((&all(&after).await[0].value[..], after.current_revision()), (&b"1"[..], 2));
    });
}

#[test]
fn a_failed_sync_is_final() {
    for mode in [Writer::Inline, Writer::Thread] {
        run(async {
            let disk = SimDisk::new(1);
            let options = || Options { mode, ..small(1) };
            let store = open(&disk, options()).expect("opened");
            put(&store, "/a", "1").await.expect("put");
            disk.fail_next(Operation::Sync, ErrorKind::Other);
            let failed = put(&store, "/a", "2").await.expect_err("not durable");
            assert!(matches!(&failed, StoreError::Stopped(why) if why.contains("fsync")), "{failed}");
            let before = disk.operations();
            assert_eq!(put(&store, "/a", "3").await, Err(failed));
            assert_eq!(all(&store).await[0].value, "1", "reads go on");
            store.close().await.expect("closed");
            assert_eq!(disk.operations(), before, "the disk is not touched any more");
            let store = open(&disk.lose_power(), options()).expect("opened again");
            assert!(matches!(&all(&store).await[0].value[..], b"1" | b"2"));
        });
    }
}

#[test]
fn what_a_failed_sync_left_in_memory_is_shown_only_once_it_is_durable() {
    let mut shown = [0; 2];
    for seed in 0..200 {
        run(async {
            let disk = SimDisk::new(seed);
            let store = open(&disk, small(1)).expect("opened");
            put(&store, "/a", "1").await.expect("put");
            disk.fail_next(Operation::Sync, ErrorKind::Other);
            put(&store, "/a", "2").await.expect_err("not durable");
            // The next process finds the record in the system's memory, where it looks as if it were on the disk.
            let disk = disk.kill();
            let store = open(&disk, small(1)).expect("opened");
            let before = all(&store).await;
            shown[usize::from(before[0].value == "2")] += 1;
            let store = open(&disk.lose_power(), small(1)).expect("opened");
            assert_eq!(all(&store).await, before, "seed {seed}");
        });
    }
    assert!(shown[1] > 0, "the record was never found");
}

#[test]
fn a_mark_whose_sync_failed_is_not_built_upon() {
    for seed in 0..100 {
        run(async {
            let disk = SimDisk::new(seed);
            let store = open(&disk, small(1)).expect("opened");
            put(&store, "/a", "1").await.expect("put");
            disk.fail_next(Operation::Sync, ErrorKind::Other);
            store.close().await.expect("closed, if not in good order");
            let disk = disk.kill();
            let store = open(&disk, small(1)).expect("opened");
            put(&store, "/a", "2").await.expect("put");
            let store = open(&disk.lose_power(), small(1)).expect("opened");
            assert_eq!(all(&store).await[0].value, "2", "seed {seed}");
        });
    }
}

#[test]
fn no_snapshot_for_want_of_room_loses_nothing_and_is_made_up_for() {
    let newest =
        |disk: &SimDisk| disk.files().into_keys().rfind(|name| name.ends_with(".snap")).expect("one");
    for mode in [Writer::Inline, Writer::Thread] {
        run(async {
            let disk = SimDisk::new(1);
            let options = || Options { mode, ..small(1) };
            let store = open(&disk, options()).expect("opened");
            for number in 0..100 {
                put(&store, &format!("/large/{number:02}"), vec![b'x'; 1000]).await.expect("put");
            }
            store.close().await.expect("closed");
            let store = open(&disk, options()).expect("opened");
            let before = newest(&disk);
            // A snapshot needs 100 KiB and there are 60: the log fills up first.
            disk.set_capacity(Some(disk.used() + (60 << 10)));
            let mut last = 0;
            while let Ok(revision) = put(&store, "/small", vec![b'y'; 100]).await {
                last = revision;
            }
            assert!(last > 150 && newest(&disk) == before, "{last} with {}", newest(&disk));
            disk.set_capacity(None);
            for _ in 0..200 {
                put(&store, "/small", vec![b'z'; 100]).await.expect("room again");
            }
            let stored = all(&store).await;
            store.close().await.expect("closed");
            assert!(newest(&disk) > before, "a snapshot after all");
            let store = open(&disk, options()).expect("opened");
            assert_eq!((all(&store).await, store.current_revision()), (stored, last + 200));
        });
    }
}

#[test]
fn a_snapshot_that_is_being_written_gives_its_room_to_a_write() {
    run(async {
        let disk = SimDisk::new(1);
        let held = HeldDisk::new(disk.clone());
        let options = || Options { mode: Writer::Thread, ..small(1) };
        let store = EmbeddedStore::open(Arc::new(held.clone()), options()).expect("opened");
        // A snapshot of these has more than one block. Written in a thread, it waits for the log to be refused.
        let mut last = 0;
        for number in 0..400 {
            last = put(&store, &format!("/large/{number:03}"), vec![b'x'; 1000]).await.expect("put");
        }
        held.wait_for(|met| met.snapshot_waits);
        assert!(!held.met().log_refused);
        disk.set_capacity(Some(disk.used()));
        while !held.met().log_refused {
            last = put(&store, "/small", vec![b'y'; 100]).await.expect("the snapshot gave way");
        }
        disk.set_capacity(None);
        put(&store, "/small", "after").await.expect("room again");
        store.close().await.expect("closed");
        let store = open(&disk, options()).expect("opened");
        assert_eq!((all(&store).await.len(), store.current_revision()), (401, last + 1));
    });
}

#[test]
fn the_log_stays_small_while_history_is_forgotten() {
    for mode in [Writer::Inline, Writer::Thread] {
        run(async {
            let disk = SimDisk::new(1);
            let store = open(&disk, Options { mode, ..small(1) }).expect("opened");
            let mut largest = 0;
            for number in 0..2000_u64 {
                put(&store, &format!("/a/{}", number % 10), vec![b'x'; 300]).await.expect("put");
                largest = largest.max(disk.used());
            }
            store.close().await.expect("closed");
            // 2,000 records of a sector and more are a megabyte and more.
            assert!(largest < 200 << 10, "{largest} bytes");
            assert!(disk.files().keys().any(|name| name.ends_with(".snap")));
            let store = open(&disk, small(1)).expect("opened");
            assert_eq!(store.current_revision(), 2001);
            assert_eq!(all(&store).await.len(), 10);
            store.commit(Txn::new().delete("/a/1")).await.expect("goes on");
        });
    }
}
