//! Revisions, comparisons, pages, history and watches, as the trait describes them.

use std::sync::Arc;

use futures::FutureExt;
use store::simdisk::SimDisk;
use store::{
    Batch, Compare, EmbeddedStore, EventKind, FileDisk, ListOptions, Options, Outcome, Retention, Store,
    StoreError, Txn, Watch, Writer,
};

use crate::support::{all, open, put, run, small};

fn embedded() -> EmbeddedStore {
    open(&SimDisk::new(1), Options { retention: Retention::manual(), ..small(1) }).expect("opened")
}

/// Runs a part of the contract over each implementation. Revisions are relative to where the store begins: etcd's has
/// marks of its own, and a transaction without effect costs it a revision.
macro_rules! contract {
    ($($name:ident),*) => {$(
        mod $name {
            #[test]
            fn embedded() {
                crate::support::run(super::check::$name(&super::embedded()));
            }

            #[test]
            fn etcd() {
                crate::support::run(async {
                    let etcd = crate::etcd::harness::Etcd::start(1).await;
                    let store = store::EtcdStore::open(etcd.options("contract")).await.expect("opened");
                    super::check::$name(&store).await;
                });
            }
        }
    )*};
}

contract!(
    only_what_matches_is_changed_and_every_change_has_its_revision,
    pages_of_a_list_are_of_one_revision,
    compaction_ends_what_reaches_further_back_and_nothing_else,
    a_watch_tells_kinds_and_what_was_before_and_progress_of_others
);

mod check {
    use super::*;

    pub async fn only_what_matches_is_changed_and_every_change_has_its_revision(store: &dyn Store) {
        let begin = store.current_revision();
        assert!(begin >= 1, "0 can mean none");
        let create = Txn::new().when("/a", Compare::Absent).put("/a", "1").put("/b", "1");
        let first = begin + 1;
        assert_eq!(store.commit(create.clone()).await, Ok(Outcome::Committed { revision: first }));
        let Ok(Outcome::Conflict { key, current }) = store.commit(create).await else { panic!("a conflict") };
        assert_eq!((&*key, current.as_ref().map(|item| item.mod_revision)), ("/a", Some(first)));
        let update = |revision| Txn::new().when("/a", Compare::ModRevision(revision)).put("/a", "2");
        assert!(matches!(store.commit(update(begin)).await, Ok(Outcome::Conflict { .. })));
        let second = first + 1;
        assert_eq!(store.commit(update(first)).await, Ok(Outcome::Committed { revision: second }));
        let nothing = store.commit(Txn::new().delete("/none")).await.expect("committed");
        assert!(matches!(nothing, Outcome::Committed { revision } if revision >= second));
        let missing = Txn::new().when("/none", Compare::ModRevision(second)).put("/c", "1");
        let conflict = Outcome::Conflict { key: "/none".into(), current: None };
        assert_eq!(store.commit(missing).await, Ok(conflict));
        assert_eq!(store.get("/b").await.expect("read").expect("there").mod_revision, first);
        assert_eq!(store.get("/c").await, Ok(None));
        let twice = Txn::new().put("/a", "1").delete("/a");
        assert!(matches!(store.commit(twice).await, Err(StoreError::BadTransaction(_))));
        assert!((second..=second + 1).contains(&store.current_revision()));
        assert_eq!(store.newest_revision().await, Ok(store.current_revision()));
        assert_eq!(store.check().await, Ok(()));
    }

    pub async fn pages_of_a_list_are_of_one_revision(store: &dyn Store) {
        for number in 0..10 {
            put(store, &format!("/p/{number}"), "old").await.expect("put");
        }
        let at = put(store, "/q", "other").await.expect("put");
        let first = store.list("/p/", ListOptions { limit: 4, ..Default::default() }).await.expect("listed");
        assert_eq!((first.items.len(), first.more, first.remaining, first.revision), (4, true, 6, at));
        put(store, "/p/5", "new").await.expect("put");
        store.commit(Txn::new().delete("/p/6")).await.expect("deleted");
        let after = first.items.last().map(|item| &*item.key);
        let rest = ListOptions { at: Some(first.revision), limit: 0, after };
        let rest = store.list("/p/", rest).await.expect("listed");
        assert_eq!((rest.items.len(), rest.more, rest.remaining), (6, false, 0));
        assert!(rest.items.iter().all(|item| item.value == "old"));
        let exact = store.list("/p/", ListOptions { limit: 9, ..Default::default() }).await.expect("listed");
        assert_eq!((exact.items.len(), exact.more), (9, false));
        let keys = |listing: &store::Listing| listing.items.iter().map(|item| item.key.to_string()).collect();
        let keys: Vec<String> = keys(&exact);
        assert!(keys.is_sorted() && keys[6] == "/p/7", "{keys:?}");
        let future = ListOptions { at: Some(99), ..Default::default() };
        let current = store.current_revision();
        assert_eq!(store.list("/", future).await, Err(StoreError::Future { asked: 99, current }));
    }

