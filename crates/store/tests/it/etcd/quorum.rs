//! Members that die, freeze and come back: writes go on, or fail soon and clearly; nothing acknowledged is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use store::{Compare, EtcdStore, EventKind, ListOptions, Outcome, Store, StoreError, Txn, Watch};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::harness::Etcd;
use crate::support::{put, soak};

const WRITERS: usize = 4;
const CYCLES: u64 = 5;
/// What is promised of one member's loss; and how soon after etcd has elected, should that alone have taken longer: how
/// often a vote is split is not ours to promise.
const ONE_LOST: Duration = Duration::from_secs(3);
const ONCE_ELECTED: Duration = Duration::from_millis(2500);
/// What is promised of a write without quorum, and of the way back.
const PROMISE: Duration = Duration::from_secs(10);

/// What writers were told, by key: the number that was last acknowledged, and its revision.
type Ledger = Arc<watch::Sender<BTreeMap<String, (u64, u64)>>>;

/// How many writes are acknowledged after each cycle before the next begins.
const BETWEEN: u64 = 40;

fn acknowledged(ledger: &BTreeMap<String, (u64, u64)>) -> u64 {
    ledger.values().map(|(number, _)| number).sum()
}

/// Counts a key up, each time only if it holds what it should, until told to stop. Nothing may go backwards or be done
/// twice, whatever happens to the answers.
async fn count(store: Arc<EtcdStore>, key: String, ledger: Ledger, stop: CancellationToken) {
    let mut at: Option<(u64, u64)> = None;
    while !stop.is_cancelled() {
        let number = at.map_or(0, |(number, _)| number) + 1;
        let compare = at.map_or(Compare::Absent, |(_, revision)| Compare::ModRevision(revision));
        let txn = Txn::new().when(&*key, compare).put(&*key, number.to_string());
        match store.commit(txn).await {
            Ok(Outcome::Committed { revision }) => {
                at = Some((number, revision));
                ledger.send_modify(|ledger| {
                    ledger.insert(key.clone(), (number, revision));
                });
            }
            Ok(Outcome::Conflict { current, .. }) => panic!("{key}: nobody else writes it, but {current:?}"),
            Err(StoreError::Unavailable(_)) => {}
            Err(StoreError::OutcomeUnknown(_)) => {
                // A reader decides, once there is one: either it happened or it did not.
                let Some(found) = read(&store, &key, &stop).await else { return };
                let known = at.map_or(0, |(number, _)| number);
                let now = found.map(|(value, revision)| (value.parse().expect("a number"), revision));
                assert!(now.map_or(0, |(number, _)| number) - known <= 1, "{key}: done twice");
                at = now;
            }
            Err(other) => panic!("{key}: {other}"),
        }
    }
}

