//! The store of the apiserver: what it promises (trait `Store`), and the two engines that keep the promise.
//!
//! A store is an ordered map from key to opaque bytes with one global revision counter that grows by one per
//! successful write, compare-and-swap writes, and watches over its history: the part of etcd that Kubernetes uses.

pub mod embedded;
pub mod etcd;

#[cfg(test)]
mod conformance;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// The longest value a store takes: the apiserver's request limit (3 MiB, as upstream) and what defaulting,
/// managedFields and encryption at rest add to it.
pub const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The longest key: `/registry/<group-resource>/<namespace>/<name>`, each at most 253 bytes, with room to spare.
pub const KEY_BYTES_MAX: usize = 2048;

/// One key and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Arc<str>,
    pub value: Bytes,
    /// Revision of the write that put this value (etcd's `mod_revision`).
    pub revision: u64,
}

/// Every entry under a prefix at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision of the whole store at which the entries were read.
    pub revision: u64,
    /// Sorted by key.
    pub entries: Vec<Entry>,
}

/// What a write requires of the key's present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Absent,
    Revision(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `ttl`: the store deletes the key that long after this write, unless a later Put replaces it.
    Put {
        value: Bytes,
        ttl: Option<Duration>,
    },
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub key: String,
    pub expected: Expected,
    pub operation: Operation,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Written {
        revision: u64,
    },
    /// The compare failed; `current` is what is there now.
    Conflict {
        current: Option<Entry>,
    },
}

/// One write as a watch reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Arc<str>,
    /// Revision of the write; for a deletion, of the delete.
    pub revision: u64,
    /// `None`: deleted.
    pub value: Option<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// In revision order; one revision is never split over two items.
    Changes(Vec<Change>),
    /// Everything up to this revision has been delivered.
    Progress(u64),
}

pub type WatchStream = BoxStream<'static, Result<WatchItem, Error>>;

/// What every engine does; `conformance.rs` says it in tests.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Every entry whose key starts with `prefix`, consistent at one revision.
    async fn load(&self, prefix: &str) -> Result<Snapshot, Error>;

    /// The entry, if any, and the revision the answer is at.
    async fn get(&self, key: &str) -> Result<(Option<Entry>, u64), Error>;

    /// Compares and writes; returns only when the write is durable.
    async fn write(&self, write: Write) -> Result<Outcome, Error>;

    /// Changes from `after + 1` on, without gaps. [`Error::Compacted`] when history no longer reaches back so far.
    /// A stream ends only with an error item (or when the store is closed).
    async fn watch(&self, prefix: &str, after: u64) -> Result<WatchStream, Error>;

    /// The newest revision; linearizable.
    async fn revision(&self) -> Result<u64, Error>;

    /// Makes open watches emit [`WatchItem::Progress`] soon.
    async fn request_progress(&self) -> Result<(), Error>;

    async fn healthy(&self) -> Result<(), Error>;

    /// Flushes and releases the files; every later call fails with [`Error::Closed`].
    async fn close(&self) -> Result<(), Error>;

    /// Bytes on disk, where the engine knows.
    fn size_bytes(&self) -> Option<u64>;
}

/// An engine's own error, shared so that one failed commit can answer every write in it.
pub type Source = Arc<dyn std::error::Error + Send + Sync + 'static>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// `oldest` is the lowest `after` a watch can start from now.
    #[error(
        "history after revision {requested} has been compacted; the oldest revision to watch from is {oldest}"
    )]
    Compacted { requested: u64, oldest: u64 },
    /// Stored data is damaged: somebody must restore a backup or remove the file knowingly.
    #[error("store file {} is damaged: {what}", path.display())]
    Corrupt { path: PathBuf, what: String },
    /// The write may or may not have happened (etcd unreachable, timed out).
    #[error("store unavailable: {step}: {source}")]
    Unavailable {
        step: &'static str,
        #[source]
        source: Source,
    },
    /// The bounded queue of writes is full; nothing was written, try again later.
    #[error("store overloaded: {queued} writes are waiting")]
    Overloaded { queued: usize },
    #[error("{what} of {bytes} bytes exceeds the store's limit of {limit}")]
    TooLarge { what: &'static str, bytes: usize, limit: usize },
    #[error("store: {step} {}: {source}", path.display())]
    Io {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<std::io::Error>,
    },
    /// Another process has the data directory open.
    #[error("store directory {} is in use by another process", path.display())]
    Locked { path: PathBuf },
    /// A write to disk failed earlier; what the disk holds is unknown until a restart reads it back.
    #[error("store refuses writes since a failure ({reason}); restart the process")]
    Poisoned { reason: Arc<str> },
    /// The watcher read too slowly and lost its place; load again and watch from there.
    #[error("watch fell behind at revision {at}")]
    Lagged { at: u64 },
    #[error("store is closed")]
    Closed,
}

impl Error {
    pub(crate) fn io(step: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { step, path: path.into(), source: Arc::new(source) }
    }

    pub(crate) fn unavailable(
        step: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Unavailable { step, source: Arc::new(source) }
    }
}

/// Refuses what no engine stores, alike in both.
pub(crate) fn check_size(write: &Write) -> Result<(), Error> {
    if write.key.len() > KEY_BYTES_MAX {
        return Err(Error::TooLarge { what: "key", bytes: write.key.len(), limit: KEY_BYTES_MAX });
    }
    match &write.operation {
        Operation::Put { value, .. } if value.len() > VALUE_BYTES_MAX => {
            Err(Error::TooLarge { what: "value", bytes: value.len(), limit: VALUE_BYTES_MAX })
        }
        _ => Ok(()),
    }
}
