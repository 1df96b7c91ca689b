//! A work queue of keys: each key is worked on by one worker at a time, and a key added meanwhile comes again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics;
use crate::metrics::queue::{QueueMetrics, queue_name};

/// Failures back off from 5 ms, doubling, to 1,000 s, as client-go's default limiter.
const BACKOFF_BASE: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1000);
/// Longest wait: times that objects carry may lie beyond what a clock can count.
const DELAY_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Bounded by the number of distinct keys. Cheap to clone.
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<K> {
    state: Mutex<State<K>>,
    ready: Notify,
    metrics: OnceLock<QueueMetrics>,
}

struct State<K> {
    queue: VecDeque<K>,
    /// In the queue, or to be put there when the worker that has it is done.
    dirty: HashSet<K>,
    /// Since when a worker has it.
    processing: HashMap<K, Instant>,
    /// Since when it is in the queue.
    queued: HashMap<K, Instant>,
    adds: u64,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_keys: HashMap<u64, K>,
    /// The earliest time each key waits for; later entries of the heap for the same key are dropped when due.
    waiting: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
    sequence: u64,
    closed: bool,
}

impl<K: Eq + Hash + Clone> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Eq + Hash + Clone> WorkQueue<K> {
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    queue: VecDeque::new(),
                    dirty: HashSet::new(),
                    processing: HashMap::new(),
                    queued: HashMap::new(),
                    adds: 0,
                    delayed: BinaryHeap::new(),
                    delayed_keys: HashMap::new(),
                    waiting: HashMap::new(),
                    failures: HashMap::new(),
                    sequence: 0,
                    closed: false,
                }),
                ready: Notify::new(),
                metrics: OnceLock::new(),
            }),
        }
    }

    pub fn add(&self, key: K) {
        self.shared.state.lock().add(key);
        self.shared.ready.notify_one();
    }

    /// Counts what happens in it under this controller's name from now on, and what was added before.
    pub fn measure(&self, controller: &str)
    where
        K: Send + Sync + 'static,
    {
        if self.shared.metrics.set(QueueMetrics::of(&queue_name(controller))).is_err() {
            return;
        }
        let shared = Arc::downgrade(&self.shared);
        let counted = AtomicU64::new(0);
        metrics::on_scrape(move || {
            let Some(shared) = shared.upgrade() else { return false };
            let Some(metrics) = shared.metrics.get() else { return false };
            let state = shared.state.lock();
            metrics.depth.set(i64::try_from(state.queue.len()).unwrap_or(i64::MAX));
            metrics.adds.inc_by(state.adds.saturating_sub(counted.swap(state.adds, Ordering::Relaxed)));
            let running = state.processing.values().map(|since| since.elapsed().as_secs_f64());
            metrics.unfinished.set(running.clone().sum());
            metrics.longest.set(running.fold(0.0, f64::max));
            !state.closed
        });
    }

    /// Adds the key after a while; of several waits for one key the earliest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        if let Some(metrics) = self.shared.metrics.get() {
            metrics.retries.inc();
        }
        let due = Instant::now() + delay.min(DELAY_MAX);
        let mut state = self.shared.state.lock();
        if state.closed || state.waiting.get(&key).is_some_and(|at| *at <= due) {
            return;
        }
        state.sequence += 1;
        let sequence = state.sequence;
        state.waiting.insert(key.clone(), due);
        state.delayed_keys.insert(sequence, key);
        state.delayed.push(Reverse((due, sequence)));
        drop(state);
        // A worker that sleeps until a later time must look again.
        self.shared.ready.notify_one();
    }

    /// Adds the key after its backoff, which grows with each call until [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: K) {
        let delay = {
            let mut state = self.shared.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let delay = BACKOFF_BASE.saturating_mul(1 << (*failures).min(20)).min(BACKOFF_MAX);
            *failures = failures.saturating_add(1);
            delay
        };
        self.add_after(key, delay);
    }

    pub fn forget(&self, key: &K) {
        self.shared.state.lock().failures.remove(key);
    }

    /// How often the key failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.shared.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    pub fn len(&self) -> usize {
        self.shared.state.lock().queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key; None once the queue is closed. Call [`WorkQueue::done`] afterwards.
    pub async fn get(&self) -> Option<K> {
        loop {
            let notified = self.shared.ready.notified();
            let next_due = {
                let mut state = self.shared.state.lock();
                if state.closed {
                    // Hand the news on: one notification wakes one worker.
                    self.shared.ready.notify_one();
                    return None;
                }
                let next_due = state.release_due(Instant::now());
                if let Some(key) = state.queue.pop_front() {
                    state.dirty.remove(&key);
                    let now = Instant::now();
                    state.processing.insert(key.clone(), now);
                    if let (Some(since), Some(metrics)) =
                        (state.queued.remove(&key), self.shared.metrics.get())
                    {
                        metrics.waited.observe(now.duration_since(since).as_secs_f64());
                    }
                    if !state.queue.is_empty() || next_due.is_some() {
                        self.shared.ready.notify_one();
                    }
                    return Some(key);
                }
                next_due
            };
            match next_due {
                Some(due) => {
                    tokio::select! {
                        () = notified => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                None => notified.await,
            }
        }
    }

    /// The worker has finished with the key; if it was added meanwhile it is queued again.
    pub fn done(&self, key: &K) {
        let mut state = self.shared.state.lock();
        if let (Some(since), Some(metrics)) = (state.processing.remove(key), self.shared.metrics.get()) {
            metrics.worked.observe(since.elapsed().as_secs_f64());
        }
        if state.dirty.contains(key) {
            state.queue.push_back(key.clone());
            state.queued.insert(key.clone(), Instant::now());
            drop(state);
            self.shared.ready.notify_one();
        }
    }

    pub fn close(&self) {
        self.shared.state.lock().closed = true;
        self.shared.ready.notify_waiters();
        self.shared.ready.notify_one();
    }
}

impl<K: Eq + Hash + Clone> State<K> {
    fn add(&mut self, key: K) {
        if self.closed || !self.dirty.insert(key.clone()) {
            return;
        }
        self.adds += 1;
        if !self.processing.contains_key(&key) {
            self.queued.insert(key.clone(), Instant::now());
            self.queue.push_back(key);
        }
    }

    /// Queues what is due; returns when the next key will be.
    fn release_due(&mut self, now: Instant) -> Option<Instant> {
        while let Some(Reverse((due, sequence))) = self.delayed.peek().copied() {
            if due > now {
                return Some(due);
            }
            self.delayed.pop();
            let Some(key) = self.delayed_keys.remove(&sequence) else { continue };
            if self.waiting.get(&key) == Some(&due) {
                self.waiting.remove(&key);
                self.add(key);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_is_worked_on_by_one_worker_and_comes_again_when_added_meanwhile() {
        let queue = WorkQueue::new();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.get().await, Some("a"));
        queue.add("a");
        assert!(queue.is_empty(), "not while it is being worked on");
        queue.done(&"a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_wait_counts_and_failures_back_off() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(2));
        assert_eq!(queue.get().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 2);
        queue.done(&"a");
        for n in 0..10 {
            assert_eq!(queue.failures(&"b"), n);
            queue.add_rate_limited("b");
            assert_eq!(queue.get().await, Some("b"));
            queue.done(&"b");
        }
        assert!(start.elapsed() > Duration::from_secs(7));
        queue.forget(&"b");
        assert_eq!(queue.failures(&"b"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_ends_every_worker() {
        let queue: WorkQueue<u8> = WorkQueue::new();
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for worker in workers {
            assert_eq!(worker.await.unwrap(), None);
        }
    }
}
