//! What the guests of a container do, counted: instances, requests and how long they took, traps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::runtime::{LATENCY_BOUNDS, Requests};

const BUCKETS: usize = LATENCY_BOUNDS.len() + 1;

#[derive(Default)]
pub(super) struct Activity {
    instances: AtomicU64,
    traps: AtomicU64,
    refused: AtomicU64,
    /// By the first bound that it is within; beyond all of them at last.
    answered: [AtomicU64; BUCKETS],
    answered_nanos: AtomicU64,
}

impl Activity {
    pub fn begins(&self) {
        self.instances.fetch_add(1, Ordering::Relaxed);
    }

    pub fn ends(&self) {
        self.instances.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn trapped(&self) {
        self.traps.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that nobody had time for.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that a guest was given, until it was done with it.
    pub fn answered(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BUCKETS - 1);
        if let Some(count) = self.answered.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.answered_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub fn instances(&self) -> u64 {
        self.instances.load(Ordering::Relaxed)
    }

    pub fn traps(&self) -> u64 {
        self.traps.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> Requests {
        Requests {
            refused: self.refused.load(Ordering::Relaxed),
            answered: std::array::from_fn(|bucket| {
                self.answered.get(bucket).map_or(0, |count| count.load(Ordering::Relaxed))
            }),
            answered_nanos: self.answered_nanos.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_how_long_they_took() {
        let activity = Activity::default();
        for millis in [1, 2, 7, 60_000] {
            activity.answered(Duration::from_millis(millis));
        }
        activity.refused();
        let requests = activity.requests();
        assert_eq!((requests.count(), requests.refused), (4, 1));
        assert_eq!(requests.answered[..4], [1, 1, 0, 1], "{:?}", requests.answered);
        assert_eq!(requests.answered.last(), Some(&1));
        assert_eq!(requests.answered_nanos, 60_010_000_000);
    }
}
