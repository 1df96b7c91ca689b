//! The embedded store: one append-only log, one writer thread that group-commits, every key's place in memory.
//!
//! Why an own log. The engine was to be fjall 3.1 if it survived power loss. It does not (one journal, batches of four
//! 2,000-byte values, each acknowledged after `SyncData`): with any one 4 KiB page of the journal zeroed, all 197 of
//! 197 opens *succeeded* and silently dropped everything from that page on (its reader truncates the file there); and
//! with one 512-byte sector missing from a last batch that was never acknowledged, 12 of 15 opens failed for good with
//! a checksum mismatch, so an ordinary power cut can brick the store. Checks of our own around it could report the
//! first, but not mend the second. The fallback, redb, is sound but writes 49 KB to the device for a 2 KiB write at one
//! client and reaches a third of a log's throughput.
//!
//! What the log is. Segments `<number>.log` hold frames; a frame is one group commit: checksummed, numbered without
//! gaps, synced before the next is written, whole pages to itself ([`frame`]). A value lives in the log only; memory
//! holds key, revision and place ([`state`]). Live records of the oldest segment are copied forward by the commits
//! themselves ([`clean`]); the segment is then written over instead of a new file, so a commit of 2 KiB writes one 4 KiB
//! page and no metadata. The file `mark` says how far the log was acknowledged; with it and the numbering, an open tells
//! a torn tail from lost data ([`recovery`]). The tests lose power a few hundred times (`simulation`; 18,000 times
//! when it was written, and with each sync or check taken out in turn they fail).

mod clean;
mod commit;
mod disk;
mod expiry;
mod frame;
mod log;
mod recovery;
mod scan;
mod state;
mod watchers;
mod writer;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Entry, Error, Outcome, Snapshot, Store, WatchStream, Write, check_size};
use commit::{Committer, Shared};
use disk::{Directory, Disk};
use expiry::Clock;
use frame::Identity;
use writer::Request;

/// Writes that may wait for the writer; beyond either bound a write gets [`Error::Overloaded`].
const QUEUE_WRITES_MAX: usize = 2048;
const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Least length at which a segment is sealed and the next begun; the log keeps about two more than it needs.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 4 * 1024 * 1024 }
    }
}

/// A store in a local directory, owned by this process alone.
pub struct Embedded {
    shared: Arc<Shared>,
    requests: SyncSender<Request>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Embedded {
    /// Opens or creates the store; reads and verifies the whole log, so it blocks for as long as that takes.
    pub fn open(directory: &Path, options: Options) -> Result<Self, Error> {
        Self::on(Arc::new(Directory::open(directory)?), options)
    }

    fn on(disk: Arc<dyn Disk>, options: Options) -> Result<Self, Error> {
        let identity = Identity(*uuid::Uuid::new_v4().as_bytes());
        let path = disk.path("");
        let committer = Committer::open(disk, options.segment_bytes, identity, Clock::read())?;
        let shared = committer.shared();
        let (requests, receiver) = sync_channel(QUEUE_WRITES_MAX);
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer::run(committer, &receiver))
            .map_err(|e| Error::io("start the writer thread for", path, e))?;
        Ok(Self { shared, requests, writer: Mutex::new(Some(writer)) })
    }

    fn open_or_closed(&self) -> Result<(), Error> {
        if self.shared.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// The writer is gone although nobody closed the store: it panicked.
    fn gone(&self) -> Error {
        if let Err(closed) = self.open_or_closed() {
            return closed;
        }
        let reason = self.shared.poisoned.get_or_init(|| "the writer thread has died".into());
        Error::Poisoned { reason: reason.clone() }
    }

    fn enqueue(&self, write: Write) -> Result<oneshot::Receiver<Result<Outcome, Error>>, Error> {
        let cost = writer::cost(&write);
        let overloaded = |shared: &Shared| {
            shared.queued_bytes.fetch_sub(cost, Ordering::Relaxed);
            let queued = shared.queued_writes.fetch_sub(1, Ordering::Relaxed) - 1;
            Error::Overloaded { queued }
        };
        self.shared.queued_writes.fetch_add(1, Ordering::Relaxed);
        let before = self.shared.queued_bytes.fetch_add(cost, Ordering::Relaxed);
        if before > 0 && before + cost > QUEUE_BYTES_MAX {
            return Err(overloaded(&self.shared));
        }
        let (reply, answer) = oneshot::channel();
        match self.requests.try_send(Request::Write(write, reply)) {
            Ok(()) => Ok(answer),
            Err(TrySendError::Full(_)) => Err(overloaded(&self.shared)),
            Err(TrySendError::Disconnected(_)) => Err(self.gone()),
        }
    }
}

/// Reading values may wait for the disk, which must not hold up the runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::unavailable("read the store", e))?
}

#[async_trait]
impl Store for Embedded {
    async fn load(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.open_or_closed()?;
        let (revision, slots) = {
            let state = self.shared.state.read();
            (state.revision, state.under(prefix))
        };
        if slots.is_empty() {
            return Ok(Snapshot { revision, entries: Vec::new() });
        }
        blocking(move || {
            let entries = slots.into_iter().map(|(key, slot)| slot.read(key)).collect::<Result<_, _>>()?;
            Ok(Snapshot { revision, entries })
        })
        .await
    }

    async fn get(&self, key: &str) -> Result<(Option<Entry>, u64), Error> {
        self.open_or_closed()?;
        let (revision, slot) = {
            let state = self.shared.state.read();
            (state.revision, state.get(key).map(|(key, slot)| (key.clone(), slot.clone())))
        };
        let Some((key, slot)) = slot else { return Ok((None, revision)) };
        Ok((Some(blocking(move || slot.read(key)).await?), revision))
    }

    async fn write(&self, write: Write) -> Result<Outcome, Error> {
        self.open_or_closed()?;
        check_size(&write)?;
        let answer = self.enqueue(write)?;
        answer.await.map_err(|_| self.gone())?
    }

    async fn watch(&self, prefix: &str, after: u64) -> Result<WatchStream, Error> {
        self.open_or_closed()?;
        self.shared.watchers.lock().watch(prefix, after)
    }

    async fn revision(&self) -> Result<u64, Error> {
        self.open_or_closed()?;
        Ok(self.shared.state.read().revision)
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.open_or_closed()?;
        self.shared.watchers.lock().progress();
        Ok(())
    }

    async fn healthy(&self) -> Result<(), Error> {
        self.open_or_closed()?;
        match self.shared.poison_error() {
            Some(error) => Err(error),
            None if self.writer.lock().as_ref().is_some_and(JoinHandle::is_finished) => Err(self.gone()),
            None => Ok(()),
        }
    }

    async fn close(&self) -> Result<(), Error> {
        if self.shared.closed.swap(true, Ordering::AcqRel) {
            return Err(Error::Closed);
        }
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.clone();
        let writer = self.writer.lock().take();
        blocking(move || {
            // Queued writes are committed first. When the writer is gone there is nothing to flush.
            let _ = requests.send(Request::Close(reply));
            if let Some(writer) = writer {
                let _ = writer.join();
            }
            Ok(())
        })
        .await?;
        answer.await.map_err(|_| Error::Closed)?
    }

    fn size_bytes(&self) -> Option<u64> {
        Some(self.shared.disk_bytes.load(Ordering::Relaxed))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.lock().take() {
            let (reply, _) = oneshot::channel();
            let _ = self.requests.send(Request::Close(reply));
            let _ = writer.join();
        }
    }
}
