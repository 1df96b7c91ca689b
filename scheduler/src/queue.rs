//! Pods that wait for a node: ready ones by priority, those that back off, and those that no node took.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::Uid;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::framework::ClusterEvent;
use crate::metrics::METRICS;
use crate::pod::PodInfo;

/// After a failed attempt a pod rests 1 s, then twice as long each time, up to 10 s.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A pod that no event moved is tried again after this long.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(5 * 60);

/// Events before the cycle of a pod that changed during it: more than there can have been.
const OVERLAPPED: u64 = u64::MAX;

/// Bounded by the pods there are.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Default)]
struct State {
    active: BinaryHeap<Ready>,
    timers: BinaryHeap<Timer>,
    waiting: HashMap<Uid, Waiting>,
    sequence: u64,
    /// Counts events; a pod whose cycle overlapped one is tried again without waiting for another.
    events: u64,
    closed: bool,
}

struct Waiting {
    pod: Arc<PodInfo>,
    attempts: u32,
    since: Instant,
    /// When its last cycle began.
    tried: Instant,
    place: Place,
    /// Tells apart this stay in its place from earlier ones, whose heap entries are void.
    stamp: u64,
    events_before: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Active,
    InCycle,
    BackingOff,
    Unschedulable { plugins: Vec<&'static str> },
    Gated,
}

#[derive(PartialEq, Eq)]
struct Ready {
    priority: i32,
    stamp: u64,
    uid: Uid,
}

impl Ord for Ready {
    /// Higher priority first, then who came first.
    fn cmp(&self, other: &Self) -> Ordering {
        self.priority.cmp(&other.priority).then_with(|| other.stamp.cmp(&self.stamp))
    }
}

impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(PartialEq, Eq)]
struct Timer {
    due: Instant,
    stamp: u64,
    uid: Uid,
}

