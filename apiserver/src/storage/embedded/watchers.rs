//! Open watches and the bounded history they can start in.

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::{Change, Error, WatchItem, WatchStream};

/// History is for the moment between a load and its watch, and for a watch that was cut: the watch cache keeps its
/// own window for clients. Whichever bound is hit first drops the oldest change.
pub(super) const HISTORY_CHANGES_MAX: usize = 8 * 1024;
pub(super) const HISTORY_BYTES_MAX: usize = 1024 * 1024;

/// What one watch may leave unread before it is cut with [`Error::Lagged`].
pub(super) const WATCH_CHANGES_MAX: usize = 16 * 1024;
pub(super) const WATCH_BYTES_MAX: usize = 32 * 1024 * 1024;

fn cost(change: &Change) -> usize {
    change.key.len() + change.value.as_ref().map_or(0, |v| v.len())
}

#[derive(Default)]
struct Queue {
    changes: Vec<Change>,
    bytes: usize,
    progress: Option<u64>,
    /// Set once: what the stream ends with after the queue is read.
    end: Option<Error>,
    ended: bool,
}

struct Watcher {
    prefix: String,
    /// Only later changes are for this watch.
    after: u64,
    queue: Mutex<Queue>,
    ready: Notify,
}

impl Watcher {
    fn push(&self, change: &Change) {
        let mut queue = self.queue.lock();
        if queue.end.is_some() {
            return;
        }
        // The first change always fits: a queue that takes nothing could never be read empty.
        let full = queue.changes.len() >= WATCH_CHANGES_MAX || queue.bytes + cost(change) > WATCH_BYTES_MAX;
        if full && !queue.changes.is_empty() {
            let at = queue.changes.last().map_or(self.after, |c| c.revision);
            queue.end = Some(Error::Lagged { at });
        } else {
            queue.bytes += cost(change);
            queue.changes.push(change.clone());
        }
    }

    fn take(&self) -> Option<Result<WatchItem, Error>> {
        let mut queue = self.queue.lock();
        if !queue.changes.is_empty() {
            queue.bytes = 0;
            return Some(Ok(WatchItem::Changes(std::mem::take(&mut queue.changes))));
        }
        if let Some(revision) = queue.progress.take() {
            return Some(Ok(WatchItem::Progress(revision)));
        }
        if queue.ended {
            return None;
        }
        let end = queue.end.clone()?;
        queue.ended = true;
        Some(Err(end))
    }

    async fn next(self: Arc<Self>) -> Option<(Result<WatchItem, Error>, Arc<Self>)> {
        loop {
            if let Some(item) = self.take() {
                return Some((item, self));
            }
            if self.queue.lock().ended {
                return None;
            }
            self.ready.notified().await;
        }
    }
}

#[derive(Default)]
pub(super) struct Watchers {
    history: VecDeque<Change>,
    history_bytes: usize,
    /// History holds every change after this revision.
    floor: u64,
    revision: u64,
    open: Vec<Weak<Watcher>>,
    closed: bool,
}

impl Watchers {
    /// A store that was just opened has no history: `revision` is the first that can be watched from.
    pub(super) fn new(revision: u64) -> Self {
        Self { floor: revision, revision, ..Self::default() }
    }

    pub(super) fn watch(&mut self, prefix: &str, after: u64) -> Result<WatchStream, Error> {
        if self.closed {
            return Err(Error::Closed);
        }
        if after < self.floor {
            return Err(Error::Compacted { requested: after, oldest: self.floor });
        }
        let watcher =
            Arc::new(Watcher { prefix: prefix.into(), after, queue: Mutex::default(), ready: Notify::new() });
        let start = self.history.partition_point(|c| c.revision <= after);
        for change in self.history.range(start..).filter(|c| c.key.starts_with(prefix)) {
            watcher.push(change);
        }
        self.open.push(Arc::downgrade(&watcher));
        Ok(futures::stream::unfold(watcher, Watcher::next).boxed())
    }

