//! Several servers on one etcd: each sees what the others did, and one of them compacts.

use std::collections::BTreeSet;
use std::sync::Arc;

use store::{Compare, EtcdStore, ListOptions, Outcome, Store, StoreError, Txn};

use super::harness::Etcd;
use crate::support::put;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_writes_another_reads_and_watches() {
    let etcd = Etcd::start(1).await;
    let (a, b) = (EtcdStore::open(etcd.options("ours")), EtcdStore::open(etcd.options("ours")));
    let (a, b) = (a.await.expect("opened"), b.await.expect("opened"));
    let mut watch = b.watch("/w/", b.current_revision()).await.expect("watched");
    for number in 0..20 {
        let revision = put(&a, "/w/key", format!("{number}")).await.expect("put");
        assert!(b.newest_revision().await.expect("asked") >= revision, "by the word of a quorum");
        let seen = b.get("/w/key").await.expect("read").expect("there");
        assert_eq!((seen.value, seen.mod_revision), (format!("{number}").into(), revision));
        assert_eq!(watch.next().await.expect("open").expect("not compacted").revision, revision);
        // What others write elsewhere is progress, without events: whoever waits for a revision need not wait for a write.
        let elsewhere = put(&a, "/elsewhere", "x").await.expect("put");
        let batch = watch.next_batch().await.expect("open").expect("not compacted");
        assert_eq!((batch.events.len(), batch.revision), (0, elsewhere));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_want_the_same_key_one_gets_it() {
    let etcd = Etcd::start(1).await;
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(Arc::new(EtcdStore::open(etcd.options("ours")).await.expect("opened")));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for (number, store) in stores.iter().cycle().take(12).cloned().enumerate() {
        tasks.spawn(async move {
            let mut got = Vec::new();
            for key in 0..40 {
                let key = format!("/claims/{key}");
                let claim = Txn::new().when(&*key, Compare::Absent).put(&*key, format!("{number}"));
                match store.commit(claim).await.expect("decided") {
                    Outcome::Committed { .. } => got.push(key),
                    Outcome::Conflict { current, .. } => assert!(current.is_some(), "it tells who was first"),
                }
            }
            got
        });
    }
    let got: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!((got.len(), got.iter().collect::<BTreeSet<_>>().len()), (40, 40));
}

#[tokio::test]
async fn one_compacts_and_the_others_wait_for_the_next_time() {
    let etcd = Etcd::start(1).await;
    let a = EtcdStore::open(etcd.options("ours")).await.expect("opened");
    let b = EtcdStore::open(etcd.options("ours")).await.expect("opened");
    let mut revisions = Vec::new();
    for number in 0..6 {
        revisions.push(put(&a, "/k", format!("{number}")).await.expect("put"));
    }
    let at = |revision| ListOptions { at: Some(revision), ..ListOptions::default() };
    a.compact(revisions[1]).await.expect("compacted");
    let gone = StoreError::Compacted { asked: revisions[0], oldest: revisions[1] };
    assert_eq!(b.list("/k", at(revisions[0])).await, Err(gone));
    b.compact(revisions[3]).await.expect("somebody else had done it this time");
    assert_eq!(b.list("/k", at(revisions[2])).await.expect("still there").items[0].value, "2");
    b.compact(revisions[3]).await.expect("compacted");
    assert!(matches!(a.list("/k", at(revisions[2])).await, Err(StoreError::Compacted { .. })));
    a.compact(revisions[4]).await.expect("not its turn");
    assert_eq!(a.list("/k", at(revisions[3])).await.expect("still there").items[0].value, "3");
}
