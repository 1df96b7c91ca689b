//! How long a job waits before it replaces failed pods: 10 s, doubled with each failure in a row, to 10 min.

use std::time::Duration;

use jiff::Timestamp;

use crate::job::pod::JobPod;

const FIRST: Duration = Duration::from_secs(10);
const MAX: Duration = Duration::from_secs(600);

/// Failures since the last success. Kept in memory only: a new leader starts afresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    pub failures: u32,
    pub last: Option<Timestamp>,
}

impl Backoff {
    /// With pods that have ended since, each given once.
    #[must_use]
    pub fn after(self, succeeded: &[&JobPod], failed: &[&JobPod]) -> Self {
        let last_success = succeeded.iter().map(|pod| pod.finished_at).max();
        let counted = failed.iter().filter(|pod| last_success.is_none_or(|at| pod.finished_at > at));
        let start = if last_success.is_some() { Self::default() } else { self };
        counted.fold(start, |record, pod| Self {
            failures: record.failures.saturating_add(1),
            last: record.last.max(Some(pod.finished_at)),
        })
    }

    /// How long no pod may be created yet.
    pub fn remaining(self, now: Timestamp) -> Duration {
        match self.last {
            Some(last) => remaining(self.failures, last, now),
            None => Duration::ZERO,
        }
    }
}

/// The same for one index, whose last pod remembers how often it failed.
pub fn of_index(last_failed: &JobPod, now: Timestamp) -> Duration {
    let failures = u32::try_from(last_failed.all_failures()).unwrap_or(0).saturating_add(1);
    remaining(failures, last_failed.finished_at, now)
}

fn remaining(failures: u32, last: Timestamp, now: Timestamp) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let wait = FIRST.saturating_mul(1 << (failures - 1).min(10)).min(MAX);
    // A node's clock may be ahead: never longer than the whole wait.
    let passed = Duration::try_from(now.duration_since(last)).unwrap_or(Duration::ZERO);
    wait.saturating_sub(passed)
}