impl Ord for Timer {
    /// The earliest is the greatest, as the heap gives that first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.due.cmp(&self.due).then_with(|| other.stamp.cmp(&self.stamp))
    }
}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Queue {
    /// A pod that wants a node is new or has changed. `helps`: whether a change of the pod may undo what a plug-in
    /// had against it.
    pub fn add(&self, pod: Arc<PodInfo>, helps: impl Fn(&str, ClusterEvent) -> bool) {
        let mut state = self.state.lock();
        let gated = !pod.gates.is_empty();
        match state.waiting.get_mut(&pod.uid) {
            Some(known) => {
                known.pod = pod.clone();
                let moves = match &known.place {
                    Place::Gated => !gated,
                    Place::Unschedulable { plugins } => {
                        plugins.iter().any(|plugin| helps(plugin, ClusterEvent::PodChanged))
                    }
                    // The cycle under way decides on the pod as it was.
                    Place::InCycle => {
                        known.events_before = OVERLAPPED;
                        false
                    }
                    Place::Active | Place::BackingOff => false,
                };
                if moves {
                    state.activate(&pod.uid);
                }
            }
            None => {
                let place = if gated { Place::Gated } else { Place::BackingOff };
                let uid = pod.uid.clone();
                let now = Instant::now();
                let waiting =
                    Waiting { pod, attempts: 0, since: now, tried: now, place, stamp: 0, events_before: 0 };
                state.waiting.insert(uid.clone(), waiting);
                METRICS.incoming("UnscheduledPodAdd", if gated { "gated" } else { "active" });
                if !gated {
                    state.activate(&uid);
                }
            }
        }
        drop(state);
        self.ready.notify_one();
    }

    /// A pod whose binding is under way has changed: should the binding fail, the newest state is tried.
    pub fn refresh(&self, pod: Arc<PodInfo>) {
        if let Some(known) = self.state.lock().waiting.get_mut(&pod.uid) {
            known.pod = pod;
        }
    }

    /// The pod has got its node: by the cycle it is in, if it is in one.
    pub fn bound(&self, uid: &str) {
        if let Some(waiting) = self.state.lock().waiting.remove(uid)
            && waiting.place == Place::InCycle
        {
            waiting.attempted("scheduled");
            METRICS.placed(waiting.attempts, waiting.since.elapsed());
        }
    }

    /// How many wait in which way: active (those in a cycle too), backing off, unschedulable, gated.
    pub fn pending(&self) -> [(&'static str, usize); 4] {
        let mut counts = [("active", 0), ("backoff", 0), ("unschedulable", 0), ("gated", 0)];
        for waiting in self.state.lock().waiting.values() {
            let at = match waiting.place {
                Place::Active | Place::InCycle => 0,
                Place::BackingOff => 1,
                Place::Unschedulable { .. } => 2,
                Place::Gated => 3,
            };
            counts[at].1 += 1;
        }
        counts
    }

    /// The pod is gone, or has a node.
    pub fn remove(&self, uid: &str) {
        self.state.lock().waiting.remove(uid);
    }

    /// The next pod to place; None once closed.
    pub async fn pop(&self) -> Option<Arc<PodInfo>> {
        loop {
            let due = {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                let due = state.release(Instant::now());
                if let Some(pod) = state.take() {
                    return Some(pod);
                }
                due
            };
            match due {
                Some(due) => {
                    tokio::select! {
                        () = self.ready.notified() => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                None => self.ready.notified().await,
            }
        }
    }

    /// No node took the pod.
    pub fn unschedulable(&self, uid: &str, plugins: Vec<&'static str>) {
        let mut state = self.state.lock();
        let events = state.events;
        let Some(waiting) = state.waiting.get_mut(uid) else { return };
        waiting.attempted("unschedulable");
        if waiting.events_before != events {
            METRICS.incoming("ScheduleAttemptFailure", "backoff");
            state.back_off(uid);
        } else {
            METRICS.incoming("ScheduleAttemptFailure", "unschedulable");
            waiting.place = Place::Unschedulable { plugins };
            state.start_timer(uid, Instant::now() + UNSCHEDULABLE_MAX);
        }
        drop(state);
        self.ready.notify_one();
    }

    /// The attempt failed for a reason outside the pod (the API, mostly).
    pub fn retry(&self, uid: &str) {
        let mut state = self.state.lock();
        if let Some(waiting) = state.waiting.get(uid) {
            waiting.attempted("error");
        }
        METRICS.incoming("ScheduleAttemptFailure", "backoff");
        state.back_off(uid);
        drop(state);
        self.ready.notify_one();
    }

    /// Something changed: moves the pods that it may help.
    pub fn event(&self, event: ClusterEvent, helps: impl Fn(&str, ClusterEvent) -> bool) {
        self.event_for(event, helps, |_| true);
    }

    /// The same for something that only concerns some pods.
    pub fn event_for(
        &self,
        event: ClusterEvent,
        helps: impl Fn(&str, ClusterEvent) -> bool,
        concerns: impl Fn(&PodInfo) -> bool,
    ) {
        let mut state = self.state.lock();
        state.events += 1;
        let moved: Vec<Uid> = state
            .waiting
            .iter()
            .filter(|(_, w)| match &w.place {
                Place::Unschedulable { plugins } => {
                    concerns(&w.pod)
                        && (plugins.is_empty() || plugins.iter().any(|plugin| helps(plugin, event)))
                }
                _ => false,
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        if moved.is_empty() {
            return;
        }
        for uid in moved {
            METRICS.incoming(event.name(), "backoff");
            state.back_off(&uid);
        }
        drop(state);
        self.ready.notify_one();
    }

    pub fn close(&self) {
        self.state.lock().closed = true;
        self.ready.notify_one();
    }

    pub fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Waiting {
    fn attempted(&self, result: &'static str) {
        METRICS.attempted(&self.pod.scheduler_name, result, self.tried.elapsed());
    }
}

impl State {
    fn activate(&mut self, uid: &str) {
        self.sequence += 1;
        let stamp = self.sequence;
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        waiting.place = Place::Active;
        waiting.stamp = stamp;
        self.active.push(Ready { priority: waiting.pod.priority, stamp, uid: uid.into() });
    }

    fn take(&mut self) -> Option<Arc<PodInfo>> {
        while let Some(ready) = self.active.pop() {
            let events = self.events;
            let Some(waiting) = self.waiting.get_mut(&ready.uid) else { continue };
            if waiting.place != Place::Active || waiting.stamp != ready.stamp {
                continue;
            }
            waiting.place = Place::InCycle;
            waiting.tried = Instant::now();
            waiting.attempts += 1;
            waiting.events_before = events;
            return Some(waiting.pod.clone());
        }
        None
    }

    fn back_off(&mut self, uid: &str) {
        let Some(waiting) = self.waiting.get_mut(uid) else { return };
        let rest =
            BACKOFF_FIRST.saturating_mul(1 << waiting.attempts.saturating_sub(1).min(8)).min(BACKOFF_MAX);
        waiting.place = Place::BackingOff;
        self.start_timer(uid, Instant::now() + rest);
    }

    fn start_timer(&mut self, uid: &str, due: Instant) {
        self.sequence += 1;
        let stamp = self.sequence;
        if let Some(waiting) = self.waiting.get_mut(uid) {
            waiting.stamp = stamp;
            self.timers.push(Timer { due, stamp, uid: uid.into() });
        }
    }

    /// Makes those ready whose time has come; returns when the next one's will.
    fn release(&mut self, now: Instant) -> Option<Instant> {
        while let Some(timer) = self.timers.peek() {
            let valid = self.waiting.get(&timer.uid).is_some_and(|w| w.stamp == timer.stamp);
            if valid && timer.due > now {
                return Some(timer.due);
            }
            if let Some(timer) = self.timers.pop()
                && valid
            {
                METRICS.incoming("BackoffComplete", "active");
                self.activate(&timer.uid);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::NodeChange;

    fn pod(uid: &str, priority: i32) -> Arc<PodInfo> {
        Arc::new(PodInfo { uid: uid.into(), priority, ..PodInfo::default() })
    }

    fn never(_: &str, _: ClusterEvent) -> bool {
        false
    }

    const NODE_ADDED: ClusterEvent =
        ClusterEvent::Node(NodeChange { added: true, labels: false, taints: false, allocatable: false });

    #[tokio::test(start_paused = true)]
    async fn higher_priority_goes_first_then_who_came_first() {
        let queue = Queue::default();
        for (uid, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
            queue.add(pod(uid, priority), never);
        }
        let mut order = Vec::new();
        for _ in 0..4 {
            order.push(queue.pop().await.unwrap().uid.to_string());
        }
        assert_eq!(order, ["b", "d", "a", "c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unschedulable_pod_waits_for_an_event_that_helps_then_backs_off() {
        let queue = Queue::default();
        let start = Instant::now();
        queue.add(pod("a", 0), never);
        queue.pop().await.unwrap();
        queue.unschedulable("a", vec!["NodeResourcesFit"]);
        queue.event(NODE_ADDED, |plugin, _| plugin == "Other");
        assert!(tokio::time::timeout(Duration::from_secs(60), queue.pop()).await.is_err(), "nothing helped");
        queue.event(NODE_ADDED, |plugin, _| plugin == "NodeResourcesFit");
        assert_eq!(&*queue.pop().await.unwrap().uid, "a");
        assert_eq!(start.elapsed().as_secs(), 61, "after a rest of a second");
        queue.unschedulable("a", vec!["NodeResourcesFit"]);
        queue.pop().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), 61 + 300, "and at last by itself");
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_during_the_cycle_counts() {
        let queue = Queue::default();
        queue.add(pod("a", 0), never);
        queue.pop().await.unwrap();
        queue.event(NODE_ADDED, never);
        queue.unschedulable("a", vec!["NodeResourcesFit"]);
        let again = tokio::time::timeout(Duration::from_secs(2), queue.pop()).await;
        assert_eq!(&*again.unwrap().unwrap().uid, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_the_pod_during_its_cycle_counts() {
        let queue = Queue::default();
        queue.add(pod("a", 0), never);
        queue.pop().await.unwrap();
        queue.add(pod("a", 7), never);
        queue.unschedulable("a", vec!["NodeResourcesFit"]);
        let again = tokio::time::timeout(Duration::from_secs(2), queue.pop()).await;
        assert_eq!(again.unwrap().unwrap().priority, 7);
        queue.refresh(pod("a", 9));
        queue.retry("a");
        assert_eq!(queue.pop().await.unwrap().priority, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn gated_pods_wait_and_removed_ones_do_not_come() {
        let queue = Queue::default();
        let gated = PodInfo { uid: "g".into(), gates: vec![Default::default()], ..PodInfo::default() };
        queue.add(Arc::new(gated), never);
        queue.add(pod("r", 0), never);
        queue.remove("r");
        assert!(tokio::time::timeout(Duration::from_secs(600), queue.pop()).await.is_err());
        queue.add(pod("g", 0), never);
        assert_eq!(&*queue.pop().await.unwrap().uid, "g");
        queue.close();
        assert!(queue.pop().await.is_none());
    }
}
