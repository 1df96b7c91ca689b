//! What a controller has done to its pods that its informer may not show yet.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use coracle_client::Key;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A watch event that never came (a relist swallowed it) must not block forever; upstream's figure.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Per controlling object: creations and deletions announced before they are asked for, and struck off as the
/// informer shows them. While any are open the object's pods must not be counted.
#[derive(Default)]
pub struct Expectations {
    open: Mutex<HashMap<Key, Open>>,
}

struct Open {
    creations: i64,
    deletions: HashSet<Box<str>>,
    since: Instant,
}

impl Expectations {
    pub fn expect(&self, key: &Key, creations: usize, deletions: impl IntoIterator<Item = Box<str>>) {
        let creations = i64::try_from(creations).unwrap_or(i64::MAX);
        let open = Open { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.open.lock().insert(key.clone(), open);
    }

    /// The informer showed a new pod, or its creation failed.
    pub fn created(&self, key: &Key) {
        if let Some(open) = self.open.lock().get_mut(key) {
            open.creations -= 1;
        }
    }

    /// The informer showed that the pod is going or gone, or its deletion failed.
    pub fn deleted(&self, key: &Key, uid: &str) {
        if let Some(open) = self.open.lock().get_mut(key) {
            open.deletions.remove(uid);
        }
    }

    /// Whether the informer shows everything that was done, or never will.
    pub fn satisfied(&self, key: &Key) -> bool {
        let mut all = self.open.lock();
        let Some(open) = all.get(key) else { return true };
        let fulfilled = open.creations <= 0 && open.deletions.is_empty();
        if fulfilled || open.since.elapsed() > TIMEOUT {
            all.remove(key);
            return true;
        }
        false
    }

    pub fn forget(&self, key: &Key) {
        self.open.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn open_until_seen_failed_or_too_old() {
        let expectations = Expectations::default();
        let key = Key::new("ns", "rs");
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 2, []);
        expectations.created(&key);
        assert!(!expectations.satisfied(&key));
        expectations.created(&key);
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 0, ["a".into()]);
        expectations.deleted(&key, "b");
        assert!(!expectations.satisfied(&key));
        expectations.deleted(&key, "a");
        assert!(expectations.satisfied(&key));
        expectations.expect(&key, 1, []);
        tokio::time::advance(TIMEOUT + Duration::from_secs(1)).await;
        assert!(expectations.satisfied(&key));
    }
}
