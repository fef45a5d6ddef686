//! Damage by others: a store either names the file and the place, or serves exactly what was stored.

use std::collections::BTreeMap;

use store::simdisk::SimDisk;
use store::{Encryption, EncryptionKey, Item, Options, Retention, Revision, Store, StoreError, Txn, Watch};

use crate::support::{all, open, put, run, small};

fn options() -> Options {
    let encryption = Encryption {
        prefixes: vec!["/secret/".to_owned()],
        keys: vec![EncryptionKey { id: 3, secret: [9; 32] }],
    };
    Options { encryption, ..small(5) }
}

/// The files of a store with a snapshot, a few segments and encrypted values, and what it serves.
fn stored() -> (BTreeMap<String, Vec<u8>>, Served) {
    let disk = SimDisk::new(5);
    let store = open(&disk, options()).expect("opened");
    run(async {
        for number in 0..30 {
            put(&store, &format!("/plain/{}", number % 9), vec![b'a' + number; 350]).await.expect("put");
            put(&store, &format!("/secret/{}", number % 4), vec![b'A' + number; 100]).await.expect("put");
        }
        store.commit(Txn::new().delete("/plain/3").put("/plain/new", "x")).await.expect("committed");
    });
    drop(store);
    let files = disk.files();
    assert!(files.keys().any(|name| name.ends_with(".snap")), "a snapshot: {:?}", files.keys());
    assert!(files.keys().filter(|name| name.ends_with(".log")).count() > 1, "segments: {:?}", files.keys());
    let served = serve(&files).expect("opened");
    (files, served)
}

#[derive(Debug, PartialEq)]
struct Served {
    revision: Revision,
    items: Vec<Item>,
    /// Everything that can be watched.
    events: Vec<store::Event>,
}

fn serve(files: &BTreeMap<String, Vec<u8>>) -> Result<Served, StoreError> {
    let disk = SimDisk::holding(6, files.clone());
    let store = open(&disk, options())?;
    Ok(run(async {
        let items = all(&store).await;
        let watch = store.watch("", store.compacted_revision()).await.expect("watched");
        store.close().await.expect("closed");
        Served { revision: store.current_revision(), items, events: events(watch).await }
    }))
}

async fn events(mut watch: Watch) -> Vec<store::Event> {
    let mut events = Vec::new();
    while let Some(event) = watch.next().await {
        events.push(event.expect("not compacted"));
    }
    events
}

#[test]
fn a_flipped_bit_anywhere_is_named_or_harmless() {
    let (files, before) = stored();
    let (mut named, mut harmless) = (0, 0);
    for (name, bytes) in &files {
        for position in 0..bytes.len() {
            let mut damaged = files.clone();
            damaged.get_mut(name).expect("there")[position] ^= 1 << (position % 8);
            match serve(&damaged) {
                Ok(served) => {
                    assert_eq!(served, before, "{name} at {position}");
                    harmless += 1;
                }
                Err(StoreError::Corrupt { file, offset, .. }) => {
                    assert!(file.ends_with(name.as_str()), "{file} is not {name}");
                    assert!(offset <= position as u64, "{name}: {offset} is after {position}");
                    named += 1;
                }
                Err(other) => panic!("{name} at {position}: {other}"),
            }
        }
    }
    assert!(named > 1000 && harmless > 100, "{named} named, {harmless} harmless");
}

#[test]
fn zeroed_sectors_cut_files_and_missing_segments_are_named_or_harmless() {
    let (files, before) = stored();
    let check = |damaged: BTreeMap<String, Vec<u8>>, what: String| match serve(&damaged) {
        Ok(served) => assert_eq!(served, before, "{what}"),
        Err(StoreError::Corrupt { .. }) => {}
        Err(other) => panic!("{what}: {other}"),
    };
    for (name, bytes) in &files {
        for sector in 0..bytes.len() / 512 {
            let mut damaged = files.clone();
            damaged.get_mut(name).expect("there")[sector * 512..][..512].fill(0);
            check(damaged, format!("{name}: sector {sector} zeroed"));
        }
    }
    // What ends the newest segment looks like a write that never finished; everything before is known to be complete.
    let newest = files.keys().rfind(|name| name.ends_with(".log")).expect("a segment");
    for name in files.keys().filter(|name| *name != newest) {
        for length in (0..files[name].len()).step_by(100) {
            let mut damaged = files.clone();
            damaged.get_mut(name).expect("there").truncate(length);
            check(damaged, format!("{name} cut to {length}"));
        }
        let mut damaged = files.clone();
        damaged.remove(name);
        check(damaged, format!("{name} removed"));
    }
}

#[test]
fn a_bad_record_in_the_middle_is_no_torn_tail() {
    let disk = SimDisk::new(1);
    let manual = Options { retention: Retention::manual(), segment_bytes: 1 << 20, ..small(1) };
    let store = open(&disk, manual.clone()).expect("opened");
    run(async {
        for number in 0..10 {
            put(&store, "/a", format!("value {number}")).await.expect("put");
        }
    });
    let disk = disk.kill();
    let mut files = disk.files();
    let (name, bytes) = files.iter_mut().next().expect("a segment");
    let middle = bytes.windows(7).position(|window| window == b"value 5").expect("stored");
    let last = bytes.windows(7).position(|window| window == b"value 9").expect("stored");
    bytes[middle] ^= 1;
    let name = name.clone();
    match open(&SimDisk::holding(2, files.clone()), manual.clone()) {
        Err(StoreError::Corrupt { file, offset, what }) => {
            assert_eq!((file, offset), (format!("simulated/{name}"), middle as u64 / 512 * 512));
            assert!(what.contains("checksum") && what.contains("follows"), "{what}");
        }
        other => panic!("{other:?}"),
    }
    // The very last record of a store that was killed may be a write that was never finished.
    let bytes = files.get_mut(&name).expect("there");
    bytes[middle] ^= 1;
    bytes[last] ^= 1;
    let store = open(&SimDisk::holding(3, files), manual).expect("opened");
    let torn = store.recovery().torn.clone().expect("reported");
    assert_eq!((torn.file, torn.offset), (format!("simulated/{name}"), last as u64 / 512 * 512));
    assert_eq!(run(all(&store))[0].value, "value 8");
}
