//! How long a failing container or image pull waits before the next try: 10 s doubling to 5 min, as upstream.

use jiff::{SignedDuration, Timestamp};

pub const INITIAL: SignedDuration = SignedDuration::from_secs(10);
pub const MAX: SignedDuration = SignedDuration::from_secs(300);

/// Upstream forgets the failures of something that held for twice the longest delay.
const FORGOTTEN_AFTER: SignedDuration = SignedDuration::from_secs(600);

/// The delay of one container or image; zero while nothing has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    delay: SignedDuration,
    last: Option<Timestamp>,
}

impl Backoff {
    pub fn delay(&self) -> SignedDuration {
        self.delay
    }

    /// When something that failed at `failed` may be tried again; that may be in the past.
    pub fn due(&self, failed: Timestamp) -> Timestamp {
        if self.forgotten(failed) { failed } else { later(failed, self.delay) }
    }

    /// Counts one more try after the failure at `failed`.
    pub fn grow(&mut self, failed: Timestamp) {
        self.delay =
            if self.delay.is_zero() || self.forgotten(failed) { INITIAL } else { (self.delay * 2).min(MAX) };
        self.last = Some(failed);
    }

    pub fn reset(&mut self) {
        *self = Backoff::default();
    }

    fn forgotten(&self, failed: Timestamp) -> bool {
        self.last.is_some_and(|last| failed.duration_since(last) > FORGOTTEN_AFTER)
    }
}

/// `10s`, `2m40s`: Go's spelling of a duration of whole seconds.
pub fn go_seconds(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

pub fn later(from: Timestamp, by: SignedDuration) -> Timestamp {
    from.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn the_first_try_again_is_at_once_then_delays_double() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..8 {
            let due = backoff.due(at(now));
            delays.push(due.duration_since(at(now)).as_secs());
            now = due.as_second() - 1_000_000;
            backoff.grow(at(now));
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_quiet_minutes_forgive() {
        let mut backoff = Backoff::default();
        backoff.grow(at(0));
        backoff.grow(at(10));
        assert_eq!(backoff.due(at(600)), at(620));
        assert_eq!(backoff.due(at(611)), at(611));
        backoff.grow(at(611));
        assert_eq!(backoff.delay(), INITIAL);
    }

    #[test]
    fn durations_are_written_as_go_does() {
        for (seconds, want) in [(10, "10s"), (60, "1m0s"), (160, "2m40s"), (300, "5m0s")] {
            assert_eq!(go_seconds(SignedDuration::from_secs(seconds)), want);
        }
    }
}
