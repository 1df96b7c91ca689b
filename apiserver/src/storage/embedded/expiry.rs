//! When keys with a time to live are due.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Expiries in one commit at most, so that a burst does not hold up the writes beside it.
const DUE_MAX: usize = 512;

/// How long to wait when the deletes could not be written (disk full).
const RETRY: Duration = Duration::from_secs(1);

/// Both clocks at one moment: the steady one decides, the wall clock is what survives a restart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub now: Instant,
    pub wall_ms: u64,
}

impl Clock {
    pub(super) fn read() -> Self {
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { now: Instant::now(), wall_ms: wall.as_millis() as u64 }
    }
}

/// What is left of a time to live after a restart. A wall clock that was set back must not lengthen it.
pub(super) fn left_ms(written_at_ms: u64, ttl_ms: u64, wall_ms: u64) -> u64 {
    written_at_ms.saturating_add(ttl_ms).saturating_sub(wall_ms).min(ttl_ms)
}

#[derive(Default)]
pub(super) struct Expiry {
    /// By deadline and revision of the put. An entry whose key was written since is dropped when it comes due.
    deadlines: BTreeMap<(Instant, u64), Arc<str>>,
    hold_until: Option<Instant>,
}

impl Expiry {
    pub(super) fn add(&mut self, key: Arc<str>, revision: u64, left_ms: u64, now: Instant) {
        // A deadline beyond what the clock can count never comes.
        if let Some(deadline) = now.checked_add(Duration::from_millis(left_ms)) {
            self.deadlines.insert((deadline, revision), key);
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        let (first, _) = self.deadlines.keys().next()?;
        Some(self.hold_until.map_or(*first, |hold| hold.max(*first)))
    }

    /// Keys due at `now` with the revision of the put that is due, oldest first.
    pub(super) fn due(&self, now: Instant) -> Vec<(Arc<str>, u64)> {
        if self.next().is_none_or(|next| next > now) {
            return Vec::new();
        }
        let due = self.deadlines.range(..=(now, u64::MAX)).take(DUE_MAX);
        due.map(|((_, revision), key)| (key.clone(), *revision)).collect()
    }

    /// The first `count` of what was due is dealt with.
    pub(super) fn done(&mut self, count: usize) {
        for _ in 0..count {
            self.deadlines.pop_first();
        }
        self.hold_until = None;
    }

    pub(super) fn hold(&mut self, now: Instant) {
        self.hold_until = Some(now + RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_after_a_restart() {
        for (written, ttl, wall, left) in [
            (1_000, 500, 1_000, 500),
            (1_000, 500, 1_200, 300),
            (1_000, 500, 9_000, 0),
            // the clock was set back
            (1_000, 500, 10, 500),
            (u64::MAX, u64::MAX, 10, u64::MAX - 10),
        ] {
            assert_eq!(left_ms(written, ttl, wall), left, "{written} {ttl} {wall}");
        }
    }

    #[test]
    fn due_in_order_once_and_held_after_a_failure() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut expiry = Expiry::default();
        expiry.add("/b".into(), 3, 20, start);
        expiry.add("/a".into(), 2, 10, start);
        expiry.add("/never".into(), 4, u64::MAX, start);
        assert_eq!(expiry.next(), Some(at(10)));
        assert!(expiry.due(at(9)).is_empty());
        assert_eq!(expiry.due(at(20)), [("/a".into(), 2), ("/b".into(), 3)]);
        expiry.hold(at(20));
        assert!(expiry.due(at(21)).is_empty());
        assert_eq!(expiry.next(), Some(at(20) + RETRY));
        assert_eq!(expiry.due(at(20) + RETRY).len(), 2);
        expiry.done(2);
        assert!(expiry.due(at(5_000)).is_empty());
    }
}
