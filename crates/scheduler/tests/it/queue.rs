//! Whose turn it is, on paused time.

use std::sync::Arc;
use std::time::Duration;

use scheduler::demand::Demand;
use scheduler::filter::Help;
use scheduler::queue::Queue;
use serde_json::json;
use tokio::time::{Instant, advance};

use crate::{key, pod};

fn offer(queue: &mut Queue, name: &str, over: &serde_json::Value) {
    queue.offer(key(name), Arc::new(Demand::of(pod(name, over))), Instant::now());
}

fn take(queue: &mut Queue) -> Option<String> {
    let now = Instant::now();
    queue.promote(now);
    queue.take(now).map(|(key, _)| key.name)
}

#[tokio::test(start_paused = true)]
async fn priority_then_age_then_arrival() {
    let mut queue = Queue::default();
    let old = json!({"metadata": {"creationTimestamp": "2025-01-01T00:00:00Z"}});
    offer(&mut queue, "second", &json!({}));
    offer(&mut queue, "third", &json!({}));
    offer(&mut queue, "first", &old);
    offer(&mut queue, "urgent", &json!({"spec": {"priority": 10}}));
    offer(
        &mut queue,
        "late",
        &json!({"spec": {"priority": -10}, "metadata": {"creationTimestamp": "2024-01-01T00:00:00Z"}}),
    );
    let order: Vec<String> = std::iter::from_fn(|| take(&mut queue)).collect();
    assert_eq!(order, ["urgent", "first", "second", "third", "late"]);
    assert_eq!(queue.lengths(), [0, 0, 0, 5]);
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_from_one_second_to_ten() {
    let mut queue = Queue::default();
    offer(&mut queue, "p", &json!({}));
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(take(&mut queue).as_deref(), Some("p"));
        let now = Instant::now();
        queue.failed(&key("p"), now);
        assert_eq!(take(&mut queue), None);
        let due = queue.next_due().expect("backs off");
        waits.push((due - now).as_secs());
        advance(due - now).await;
    }
    assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_pod_waits_for_what_helps_it_or_five_minutes() {
    let mut queue = Queue::default();
    offer(&mut queue, "p", &json!({}));
    take(&mut queue);
    queue.refused(&key("p"), Instant::now());
    advance(Duration::from_secs(20)).await;
    queue.wake(Instant::now(), |_| Help::None);
    assert_eq!(take(&mut queue), None, "nothing that helps");
    queue.wake(Instant::now(), |_| Help::Room);
    assert_eq!(take(&mut queue).as_deref(), Some("p"), "it has backed off already");
    queue.refused(&key("p"), Instant::now());
    advance(Duration::from_secs(299)).await;
    assert_eq!(take(&mut queue), None);
    advance(Duration::from_secs(1)).await;
    assert_eq!(take(&mut queue).as_deref(), Some("p"), "flushed");
}

#[tokio::test(start_paused = true)]
async fn what_helps_soon_after_a_refusal_still_lets_it_back_off() {
    let mut queue = Queue::default();
    offer(&mut queue, "p", &json!({}));
    take(&mut queue);
    // While its refusal is being written.
    queue.wake(Instant::now(), |_| Help::News);
    queue.refused(&key("p"), Instant::now());
    assert_eq!(take(&mut queue), None);
    advance(Duration::from_secs(1)).await;
    assert_eq!(take(&mut queue).as_deref(), Some("p"), "the event was not lost");
}

#[tokio::test(start_paused = true)]
async fn room_ends_a_backoff_early_if_nobody_else_waits_and_it_lasts() {
    let mut queue = Queue::default();
    let early =
        |queue: &mut Queue, fits: bool| queue.take_early(Instant::now(), |_| fits).map(|(key, _)| key.name);
    offer(&mut queue, "p", &json!({}));
    take(&mut queue);
    queue.refused(&key("p"), Instant::now());
    queue.wake(Instant::now(), |_| Help::Room);
    assert_eq!(take(&mut queue), None, "it backs off");
    assert_eq!(early(&mut queue, false), None, "another pod took the room");
    assert_eq!(early(&mut queue, true), None, "once is enough");
    queue.wake(Instant::now(), |_| Help::Room);
    assert_eq!(early(&mut queue, true).as_deref(), Some("p"));
    queue.failed(&key("p"), Instant::now());
    queue.wake(Instant::now(), |_| Help::Room);
    assert_eq!(early(&mut queue, true), None, "room does not help against errors");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_pod_is_worth_a_try_but_its_status_is_not() {
    let mut queue = Queue::default();
    offer(&mut queue, "p", &json!({}));
    take(&mut queue);
    queue.refused(&key("p"), Instant::now());
    advance(Duration::from_secs(5)).await;
    offer(&mut queue, "p", &json!({"metadata": {"resourceVersion": "2"}, "status": {"phase": "Pending"}}));
    assert_eq!(take(&mut queue), None);
    offer(&mut queue, "p", &json!({"spec": {"tolerations": [{"operator": "Exists"}]}}));
    assert_eq!(take(&mut queue).as_deref(), Some("p"));
    queue.remove(&key("p"));
    assert_eq!(queue.lengths(), [0; 4]);
}

#[tokio::test(start_paused = true)]
async fn another_pod_of_the_same_name_starts_anew() {
    let mut queue = Queue::default();
    offer(&mut queue, "p", &json!({}));
    take(&mut queue);
    queue.refused(&key("p"), Instant::now());
    offer(&mut queue, "p", &json!({"metadata": {"uid": "another"}}));
    assert_eq!(take(&mut queue).as_deref(), Some("p"));
}
