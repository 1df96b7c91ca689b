//! One change of one object, as the cache remembers it and as watchers get it.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use coracle_client::selector::{FieldSelector, Selector};
use coracle_client::{Head, Object, WatchEventKind};

use super::splice;

pub const FRAME_END: &[u8] = b"}\n";

/// How the line of a watch starts, up to its object.
pub fn frame_start(kind: WatchEventKind) -> &'static [u8] {
    match kind {
        WatchEventKind::Added => br#"{"type":"ADDED","object":"#,
        WatchEventKind::Modified => br#"{"type":"MODIFIED","object":"#,
        WatchEventKind::Deleted => br#"{"type":"DELETED","object":"#,
        WatchEventKind::Bookmark => br#"{"type":"BOOKMARK","object":"#,
    }
}

/// A change that has been applied.
pub struct Event {
    pub revision: u64,
    pub key: Arc<str>,
    /// None: deleted.
    pub object: Option<Arc<Object>>,
    pub previous: Option<Arc<Object>>,
    /// The encoded line for watchers that see the change as what it was; `object` shares its bytes.
    pub frame: Option<Bytes>,
    /// The same in protobuf, made by the first watcher who wants it.
    binary: Binary,
    pub taken_in: Instant,
    gone: OnceLock<Option<Arc<Object>>>,
}

impl Event {
    pub fn new(
        revision: u64,
        key: Arc<str>,
        object: Option<Arc<Object>>,
        previous: Option<Arc<Object>>,
        frame: Option<Bytes>,
    ) -> Self {
        Self {
            revision,
            key,
            object,
            previous,
            frame,
            binary: Binary::default(),
            taken_in: Instant::now(),
            gone: OnceLock::new(),
        }
    }

    /// What the event keeps in memory, about.
    pub fn cost_bytes(&self) -> usize {
        let size = |o: &Option<Arc<Object>>| o.as_ref().map_or(0, |o| o.json.len() + 512);
        self.key.len() + size(&self.object) + size(&self.previous)
    }

    fn natural_kind(&self) -> WatchEventKind {
        match (&self.object, &self.previous) {
            (Some(_), None) => WatchEventKind::Added,
            (Some(_), Some(_)) => WatchEventKind::Modified,
            (None, _) => WatchEventKind::Deleted,
        }
    }

    /// The last state before the object left, under this event's revision. Encoded once, for whoever asks first.
    fn gone(&self) -> Option<Arc<Object>> {
        self.gone
            .get_or_init(|| {
                let previous = self.previous.as_ref()?;
                let (_, json) = splice::framed(b"", &previous.json, self.revision, b"")?;
                let head = Head { resource_version: self.revision, ..previous.head.clone() };
                Some(Arc::new(Object::new(head, json)))
            })
            .clone()
    }

    /// What a watcher with this filter sees of the change.
    pub fn seen_through(&self, filter: &Filter) -> Option<Delivery> {
        let now = self.object.as_ref().filter(|o| filter.matches(&o.head));
        let before = self.previous.as_ref().is_some_and(|o| filter.matches(&o.head));
        let (kind, object) = match (now, before) {
            (Some(object), false) => (WatchEventKind::Added, object.clone()),
            (Some(object), true) => (WatchEventKind::Modified, object.clone()),
            (None, true) => (WatchEventKind::Deleted, self.gone()?),
            (None, false) => return None,
        };
        let shared = kind == self.natural_kind();
        let frame = self.frame.clone().filter(|_| shared);
        Some(Delivery { kind, object, frame, binary: shared.then(|| self.binary.clone()) })
    }
}

/// What a watcher is handed.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub kind: WatchEventKind,
    pub object: Arc<Object>,
    /// The encoded line, where it is shared with other watchers.
    pub frame: Option<Bytes>,
    /// Where its protobuf form is shared.
    pub binary: Option<Binary>,
}

/// Bytes that several watchers get and the first of them makes.
#[derive(Clone, Debug, Default)]
pub struct Binary(Arc<OnceLock<Bytes>>);

impl Binary {
    pub fn get_or_make<E>(&self, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        if let Some(bytes) = self.0.get() {
            return Ok(bytes.clone());
        }
        let bytes = make()?;
        Ok(self.0.get_or_init(|| bytes).clone())
    }
}

/// Which objects a list or watch is about. The default is all of them.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub namespace: Option<String>,
    pub labels: Selector,
    pub fields: FieldSelector,
}

impl Filter {
    pub fn matches(&self, head: &Head) -> bool {
        self.namespace.as_ref().is_none_or(|n| **n == *head.namespace) && self.selects(head)
    }

    /// Everything but the namespace.
    pub fn selects(&self, head: &Head) -> bool {
        (self.labels.is_everything() || self.labels.matches(head)) && self.fields.matches(head)
    }

    /// No selector narrows the namespace (or the whole).
    pub fn is_plain(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }
}
