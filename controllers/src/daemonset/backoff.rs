//! How long a node's failed daemon stays before it is replaced: longer each time, as node and controller may disagree.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);
/// Entries that are too old to count go when there are as many as this.
const ENTRIES: usize = 4096;

/// The set's uid and the node.
type Place = (Box<str>, Box<str>);

#[derive(Default)]
pub struct Backoff(Mutex<HashMap<Place, Entry>>);

#[derive(Clone, Copy)]
struct Entry {
    delay: Duration,
    since: Instant,
}

impl Entry {
    fn expired(&self, now: Instant) -> bool {
        now.duration_since(self.since) > LONGEST * 2
    }
}

impl Backoff {
    /// How long the failed daemon has to stay yet.
    pub fn wait(&self, uid: &str, node: &str, now: Instant) -> Option<Duration> {
        let place: Place = (uid.into(), node.into());
        let entry = *self.0.lock().get(&place)?;
        let left = entry.delay.saturating_sub(now.duration_since(entry.since));
        (!entry.expired(now) && !left.is_zero()).then_some(left)
    }

    /// One is replaced now: the next will have to wait.
    pub fn replaced(&self, uid: &str, node: &str, now: Instant) {
        let mut entries = self.0.lock();
        if entries.len() >= ENTRIES {
            entries.retain(|_, entry| !entry.expired(now));
        }
        let key: Place = (uid.into(), node.into());
        let delay = match entries.get(&key) {
            Some(entry) if !entry.expired(now) => (entry.delay * 2).min(LONGEST),
            _ => FIRST,
        };
        entries.insert(key, Entry { delay, since: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_quarter_of_an_hour_and_are_forgotten() {
        let backoff = Backoff::default();
        let mut now = Instant::now();
        assert_eq!(backoff.wait("u", "n", now), None, "the first goes at once");
        let mut waits = Vec::new();
        for _ in 0..12 {
            backoff.replaced("u", "n", now);
            let wait = backoff.wait("u", "n", now).unwrap();
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(backoff.wait("u", "n", now), None);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
        assert_eq!(backoff.wait("u", "other", now), None);
        now += LONGEST * 3;
        backoff.replaced("u", "n", now);
        assert_eq!(backoff.wait("u", "n", now), Some(FIRST));
    }
}
