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
    match Duration::try_from(now.duration_since(last)) {
        Ok(passed) => wait.saturating_sub(passed),
        // A node's clock may be a little ahead: the whole wait.
        Err(_) if Duration::try_from(last.duration_since(now)).is_ok_and(|ahead| ahead <= wait) => wait,
        // A clock was set back since: that must not stop the job until the time comes round again.
        Err(_) => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_bounded_whatever_clocks_say() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        for (failures, last, now, left) in [
            (0, 0, 0, 0),
            (1, 100, 100, 10),
            (1, 100, 104, 6),
            (1, 100, 110, 0),
            (3, 100, 110, 30),
            (20, 100, 100, 600),
            (1, 105, 100, 10),
            (1, 7_300, 100, 0),
        ] {
            assert_eq!(
                remaining(failures, at(last), at(now)),
                Duration::from_secs(left),
                "{failures} {last} {now}"
            );
        }
    }
}
