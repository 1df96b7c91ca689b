//! Upstream's `scheduler_*` metrics.

use std::sync::LazyLock;
use std::time::Duration;

use coracle_client::metrics::{Histograms, register};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::histogram::exponential_buckets;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    profile: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InQueue {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Incoming {
    event: &'static str,
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempts {
    attempts: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cached {
    r#type: &'static str,
}

pub struct Metrics {
    attempts: Family<Attempt, Counter>,
    attempt_durations: Histograms<Attempt>,
    algorithm_durations: Histogram,
    attempts_per_pod: Histogram,
    durations_per_pod: Histograms<Attempts>,
    pending: Family<InQueue, Gauge>,
    incoming: Family<Incoming, Counter>,
    cached: Family<Cached, Gauge>,
}

pub static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    // Upstream's, in seconds.
    let attempt: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
    let per_pod: fn() -> Histogram = || Histogram::new(exponential_buckets(0.01, 2.0, 20));
    let metrics = Metrics {
        attempts: Family::default(),
        attempt_durations: Family::new_with_constructor(attempt),
        algorithm_durations: attempt(),
        attempts_per_pod: Histogram::new(exponential_buckets(1.0, 2.0, 5)),
        durations_per_pod: Family::new_with_constructor(per_pod),
        pending: Family::default(),
        incoming: Family::default(),
        cached: Family::default(),
    };
    // The encoder appends `_total` to counters.
    register(|registry| {
        registry.register(
            "scheduler_schedule_attempts",
            "Number of attempts to schedule pods, by the result",
            metrics.attempts.clone(),
        );
        registry.register(
            "scheduler_scheduling_attempt_duration_seconds",
            "Scheduling attempt latency in seconds (scheduling algorithm + binding)",
            metrics.attempt_durations.clone(),
        );
        registry.register(
            "scheduler_scheduling_algorithm_duration_seconds",
            "Scheduling algorithm latency in seconds",
            metrics.algorithm_durations.clone(),
        );
        registry.register(
            "scheduler_pod_scheduling_attempts",
            "Number of attempts to successfully schedule a pod",
            metrics.attempts_per_pod.clone(),
        );
        registry.register(
            "scheduler_pod_scheduling_sli_duration_seconds",
            "Latency from the pod's entering of the queue until it is scheduled, over its attempts",
            metrics.durations_per_pod.clone(),
        );
        registry.register(
            "scheduler_pending_pods",
            "Number of pending pods, by the queue type",
            metrics.pending.clone(),
        );
        registry.register(
            "scheduler_queue_incoming_pods",
            "Number of pods added to scheduling queues by event and queue type",
            metrics.incoming.clone(),
        );
        registry.register(
            "scheduler_cache_size",
            "Number of nodes, pods, and assumed (bound) pods in the scheduler cache",
            metrics.cached.clone(),
        );
    });
    metrics
});

impl Metrics {
    /// `result`: scheduled, unschedulable or error.
    pub fn attempted(&self, profile: &str, result: &'static str, taken: Duration) {
        let label = Attempt { profile: profile.to_owned(), result };
        self.attempts.get_or_create(&label).inc();
        self.attempt_durations.get_or_create(&label).observe(taken.as_secs_f64());
    }

    pub fn decided(&self, taken: Duration) {
        self.algorithm_durations.observe(taken.as_secs_f64());
    }

    /// A pod has got its node, after so many attempts and this time.
    pub fn placed(&self, attempts: u32, taken: Duration) {
        self.attempts_per_pod.observe(f64::from(attempts));
        let attempts = match attempts {
            0 | 1 => "1",
            2 => "2",
            3 => "3",
            4 => "4",
            5..=14 => "5",
            _ => "15+",
        };
        self.durations_per_pod.get_or_create(&Attempts { attempts }).observe(taken.as_secs_f64());
    }

    pub fn incoming(&self, event: &'static str, queue: &'static str) {
        self.incoming.get_or_create(&Incoming { event, queue }).inc();
    }

    pub fn set_pending(&self, queue: &'static str, count: usize) {
        self.pending.get_or_create(&InQueue { queue }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub fn set_cached(&self, what: &'static str, count: usize) {
        self.cached.get_or_create(&Cached { r#type: what }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