    /// `changes` in revision order; `revision` is the store's after them.
    pub(super) fn publish(&mut self, changes: Vec<Change>, revision: u64) {
        self.revision = revision;
        self.open.retain(|weak| {
            let Some(watcher) = weak.upgrade() else { return false };
            let mut any = false;
            for change in &changes {
                if change.revision > watcher.after && change.key.starts_with(&watcher.prefix) {
                    watcher.push(change);
                    any = true;
                }
            }
            if any {
                watcher.ready.notify_one();
            }
            true
        });
        for change in changes {
            self.history_bytes += cost(&change);
            self.history.push_back(change);
        }
        while self.history.len() > HISTORY_CHANGES_MAX || self.history_bytes > HISTORY_BYTES_MAX {
            let Some(dropped) = self.history.pop_front() else { break };
            self.history_bytes -= cost(&dropped);
            self.floor = dropped.revision;
        }
    }

    pub(super) fn progress(&mut self) {
        let revision = self.revision;
        self.each(|queue, after| queue.progress = Some(revision.max(after)));
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
        self.each(|queue, _| {
            queue.end.get_or_insert(Error::Closed);
        });
    }

    fn each(&mut self, act: impl Fn(&mut Queue, u64)) {
        self.open.retain(|weak| {
            let Some(watcher) = weak.upgrade() else { return false };
            act(&mut watcher.queue.lock(), watcher.after);
            watcher.ready.notify_one();
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn change(revision: u64, key: &str, bytes: usize) -> Change {
        Change { key: key.into(), revision, value: Some(Bytes::from(vec![0; bytes])) }
    }

    #[tokio::test]
    async fn history_is_bounded_in_changes_and_in_bytes() {
        let mut watchers = Watchers::new(1);
        for revision in 2..HISTORY_CHANGES_MAX as u64 + 12 {
            watchers.publish(vec![change(revision, "/a", 1)], revision);
        }
        assert_eq!(watchers.history.len(), HISTORY_CHANGES_MAX);
        let floor = watchers.floor;
        assert_eq!(floor, 11);
        assert!(watchers.watch("/", floor).is_ok());
        assert!(
            matches!(watchers.watch("/", floor - 1), Err(Error::Compacted { oldest, .. }) if oldest == floor)
        );
        let last = watchers.revision + 1;
        watchers.publish(vec![change(last, "/b", HISTORY_BYTES_MAX)], last);
        assert_eq!((watchers.history.len(), watchers.floor), (0, last));
    }

    #[tokio::test]
    async fn a_watch_that_is_not_read_is_cut_and_then_ends() {
        let mut watchers = Watchers::new(1);
        let mut stream = watchers.watch("/", 1).unwrap();
        for revision in 2..WATCH_CHANGES_MAX as u64 + 10 {
            watchers.publish(vec![change(revision, "/a", 1)], revision);
        }
        let Some(Ok(WatchItem::Changes(changes))) = stream.next().await else { panic!() };
        assert_eq!(changes.len(), WATCH_CHANGES_MAX);
        assert!(
            matches!(stream.next().await, Some(Err(Error::Lagged { at })) if at == changes.last().unwrap().revision)
        );
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_watch_from_the_future_gets_only_the_future() {
        let mut watchers = Watchers::new(1);
        let mut stream = watchers.watch("/", 3).unwrap();
        watchers.publish(vec![change(2, "/a", 1), change(3, "/a", 1), change(4, "/a", 1)], 4);
        let Some(Ok(WatchItem::Changes(changes))) = stream.next().await else { panic!() };
        assert_eq!(changes.iter().map(|c| c.revision).collect::<Vec<_>>(), [4]);
    }

    #[tokio::test]
    async fn dropped_watches_are_forgotten() {
        let mut watchers = Watchers::new(1);
        drop(watchers.watch("/", 1).unwrap());
        watchers.publish(vec![change(2, "/a", 1)], 2);
        assert!(watchers.open.is_empty());
    }
}
