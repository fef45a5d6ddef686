//! Nothing that must be secret reaches the disk readable, from the first write on, and keys can be rotated.

use store::simdisk::SimDisk;
use store::{Encryption, EncryptionKey, Options, StoreError};

use crate::support::{all, open, put, run, small};

fn with_keys(ids: &[u8]) -> Options {
    let keys = ids.iter().map(|id| EncryptionKey { id: u32::from(*id), secret: [*id; 32] }).collect();
    Options { encryption: Encryption { prefixes: vec!["/secrets/".to_owned()], keys }, ..small(4) }
}

fn readable(disk: &SimDisk, text: &[u8]) -> bool {
    disk.files().values().any(|bytes| bytes.windows(text.len()).any(|window| window == text))
}

#[test]
fn no_file_ever_holds_a_secret() {
    run(async {
        let disk = SimDisk::new(1);
        let store = open(&disk, with_keys(&[1])).expect("opened");
        for number in 0..100 {
            let value = format!("{number} hunter2 {}", "x".repeat(300));
            put(&store, &format!("/secrets/{}", number % 10), value).await.expect("put");
            put(&store, "/config", "open to all").await.expect("put");
            assert!(!readable(&disk, b"hunter2"), "after {number}");
        }
        assert!(readable(&disk, b"open to all"));
        assert!(disk.files().keys().any(|name| name.ends_with(".snap")), "snapshots too");
        drop(store);
        let store = open(&disk, with_keys(&[1])).expect("opened");
        assert_eq!(all(&store).await[10].value, format!("99 hunter2 {}", "x".repeat(300)));
    });
}

#[test]
fn a_key_can_be_replaced_and_a_missing_one_is_named() {
    run(async {
        let disk = SimDisk::new(1);
        let store = open(&disk, with_keys(&[1])).expect("opened");
        put(&store, "/secrets/a", "old").await.expect("put");
        drop(store);
        let missing = StoreError::UnknownEncryptionKey { key: "/secrets/a".to_owned(), key_id: 1 };
        assert_eq!(open(&disk, with_keys(&[2])).err(), Some(missing));
        let store = open(&disk, with_keys(&[2, 1])).expect("both");
        assert_eq!(all(&store).await[0].value, "old");
        for number in 0..200 {
            put(&store, &format!("/a/{}", number % 10), vec![b'x'; 300]).await.expect("put");
        }
        drop(store);
        let store = open(&disk, with_keys(&[2])).expect("a snapshot has rewritten all of it");
        assert_eq!(all(&store).await.last().expect("there").value, "old");
    });
}