/// What a key holds, asked until there is an answer.
async fn read(store: &EtcdStore, key: &str, stop: &CancellationToken) -> Option<Option<(String, u64)>> {
    loop {
        match store.get(key).await {
            Ok(found) => {
                let text =
                    |item: store::Item| (String::from_utf8_lossy(&item.value).into(), item.mod_revision);
                return Some(found.map(text));
            }
            Err(StoreError::Unavailable(_)) if stop.is_cancelled() => return None,
            Err(StoreError::Unavailable(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

/// A write that may be sent again, as those of API servers may: of a key that is new.
async fn probe(store: &EtcdStore) -> Result<Outcome, StoreError> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let key = format!("/probe/{}", NEXT.fetch_add(1, Ordering::Relaxed));
    store.commit(Txn::new().when(&*key, Compare::Absent).put(&*key, "x")).await
}

/// How long it takes until a write is acknowledged.
async fn until_written(store: &EtcdStore) -> Duration {
    let begin = Instant::now();
    while let Err(error) = probe(store).await {
        let again = matches!(error, StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_));
        assert!(again && begin.elapsed() < 2 * PROMISE, "{error}");
    }
    begin.elapsed()
}

/// The key that ends the test.
const LAST: &str = "/count/last";

/// Follows everything, and checks that each key counts up by one, until the last one is written.
async fn witness(mut watch: Watch) -> BTreeMap<String, u64> {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut last = 0;
    while !seen.contains_key(LAST) {
        let batch = watch.next_batch().await.expect("a watch does not end").expect("nothing was compacted");
        assert!(batch.revision > last, "in order");
        last = batch.revision;
        for event in batch.events {
            assert_eq!(event.kind(), EventKind::Put);
            let number =
                String::from_utf8_lossy(event.value.as_ref().expect("put")).parse().expect("a number");
            let before = seen.insert(event.key.to_string(), number).unwrap_or(0);
            assert_eq!(number, before + 1, "{} is gapless", event.key);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_die_and_nothing_acknowledged_is_lost() {
    let mut etcd = Etcd::start(3).await;
    let store = Arc::new(EtcdStore::open(etcd.options("ours")).await.expect("opened"));
    let ledger = Ledger::default();
    let stop = CancellationToken::new();
    let watch = store.watch("/count/", store.current_revision()).await.expect("watched");
    let mut watching = tokio::task::JoinSet::new();
    watching.spawn(witness(watch));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(count(store.clone(), format!("/count/{writer}"), ledger.clone(), stop.clone()));
    }
    let mut progress = ledger.subscribe();
    for cycle in 0..CYCLES * soak() {
        let before = acknowledged(&progress.borrow_and_update());
        progress.wait_for(|ledger| acknowledged(ledger) >= before + BETWEEN).await.expect("it lives");
        // One of three: by turns the leader, killed or frozen, and a follower.
        let leader = etcd.leader().await;
        let first = if cycle % 3 == 2 { (leader + 1) % 3 } else { leader };
        let frozen = cycle % 2 == 1;
        if frozen {
            etcd.freeze(first, true)
        } else {
            etcd.kill(first)
        };
        let begin = Instant::now();
        let elected = async {
            etcd.leader_without(Some(first)).await;
            begin.elapsed()
        };
        let (took, elected) = tokio::join!(until_written(&store), elected);
        assert!(
            took < ONE_LOST.max(elected + ONCE_ELECTED),
            "cycle {cycle}: {took:?} with one member {}, elected after {elected:?}",
            if frozen { "frozen" } else { "lost" }
        );
        // Two of three.
        let second = (first + 1) % 3;
        etcd.kill(second);
        without_quorum(&store).await;
        // Healed.
        if frozen {
            etcd.freeze(first, false)
        } else {
            etcd.run(first)
        };
        etcd.run(second);
        let took = until_written(&store).await;
        assert!(took < PROMISE, "cycle {cycle}: {took:?} to resume");
    }
    stop.cancel();
    while let Some(writer) = writers.join_next().await {
        writer.expect("a writer");
    }
    finish(&store, &ledger, watching).await;
}

/// Writes and reads fail, each soon and with words.
async fn without_quorum(store: &EtcdStore) {
    let mut begin = Instant::now();
    let mut in_time = |what: &str| {
        assert!(begin.elapsed() < PROMISE, "{what}: {:?}", begin.elapsed());
        begin = Instant::now();
    };
    let error = probe(store).await.expect_err("there is no quorum");
    in_time("a write");
    let clear = matches!(error, StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_));
    assert!(clear && error.to_string().contains("https://127.0.0.1:"), "{error}");
    let error = store.newest_revision().await.expect_err("there is no quorum");
    in_time("a question");
    assert!(matches!(&error, StoreError::Unavailable(_)), "{error}");
    store.get("/probe").await.expect_err("reads fail as well");
    in_time("a read");
    store.check().await.expect_err("health says so");
    in_time("a check");
}

/// Everything that was acknowledged is there, and the watch saw all of it.
async fn finish(
    store: &EtcdStore,
    ledger: &Ledger,
    mut watching: tokio::task::JoinSet<BTreeMap<String, u64>>,
) {
    let listed = store.list("/count/", ListOptions::default()).await.expect("listed");
    put(store, LAST, "1").await.expect("put");
    let ledger = ledger.borrow();
    assert_eq!(listed.items.len(), WRITERS);
    let mut total = 0;
    for item in &listed.items {
        let number: u64 = String::from_utf8_lossy(&item.value).parse().expect("a number");
        let acknowledged = ledger[&*item.key];
        assert!(number >= acknowledged.0 && item.mod_revision >= acknowledged.1, "{}: lost", item.key);
        total += number;
    }
    assert!(total >= BETWEEN * CYCLES, "hardly anything was written: {total}");
    let seen = watching.join_next().await.expect("the witness").expect("it saw no gap");
    for item in &listed.items {
        assert_eq!(
            Some(&*item.value),
            seen.get(&*item.key).map(|number| number.to_string()).as_ref().map(String::as_bytes)
        );
    }
}

/// A member whose files are damaged does not come back; the others do without.
#[tokio::test]
async fn a_damaged_member_is_done_without() {
    let mut etcd = Etcd::start(3).await;
    let store = EtcdStore::open(etcd.options("ours")).await.expect("opened");
    put(&store, "/registry/a", "1").await.expect("put");
    etcd.kill(0);
    std::fs::write(etcd.data(0).join("member/snap/db"), vec![0x5a; 64 << 10]).expect("damaged");
    etcd.run(0);
    let took = until_written(&store).await;
    assert!(took < ONE_LOST, "{took:?}");
    let another = EtcdStore::open(etcd.options("ours")).await.expect("two are enough to open");
    assert_eq!(another.get("/registry/a").await.expect("read").expect("there").value, "1");
}
