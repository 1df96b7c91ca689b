//! How far the watch cache has followed the store, and who waits for it to get further.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// The newest revision whose changes every reader of the cache sees.
#[derive(Default)]
pub struct Progress {
    revision: AtomicU64,
    next_id: AtomicU64,
    waiters: Mutex<BTreeMap<(u64, u64), oneshot::Sender<()>>>,
}

/// Takes a waiter that gave up off the list.
struct Waiting<'a> {
    progress: &'a Progress,
    key: (u64, u64),
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.progress.waiters.lock().remove(&self.key);
    }
}

impl Progress {
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Everything up to `revision` is in the cache now. Never goes back.
    pub fn advance(&self, revision: u64) {
        if self.revision.fetch_max(revision, Ordering::AcqRel) >= revision {
            return;
        }
        let ready = {
            let mut waiters = self.waiters.lock();
            let later = waiters.split_off(&(revision + 1, 0));
            std::mem::replace(&mut *waiters, later)
        };
        for waiter in ready.into_values() {
            // A waiter that went away needs no word.
            let _ = waiter.send(());
        }
    }

    /// Whether the cache reached `revision` within `patience`.
    pub async fn wait_for(&self, revision: u64, patience: Duration) -> bool {
        if self.revision() >= revision {
            return true;
        }
        let key = (revision, self.next_id.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        self.waiters.lock().insert(key, sender);
        let _waiting = Waiting { progress: self, key };
        // The cache may have got there between the look and the entry in the list.
        if self.revision() >= revision {
            return true;
        }
        tokio::time::timeout(patience, receiver).await.is_ok_and(|woken| woken.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_wake_when_their_revision_is_there_and_give_up_in_time() {
        let progress = std::sync::Arc::new(Progress::default());
        let waiting = |revision| {
            let progress = progress.clone();
            tokio::spawn(async move { progress.wait_for(revision, Duration::from_secs(5)).await })
        };
        let (three, four) = (waiting(3), waiting(4));
        tokio::task::yield_now().await;
        progress.advance(3);
        assert!(three.await.unwrap());
        assert!(!four.is_finished());
        progress.advance(2);
        assert_eq!(progress.revision(), 3);
        progress.advance(9);
        assert!(four.await.unwrap());
        assert!(!progress.wait_for(10, Duration::from_millis(1)).await);
        assert!(progress.waiters.lock().is_empty());
    }
}
