//! A store in memory that outlives the apiservers on it, with latency, lost answers and late watches on demand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_apiserver::storage::{
    Change, Entry, Error, Expected, Operation, Outcome, Snapshot, Store, WatchItem, WatchStream, Write,
};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::faults::Faults;

/// Sees every write in order: the key and what it holds now.
type Observer = Box<dyn Fn(&str, Option<&Bytes>, u64) + Send + Sync>;

pub struct Disk {
    state: Mutex<State>,
    observer: Observer,
}

#[derive(Default)]
struct State {
    revision: u64,
    entries: BTreeMap<Arc<str>, Entry>,
    history: Vec<Change>,
    /// Revisions up to here are no longer in the history.
    compacted: u64,
    watchers: Vec<(String, mpsc::UnboundedSender<Result<WatchItem, Error>>)>,
}

impl Disk {
    pub fn new(observer: impl Fn(&str, Option<&Bytes>, u64) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), observer: Box::new(observer) })
    }

    /// Forgets all history: whoever is behind must load anew.
    pub fn compact(&self) {
        let mut state = self.state.lock();
        state.history.clear();
        state.compacted = state.revision;
    }

    fn commit(self: &Arc<Self>, write: Write) -> Outcome {
        let mut state = self.state.lock();
        let current = state.entries.get(write.key.as_str()).cloned();
        let meets = match (&current, write.expected) {
            (None, Expected::Absent) => true,
            (Some(entry), Expected::Revision(revision)) => entry.revision == revision,
            _ => false,
        };
        if !meets {
            return Outcome::Conflict { current };
        }
        state.revision += 1;
        let revision = state.revision;
        let key: Arc<str> = write.key.into();
        let value = match write.operation {
            Operation::Put { value, ttl } => {
                state.entries.insert(key.clone(), Entry { key: key.clone(), value: value.clone(), revision });
                if let Some(ttl) = ttl {
                    self.expire(key.to_string(), revision, ttl);
                }
                Some(value)
            }
            Operation::Delete => {
                state.entries.remove(&key);
                None
            }
        };
        (self.observer)(&key, value.as_ref(), revision);
        let change = Change { key, revision, value };
        state.history.push(change.clone());
        state.watchers.retain(|(prefix, sender)| {
            !change.key.starts_with(prefix.as_str())
                || sender.send(Ok(WatchItem::Changes(vec![change.clone()]))).is_ok()
        });
        Outcome::Written { revision }
    }

    fn expire(self: &Arc<Self>, key: String, revision: u64, ttl: Duration) {
        let disk = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ttl).await;
            let expected = Expected::Revision(revision);
            disk.commit(Write { key, expected, operation: Operation::Delete });
        });
    }
}

/// One apiserver's way to the disk; it dies with the apiserver.
pub struct Connection {
    pub disk: Arc<Disk>,
    pub faults: Arc<Faults>,
    pub alive: Arc<AtomicBool>,
}

impl Connection {
    fn usable(&self) -> Result<(), Error> {
        if self.alive.load(Ordering::Relaxed) { Ok(()) } else { Err(Error::Closed) }
    }

    fn lost(step: &'static str) -> Error {
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        Error::Unavailable { step, source: Arc::new(reset) }
    }
}

#[async_trait]
impl Store for Connection {
    async fn load(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.faults.pause().await;
        self.usable()?;
        let state = self.disk.state.lock();
        let entries = state.entries.values().filter(|entry| entry.key.starts_with(prefix)).cloned().collect();
        Ok(Snapshot { revision: state.revision, entries })
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, u64), Error> {
        self.faults.pause().await;
        self.usable()?;
        let state = self.disk.state.lock();
        Ok((state.entries.get(key).cloned(), state.revision))
    }

    async fn write(&self, write: Write) -> Result<Outcome, Error> {
        self.faults.pause().await;
        self.usable()?;
        let outcome = self.disk.commit(write);
        self.faults.pause().await;
        // Whether it was written is not known to who asked.
        if self.faults.store_answer_lost() { Err(Self::lost("write")) } else { Ok(outcome) }
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<WatchStream, Error> {
        self.faults.pause().await;
        self.usable()?;
        let (sender, receiver) = mpsc::unbounded_channel();
        {
            let mut state = self.disk.state.lock();
            if after < state.compacted {
                return Err(Error::Compacted { requested: after, oldest: state.compacted });
            }
            let missed = state
                .history
                .iter()
                .filter(|change| change.revision > after && change.key.starts_with(prefix))
                .cloned();
            for change in missed {
                sender.send(Ok(WatchItem::Changes(vec![change]))).ok();
            }
            state.watchers.push((prefix.to_owned(), sender));
        }
        let (faults, alive) = (self.faults.clone(), self.alive.clone());
        let late = UnboundedReceiverStream::new(receiver).then(move |item| {
            let (faults, alive) = (faults.clone(), alive.clone());
            async move {
                faults.lag().await;
                if !alive.load(Ordering::Relaxed) {
                    return Err(Error::Closed);
                }
                if faults.store_watch_cut() { Err(Self::lost("watch")) } else { item }
            }
        });
        Ok(late.boxed())
    }

    async fn revision(&self) -> Result<u64, Error> {
        self.faults.pause().await;
        self.usable()?;
        Ok(self.disk.state.lock().revision)
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.usable()?;
        let mut state = self.disk.state.lock();
        let revision = state.revision;
        state.watchers.retain(|(_, sender)| sender.send(Ok(WatchItem::Progress(revision))).is_ok());
        Ok(())
    }

    async fn healthy(&self) -> Result<(), Error> {
        self.usable()
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }

    fn size_bytes(&self) -> Option<u64> {
        None
    }
}
