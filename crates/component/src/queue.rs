//! A queue of keys: each key is queued at most once and worked on by one worker at a time; a key that is added while it is
//! worked on comes again afterwards. Keys can be delayed, and come back ever later after failures.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Delay after the first failure; it doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_millis(5);
/// The longest delay after a failure.
const LAST_DELAY: Duration = Duration::from_secs(1000);

/// A shared, cheaply cloned handle of the queue.
pub struct Queue<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    /// What is in `ready`, or waits in `again`.
    queued: BTreeSet<T>,
    working: BTreeSet<T>,
    /// Added while worked on.
    again: BTreeSet<T>,
    delayed: BTreeSet<(Instant, T)>,
    due: BTreeMap<T, Instant>,
    failures: BTreeMap<T, u32>,
    closed: bool,
}

impl<T: Ord + Clone> Default for Queue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Ord + Clone> Queue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            queued: BTreeSet::new(),
            working: BTreeSet::new(),
            again: BTreeSet::new(),
            delayed: BTreeSet::new(),
            due: BTreeMap::new(),
            failures: BTreeMap::new(),
            closed: false,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a key now.
    pub fn add(&self, key: T) {
        self.state().add(key);
        self.shared.changed.notify_one();
    }

    /// Queues a key after a while, unless it is due earlier already.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.state().delay(key, Instant::now() + delay);
        self.shared.changed.notify_one();
    }

    /// Queues a key that failed: the later, the more often it failed in a row.
    pub fn add_rate_limited(&self, key: T) {
        let delay = {
            let mut state = self.state();
            let failures = state.failures.entry(key.clone()).or_default();
            let delay = FIRST_DELAY.saturating_mul(1 << (*failures).min(20)).min(LAST_DELAY);
            *failures += 1;
            delay
        };
        self.add_after(key, delay);
    }

    /// The key succeeded: its failures no longer count.
    pub fn forget(&self, key: &T) {
        self.state().failures.remove(key);
    }

    /// How many keys are ready.
    pub fn len(&self) -> usize {
        self.state().ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key, which must be given back with [`Queue::done`]; `None` after [`Queue::close`].
    pub async fn get(&self) -> Option<T> {
        loop {
            let changed = self.shared.changed.notified();
            let next_due = {
                let mut state = self.state();
                state.promote(Instant::now());
                if state.closed {
                    return None;
                }
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() || !state.delayed.is_empty() {
                        self.shared.changed.notify_one();
                    }
                    return Some(key);
                }
                state.delayed.first().map(|(due, _)| *due)
            };
            match next_due {
                Some(due) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = tokio::time::sleep_until(due) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Gives a key back. If it was added meanwhile it is queued again.
    pub fn done(&self, key: &T) {
        let mut state = self.state();
        state.working.remove(key);
        if let Some(key) = state.again.take(key) {
            state.ready.push_back(key);
            drop(state);
            self.shared.changed.notify_one();
        }
    }

    /// Ends the queue: every [`Queue::get`] returns `None`.
    pub fn close(&self) {
        self.state().closed = true;
        self.shared.changed.notify_waiters();
        self.shared.changed.notify_one();
    }
}

impl<T: Ord + Clone> State<T> {
    fn add(&mut self, key: T) {
        if let Some(due) = self.due.remove(&key) {
            self.delayed.remove(&(due, key.clone()));
        }
        if !self.queued.insert(key.clone()) {
            return;
        }
        if self.working.contains(&key) {
            self.again.insert(key);
        } else {
            self.ready.push_back(key);
        }
    }

    fn delay(&mut self, key: T, due: Instant) {
        if self.queued.contains(&key) {
            return;
        }
        match self.due.get(&key) {
            Some(earlier) if *earlier <= due => return,
            Some(later) => self.delayed.remove(&(*later, key.clone())),
            None => false,
        };
        self.due.insert(key.clone(), due);
        self.delayed.insert((due, key));
    }

    fn promote(&mut self, now: Instant) {
        while self.delayed.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, key)) = self.delayed.pop_first() {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }

    fn take(&mut self) -> Option<T> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_queued_once_and_comes_again_if_added_while_worked_on() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        assert!(queue.is_empty());
        queue.add("a");
        assert!(queue.is_empty(), "one worker at a time");
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.close();
        assert_eq!(queue.get().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn delays_are_kept_and_the_earlier_one_wins() {
        let queue = Queue::new();
        let start = Instant::now();
        queue.add_after("late", Duration::from_secs(60));
        queue.add_after("late", Duration::from_secs(10));
        queue.add_after("late", Duration::from_secs(30));
        assert_eq!(queue.get().await, Some("late"));
        assert_eq!(start.elapsed().as_secs(), 10);
        assert!(queue.state().delayed.is_empty(), "only once");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_come_back_ever_later_until_one_succeeds() {
        let queue = Queue::new();
        let mut waits = Vec::new();
        for _ in 0..4 {
            let start = Instant::now();
            queue.add_rate_limited("a");
            queue.get().await;
            queue.done(&"a");
            waits.push(start.elapsed().as_millis());
        }
        assert_eq!(waits, [5, 10, 20, 40]);
        queue.forget(&"a");
        let start = Instant::now();
        queue.add_rate_limited("a");
        queue.get().await;
        assert_eq!(start.elapsed().as_millis(), 5);
    }
}