    pub async fn compaction_ends_what_reaches_further_back_and_nothing_else(store: &dyn Store) {
        let mut at = Vec::new();
        for value in ["1", "2", "3", "4"] {
            at.push(put(store, "/a", value).await.expect("put"));
        }
        let ahead = store.watch("/", at[2]).await.expect("watched");
        store.compact(at[2]).await.expect("compacted");
        store.compact(at[1]).await.expect("no effect");
        let future = store.compact(99).await;
        assert!(matches!(future, Err(StoreError::Future { asked: 99, .. })), "{future:?}");
        let of = |revision| ListOptions { at: Some(revision), ..Default::default() };
        assert!(matches!(
            store.list("/a", of(at[1])).await,
            Err(StoreError::Compacted { asked, .. }) if asked == at[1]
        ));
        assert_eq!(store.list("/a", of(at[2])).await.expect("listed").items[0].value, "3");
        assert!(matches!(store.watch("/", at[1]).await, Err(StoreError::Compacted { .. })));
        let mut ahead = ahead;
        assert_eq!(ahead.next().await.expect("an event").expect("not compacted").revision, at[3]);
    }

    pub async fn a_watch_tells_kinds_and_what_was_before_and_progress_of_others(store: &dyn Store) {
        let begin = store.current_revision();
        let mut watch = store.watch("/a/", begin).await.expect("watched");
        assert!(watch.next_batch().now_or_never().is_none(), "nothing happened yet");
        put(store, "/a/1", "one").await.expect("put");
        put(store, "/b/1", "other").await.expect("put");
        store.commit(Txn::new().delete("/a/1").put("/a/2", "two")).await.expect("committed");
        let (mut told, mut seen) = (Vec::new(), begin);
        while seen < begin + 3 {
            let batch = watch.next_batch().await.expect("a batch").expect("not compacted");
            assert!(batch.revision > seen, "progress goes forward");
            seen = batch.revision;
            told.extend(batch.events);
        }
        assert_eq!(seen, begin + 3);
        let in_short: Vec<_> =
            told.iter().map(|event| (event.revision - begin, event.kind(), event.prev_revision)).collect();
        let expected = [(1, EventKind::Put, 0), (3, EventKind::Delete, begin + 1), (3, EventKind::Put, 0)];
        assert_eq!(in_short, expected);
        assert_eq!(told[1].prev_value.as_deref(), Some(&b"one"[..]));
        put(store, "/b/1", "again").await.expect("put");
        let progress = watch.next_batch().await.expect("a batch").expect("not compacted");
        assert_eq!(progress, Batch { events: vec![], revision: begin + 4 });
    }
}

/// What only a store with its own history in memory can promise.
#[test]
fn a_watch_that_is_overtaken_by_compaction_or_the_end_says_so() {
    run(async {
        let store = embedded();
        for value in ["1", "2", "3", "4"] {
            put(&store, "/a", value).await.expect("put");
        }
        let mut behind = store.watch("/", 2).await.expect("watched");
        store.compact(4).await.expect("compacted");
        assert_eq!(store.compacted_revision(), 4);
        assert_eq!(behind.next().await, Some(Err(StoreError::Compacted { asked: 2, oldest: 4 })));
        assert_eq!(behind.next().await, None, "nothing follows an error");
        let mut watch = store.watch("/", 5).await.expect("watched");
        store.close().await.expect("closed");
        assert!(watch.next_batch().await.is_none(), "a watch ends with its store");
        assert!(matches!(put(&store, "/a/1", "late").await, Err(StoreError::Stopped(_))));
        assert_eq!(all(&store).await.len(), 1, "reads go on");
    });
}

/// Reads until a revision and checks that nothing is missing, doubled or out of order.
async fn follow(mut watch: Watch, from: u64, until: u64) {
    let mut seen = from;
    while seen < until {
        let batch = watch.next_batch().await.expect("open").expect("not compacted");
        for event in &batch.events {
            assert_eq!(event.revision, seen + 1, "each transaction here is one event");
            seen = event.revision;
        }
        assert_eq!(batch.revision, seen);
    }
}

#[test]
fn watches_are_gapless_while_many_write() {
    const WRITERS: u64 = 8;
    const EACH: u64 = 250;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let disk = Arc::new(FileDisk::new(folder.path().join("store")).expect("a disk"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let options = Options { retention: Retention::manual(), mode: Writer::Thread, ..Options::default() };
        let store = Arc::new(EmbeddedStore::open(disk, options).expect("opened"));
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = store.clone();
            tasks.spawn(async move {
                for number in 0..EACH {
                    let key = format!("/w/{writer}/{}", number % 10);
                    let revision = put(&*store, &key, format!("{number}")).await.expect("put");
                    // Also from the middle of what is going on.
                    if number % 50 == 10 {
                        let watch = store.watch("/w/", revision - 9).await.expect("watched");
                        follow(watch, revision - 9, revision).await;
                    }
                }
            });
        }
        let whole = store.watch("", 1).await.expect("watched");
        tasks.spawn(follow(whole, 1, 1 + WRITERS * EACH));
        while let Some(done) = tasks.join_next().await {
            done.expect("a task");
        }
        assert_eq!(store.current_revision(), 1 + WRITERS * EACH);
    });
}

#[test]
fn a_directory_has_one_store_at_a_time() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let disk = Arc::new(FileDisk::new(folder.path()).expect("a disk"));
    let first = EmbeddedStore::open(disk.clone(), Options::default()).expect("opened");
    let refused = EmbeddedStore::open(disk.clone(), Options::default()).expect_err("in use");
    let StoreError::InUse(what) = &refused else { panic!("{refused}") };
    assert!(what.contains(&folder.path().display().to_string()), "{what}");
    assert!(what.contains(&std::process::id().to_string()), "{what}");
    drop(first);
    EmbeddedStore::open(disk, Options::default()).expect("free again");
}
