//! What an etcd must not be, and what it never gets to see.

use std::time::Duration;

use store::{Encryption, EncryptionKey, EtcdOptions, EtcdStore, EtcdTls, Store, StoreError, Txn};

use super::harness::Etcd;
use crate::support::put;

fn encryption(id: u32) -> Encryption {
    let secret = [u8::try_from(id).expect("small"); 32];
    Encryption { prefixes: vec!["/registry/secrets/".to_owned()], keys: vec![EncryptionKey { id, secret }] }
}

async fn refused(options: EtcdOptions) -> String {
    EtcdStore::open(options).await.expect_err("it must be refused").to_string()
}

#[tokio::test]
async fn secrets_are_sealed_and_strangers_are_refused() {
    let etcd = Etcd::start(1).await;
    let options = |identity: &str, id| EtcdOptions { encryption: encryption(id), ..etcd.options(identity) };
    let store = EtcdStore::open(options("ours", 1)).await.expect("opened");
    put(&store, "/registry/secrets/a/s", "hunter2").await.expect("put");
    put(&store, "/registry/configmaps/a/c", "plain").await.expect("put");
    let mut watch = store.watch("/registry/", 1).await.expect("watched");
    let event = watch.next().await.expect("open").expect("not compacted");
    assert_eq!(event.value.as_deref(), Some(&b"hunter2"[..]), "watches decrypt");

    // Somebody with etcd's credentials alone.
    let bare = EtcdStore::open(etcd.options("ours")).await.expect("opened");
    let raw = bare.get("/registry/secrets/a/s").await.expect("read").expect("there").value;
    assert!(!String::from_utf8_lossy(&raw).contains("hunter2"));
    assert_eq!(bare.get("/registry/configmaps/a/c").await.expect("read").expect("there").value, "plain");
    assert_eq!(store.get("/registry/secrets/a/s").await.expect("read").expect("there").value, "hunter2");

    let words = refused(options("ours", 2)).await;
    assert!(words.contains("encrypted with key 1") && words.contains("copy the encryption keys"), "{words}");
    let words = refused(options("theirs", 1)).await;
    assert!(words.contains("belongs to cluster ours") && words.contains("cluster theirs"), "{words}");

    // A new key in front, then without the old one: what is stored at the start is sealed anew.
    let mut rotated = encryption(2);
    rotated.keys.extend(encryption(1).keys);
    EtcdStore::open(EtcdOptions { encryption: rotated, ..etcd.options("ours") }).await.expect("opened");
    EtcdStore::open(options("ours", 2)).await.expect("the old key is not needed for what the start reads");

    // Without our certificate, or trusting another CA, nothing is said and nothing is waited for too long.
    let stranger = EtcdOptions { tls: None, patience: Duration::from_millis(100), ..etcd.options("ours") };
    assert!(refused(stranger).await.contains("https needs a CA file"));
    let other = Etcd::start(1).await;
    let mut mistaken = EtcdOptions { patience: Duration::from_millis(100), ..etcd.options("ours") };
    mistaken.tls = other.options("x").tls;
    let words = refused(mistaken).await;
    assert!(words.contains("certificate"), "{words}");

    // Members of different clusters in one list.
    let mut mixed = etcd.options("ours");
    mixed.endpoints.extend(other.options("x").endpoints);
    mixed.tls = None;
    assert!(EtcdStore::open(mixed).await.is_err());
}

#[tokio::test]
async fn a_registry_without_a_mark_is_somebody_elses() {
    let etcd = Etcd::start(1).await;
    let store = EtcdStore::open(etcd.options("stock")).await.expect("opened");
    put(&store, "/registry/pods/a/b", "k8s").await.expect("put");
    store.commit(Txn::new().delete("/skiff/cluster")).await.expect("deleted");
    let words = refused(etcd.options("ours")).await;
    assert!(words.contains("holds 1 keys under /registry/ of a cluster that is not ours"), "{words}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_nothing_else_suffers() {
    let etcd = Etcd::start(1).await;
    let store = EtcdStore::open(etcd.options("ours")).await.expect("opened");
    for size in [1_600_000, 3 << 20] {
        let large = put(&store, "/registry/a", vec![b'x'; size]).await;
        let Err(StoreError::BadTransaction(words)) = large else { panic!("{large:?}") };
        assert!(words.contains("large"), "{words}");
    }
    let many = (0..200).fold(Txn::new(), |txn, number| txn.put(format!("/registry/{number}"), "x"));
    assert!(matches!(store.commit(many).await, Err(StoreError::BadTransaction(_))));
    put(&store, "/registry/a", vec![b'x'; 1 << 20]).await.expect("put");
    assert_eq!(store.get("/registry/a").await.expect("read").expect("there").value.len(), 1 << 20);
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_named() {
    let mut options = EtcdOptions::new(vec!["http://127.0.0.1:1".to_owned()], "ours");
    options.patience = Duration::from_millis(300);
    let words = refused(options).await;
    assert!(words.contains("http://127.0.0.1:1") && words.contains("refused"), "{words}");
    for bad in ["127.0.0.1:2379", "ftp://x", "https://", "http://h/path", ""] {
        let error = EtcdStore::open(EtcdOptions::new(vec![bad.to_owned()], "ours")).await;
        assert!(matches!(error, Err(StoreError::InvalidOptions(_))), "{bad}: {error:?}");
    }
    assert!(EtcdTls::from_pem(b"nothing", None).is_err());
}
