//! The current objects of one resource, its recent changes and its watchers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use coracle_client::{ApiError, Head, Object, Resource, WatchEventKind};
use parking_lot::{Mutex, RwLock};
use tracing::warn;

use super::event::{Delivery, Event, FRAME_END, Filter, frame_start};
use super::queue::{self, Refused};
use super::ring::Ring;
use super::splice;
use super::whole::{Items, Packing, Wholes};

/// Objects looked at under one hold of the lock, so that a long list does not hold up writers.
const SCAN_OBJECTS_MAX: usize = 4 * 1024;

/// The selectable field that lists and watches are indexed by, where the resource has it: one node of thousands
/// must not cost a look at every object and every watcher.
const INDEXED_FIELD: &str = "spec.nodeName";

/// The cache no longer knows the revision asked for; `oldest` is the oldest it could have served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOld {
    pub oldest: u64,
}

pub struct ResourceCache {
    resource: Resource,
    /// What heads carry of objects.
    fields: &'static [&'static str],
    /// What is kept in the place of stored bytes that are not as they should be.
    normal: Option<Normal>,
    indexed: bool,
    state: RwLock<State>,
    next_watcher: AtomicU64,
    wholes: Wholes,
    /// Changes that came while the first snapshot was on its way; None when it is in.
    early: Mutex<Option<Vec<Early>>>,
}

/// Makes other bytes of stored ones, where they need it.
pub type Normal = Box<dyn Fn(&Bytes) -> Option<Bytes> + Send + Sync>;

/// A change that is kept until the snapshot is in.
struct Early {
    key: Arc<str>,
    revision: u64,
    value: Option<Bytes>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    by_field: HashMap<Box<str>, BTreeSet<Arc<str>>>,
    ring: Ring,
    /// Watchers of one value of the indexed field, and those of no particular one.
    narrow: HashMap<Box<str>, BTreeMap<u64, Watcher>>,
    broad: BTreeMap<u64, Watcher>,
}

struct Watcher {
    filter: Filter,
    /// A watch from the future is told nothing about what happens until then.
    after: u64,
    sender: queue::Sender,
}

/// One entry of the store, its key within the resource.
pub struct Stored {
    pub key: Arc<str>,
    pub revision: u64,
    pub value: Bytes,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With an ADDED for each present object.
    Now,
    /// With the changes after a revision.
    After(u64),
}

/// An open watch: what was to be seen when it began, then what comes.
pub struct Subscription {
    pub initial: Vec<Delivery>,
    /// The revision that `initial` brings the watcher to.
    pub revision: u64,
    pub receiver: queue::Receiver,
    cache: Arc<ResourceCache>,
    id: u64,
    pinned: Option<Box<str>>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.cache.state.write();
        match &self.pinned {
            None => {
                state.broad.remove(&self.id);
            }
            Some(value) => {
                if let Some(watchers) = state.narrow.get_mut(value) {
                    watchers.remove(&self.id);
                    if watchers.is_empty() {
                        state.narrow.remove(value);
                    }
                }
            }
        }
    }
}

/// A part of a list.
#[derive(Debug, Default)]
pub struct Page {
    pub objects: Vec<Arc<Object>>,
    /// The revision the page shows.
    pub revision: u64,
    /// The key of the last object, where more follow.
    pub last_key: Option<Arc<str>>,
    /// How many objects follow, selected or not.
    pub remaining: usize,
    /// The newest change of the resource that the page shows.
    changed: u64,
}

/// The key of an object within its resource.
pub fn key_of(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

impl ResourceCache {
    pub fn new(resource: Resource) -> Self {
        let fields = resource.selectable_fields();
        Self::with(resource, fields, None)
    }

    /// Of a custom resource: its selectable fields, and how its objects are kept.
    pub fn of_custom(resource: Resource, fields: &'static [&'static str], normal: Normal) -> Self {
        Self::with(resource, fields, Some(normal))
    }

    fn with(resource: Resource, fields: &'static [&'static str], normal: Option<Normal>) -> Self {
        let indexed = fields.contains(&INDEXED_FIELD);
        Self {
            resource,
            fields,
            normal,
            indexed,
            state: RwLock::default(),
            next_watcher: AtomicU64::new(0),
            wholes: Wholes::default(),
            early: Mutex::default(),
        }
    }

    /// Keeps changes back until [`Self::start_from`].
    pub(super) fn await_snapshot(&self) {
        *self.early.lock() = Some(Vec::new());
    }

    /// Takes over a snapshot, then the changes kept back that came after it.
    pub(super) fn start_from(&self, entries: Vec<Stored>, revision: u64) {
        let mut early = self.early.lock();
        self.replace(entries, revision);
        for change in early.take().unwrap_or_default() {
            self.take_in(&change.key, change.revision, change.value.as_ref());
        }
    }

    /// Ends all watches.
    pub(super) fn close(&self) {
        let mut state = self.state.write();
        state.broad.clear();
        state.narrow.clear();
    }

    pub fn fields(&self) -> &'static [&'static str] {
        self.fields
    }

    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).cloned()
    }

    /// The revision of the newest change.
    pub fn changed(&self) -> u64 {
        self.state.read().ring.last()
    }

    /// What each key that changed after a revision holds now, and the revision this is as of; where that is too long
    /// ago, everything there is, and true.
    pub fn changes(&self, after: u64) -> Changes {
        let state = self.state.read();
        let Some(events) = state.ring.after(after) else { return state.everything() };
        let keys: BTreeSet<&Arc<str>> = events.map(|event| &event.key).collect();
        let now = |key: &Arc<str>| (key.clone(), state.objects.get(key).cloned());
        (keys.into_iter().map(now).collect(), state.ring.last(), false)
    }

    /// As [`Self::changes`] for one who knows nothing yet.
    pub fn everything(&self) -> Changes {
        self.state.read().everything()
    }

    /// Takes over the whole present state. History before `revision` is unknown, so watches end.
    pub(super) fn replace(&self, entries: Vec<Stored>, revision: u64) {
        let mut fresh = State { ring: Ring::starting_at(revision), ..State::default() };
        for Stored { key, revision, value } in entries {
            if let Some((_, object)) = self.parse(b"", &key, revision, &value, b"", None) {
                self.index(&mut fresh, &key, None, Some(&object));
                fresh.objects.insert(key, object);
            }
        }
        *self.state.write() = fresh;
    }

    fn parse(
        &self,
        start: &[u8],
        key: &str,
        revision: u64,
        stored: &Bytes,
        end: &[u8],
        previous: Option<&Object>,
    ) -> Option<(Bytes, Arc<Object>)> {
        let normal = self.normal.as_ref().and_then(|normal| normal(stored));
        let stored = normal.as_ref().unwrap_or(stored);
        let Some((frame, json)) = splice::framed(start, stored, revision, end) else {
            warn!(resource = %self.resource, key, "a stored value is no API object; it is left out");
            return None;
        };
        match Head::parse(&json, self.fields) {
            Ok(mut head) => {
                if let Some(previous) = previous {
                    head.share(&previous.head);
                }
                Some((frame, Arc::new(Object::new(head, json))))
            }
            Err(error) => {
                warn!(resource = %self.resource, key, %error, "a stored object does not decode; it is left out");
                None
            }
        }
    }

    fn indexed_value<'a>(&self, object: &'a Object) -> Option<&'a str> {
        object.head.field(INDEXED_FIELD).filter(|value| self.indexed && !value.is_empty())
    }

    fn index(&self, state: &mut State, key: &Arc<str>, old: Option<&Object>, new: Option<&Object>) {
        if !self.indexed {
            return;
        }
        let (old, new) = (old.and_then(|o| self.indexed_value(o)), new.and_then(|o| self.indexed_value(o)));
        if old == new {
            return;
        }
        if let Some(value) = old
            && let Some(keys) = state.by_field.get_mut(value)
        {
            keys.remove(key);
            if keys.is_empty() {
                state.by_field.remove(value);
            }
        }
        if let Some(value) = new {
            state.by_field.entry(value.into()).or_default().insert(key.clone());
        }
    }

    /// Applies one change of the store and tells the watchers.
    pub(super) fn apply(&self, key: &str, revision: u64, stored: Option<&Bytes>) {
        if let Some(early) = &mut *self.early.lock() {
            early.push(Early { key: key.into(), revision, value: stored.cloned() });
            return;
        }
        self.take_in(key, revision, stored);
    }

    fn take_in(&self, key: &str, revision: u64, stored: Option<&Bytes>) {
        let (key, previous) = {
            let state = self.state.read();
            // The snapshot that the cache started from had it already.
            if revision <= state.ring.floor() {
                return;
            }
            match state.objects.get_key_value(key) {
                Some((key, previous)) => (key.clone(), Some(previous.clone())),
                None if stored.is_none() => return,
                None => (Arc::from(key), None),
            }
        };
        let kind = if previous.is_some() { WatchEventKind::Modified } else { WatchEventKind::Added };
        // Parsing happens outside the lock: this is the only writer, so `previous` stays true.
        let parsed = match stored {
            Some(stored) => {
                match self.parse(frame_start(kind), &key, revision, stored, FRAME_END, previous.as_deref()) {
                    Some(parsed) => Some(parsed),
                    None => return,
                }
            }
            None => None,
        };
        let (frame, object) = parsed.unzip();
        let mut state = self.state.write();
        self.index(&mut state, &key, previous.as_deref(), object.as_deref());
        match &object {
            Some(object) => state.objects.insert(key.clone(), object.clone()),
            None => state.objects.remove(&key),
        };
        let event = Arc::new(Event::new(revision, key, object, previous, frame));
        self.dispatch(&mut state, &event);
        state.ring.push(event);
    }

    fn dispatch(&self, state: &mut State, event: &Event) {
        if state.broad.is_empty() && state.narrow.is_empty() {
            return;
        }
        let resource = &self.resource;
        let deliver = |watcher: &mut Watcher| -> bool {
            if event.revision <= watcher.after {
                return true;
            }
            let Some(delivery) = event.seen_through(&watcher.filter) else { return true };
            match watcher.sender.send(delivery) {
                Ok(()) => true,
                Err(Refused::Gone) => false,
                Err(Refused::TooFarBehind) => {
                    warn!(%resource, "a watcher that reads too slowly is ended");
                    false
                }
            }
        };
        state.broad.retain(|_, watcher| deliver(watcher));
        let now = event.object.as_deref().and_then(|o| self.indexed_value(o));
        let before = event.previous.as_deref().and_then(|o| self.indexed_value(o));
        for value in [now, before.filter(|b| now != Some(*b))].into_iter().flatten() {
            if let Some(watchers) = state.narrow.get_mut(value) {
                watchers.retain(|_, watcher| deliver(watcher));
            }
        }
    }

    pub(super) fn trim(&self, now: Instant) {
        self.state.write().ring.trim(now);
        self.wholes.trim(now);
    }

    /// Watches what the filter lets through. `progress`: how far the whole cache has got.
    pub fn watch(
        self: &Arc<Self>,
        filter: Filter,
        from: From,
        progress: u64,
    ) -> Result<Subscription, TooOld> {
        let (sender, receiver) = queue::queue();
        let pinned: Option<Box<str>> =
            filter.fields.pinned(INDEXED_FIELD).filter(|v| self.indexed && !v.is_empty()).map(Into::into);
        let id = self.next_watcher.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.write();
        let (initial, revision) = match from {
            From::Now => {
                let added = |object: &Arc<Object>| Delivery {
                    kind: WatchEventKind::Added,
                    object: object.clone(),
                    frame: None,
                    binary: None,
                };
                let initial = state.select(&filter, pinned.as_deref()).map(added).collect();
                (initial, progress.max(state.ring.last()))
            }
            From::After(revision) => {
                let Some(events) = state.ring.after(revision) else {
                    return Err(TooOld { oldest: state.ring.floor() });
                };
                let initial = events.filter_map(|event| event.seen_through(&filter)).collect();
                (initial, revision)
            }
        };
        let watcher = Watcher { filter, after: revision, sender };
        match &pinned {
            None => state.broad.insert(id, watcher),
            Some(value) => state.narrow.entry(value.clone()).or_default().insert(id, watcher),
        };
        drop(state);
        Ok(Subscription { initial, revision, receiver, cache: self.clone(), id, pinned })
    }

    /// Lists what the filter lets through, after the key `start`, at most `limit` objects. `at`: exactly as of that
    /// revision; otherwise the present. `progress`: how far the whole cache has got.
    pub fn list(
        &self,
        filter: &Filter,
        start: Option<&str>,
        limit: Option<usize>,
        at: Option<u64>,
        progress: u64,
    ) -> Result<Page, TooOld> {
        let pinned = filter.fields.pinned(INDEXED_FIELD).filter(|v| self.indexed && !v.is_empty());
        if let (Some(value), None, None, None) = (pinned, start, limit, at) {
            let state = self.state.read();
            let objects = state.select(filter, Some(value)).cloned().collect();
            return Ok(Page { objects, revision: progress.max(state.ring.last()), ..Page::default() });
        }
        let mut page = Page::default();
        let mut at = at;
        let mut cursor: Option<Arc<str>> = start.map(Arc::from);
        loop {
            let state = self.state.read();
            let revision = *at.get_or_insert(progress.max(state.ring.last()));
            page.revision = revision;
            if cursor.is_none() {
                page.changed = state.ring.last();
            }
            let overlay = state.overlay(revision)?;
            let mut scanned = 0;
            let mut more = false;
            let from = cursor.take();
            let mut found = state.range(filter, from.as_deref(), &overlay);
            for (key, object) in found.by_ref() {
                scanned += 1;
                cursor = Some(key.clone());
                if filter.selects(&object.head) {
                    page.objects.push(object.clone());
                    page.last_key = Some(key.clone());
                }
                more = scanned >= SCAN_OBJECTS_MAX || limit.is_some_and(|l| page.objects.len() >= l);
                if more {
                    break;
                }
            }
            if limit.is_some_and(|l| page.objects.len() >= l) {
                page.remaining = found.count();
                if page.remaining == 0 {
                    page.last_key = None;
                }
                return Ok(page);
            }
            if !more {
                page.last_key = None;
                return Ok(page);
            }
        }
    }

    /// The revision and the encoded items of the present list without selectors; `put` appends an object as protobuf.
    pub fn whole(
        &self,
        namespace: Option<&str>,
        packing: Packing,
        progress: u64,
        put: impl Fn(&Object, &mut Vec<u8>) -> Result<(), ApiError>,
    ) -> Result<(u64, Arc<Items>), ApiError> {
        let changed = self.state.read().ring.last();
        if let Some(items) = self.wholes.get(namespace, packing, changed) {
            return Ok((progress.max(changed), items));
        }
        let filter = Filter { namespace: namespace.map(str::to_owned), ..Filter::default() };
        let page = self.list(&filter, None, None, None, progress).map_err(|TooOld { oldest }| {
            ApiError::internal(format!("the present is too old: the cache begins at {oldest}"))
        })?;
        let items = Items::encode(&page.objects, packing, put)?;
        self.wholes.put(namespace, packing, page.changed, &items);
        Ok((page.revision, items))
    }

    #[cfg(test)]
    pub(super) fn watchers(&self) -> usize {
        let state = self.state.read();
        state.broad.len() + state.narrow.values().map(BTreeMap::len).sum::<usize>()
    }
}

/// What keys hold (None: nothing any more), as of which revision, and whether these are all there are.
pub type Changes = (Vec<(Arc<str>, Option<Arc<Object>>)>, u64, bool);

/// What keys held at an earlier revision, for those that changed since; None: nothing.
type Overlay = BTreeMap<Arc<str>, Option<Arc<Object>>>;

impl State {
    fn everything(&self) -> Changes {
        let all = self.objects.iter().map(|(key, object)| (key.clone(), Some(object.clone())));
        (all.collect(), self.ring.last(), true)
    }

    fn overlay(&self, at: u64) -> Result<Overlay, TooOld> {
        let events = self.ring.after(at).ok_or(TooOld { oldest: self.ring.floor() })?;
        let mut overlay = Overlay::new();
        for event in events {
            overlay.entry(event.key.clone()).or_insert_with(|| event.previous.clone());
        }
        Ok(overlay)
    }

    /// Objects in the filter's namespace after `start`, as the overlay shows them, in key order.
    fn range<'a>(
        &'a self,
        filter: &Filter,
        start: Option<&str>,
        overlay: &'a Overlay,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<Object>)> {
        let prefix = filter.namespace.as_ref().map(|n| format!("{n}/"));
        let low = match (start, &prefix) {
            (Some(start), Some(prefix)) if start >= prefix.as_str() => Bound::Excluded(start.to_owned()),
            (_, Some(prefix)) => Bound::Included(prefix.clone()),
            (Some(start), None) => Bound::Excluded(start.to_owned()),
            (None, None) => Bound::Unbounded,
        };
        let low = low.as_ref().map(String::as_str);
        let mut present = self.objects.range::<str, _>((low, Bound::Unbounded)).peekable();
        let mut past = overlay.range::<str, _>((low, Bound::Unbounded)).peekable();
        std::iter::from_fn(move || {
            loop {
                let from_past = match (present.peek(), past.peek()) {
                    (_, None) => return present.next(),
                    (None, Some(_)) => true,
                    (Some((now, _)), Some((then, _))) => then <= now,
                };
                if !from_past {
                    return present.next();
                }
                let (key, object) = past.next()?;
                if present.peek().is_some_and(|(now, _)| *now == key) {
                    present.next();
                }
                if let Some(object) = object {
                    return Some((key, object));
                }
            }
        })
        .take_while(move |(key, _)| prefix.as_ref().is_none_or(|p| key.starts_with(p.as_str())))
    }

    /// The present objects that a filter lets through, by the index where a value is pinned.
    fn select<'a>(
        &'a self,
        filter: &'a Filter,
        pinned: Option<&str>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Object>> + 'a> {
        match pinned {
            Some(value) => Box::new(
                self.by_field
                    .get(value)
                    .into_iter()
                    .flatten()
                    .filter_map(|key| self.objects.get(key))
                    .filter(|o| filter.matches(&o.head)),
            ),
            None => Box::new(
                self.range(filter, None, const { &Overlay::new() })
                    .map(|(_, object)| object)
                    .filter(|o| filter.selects(&o.head)),
            ),
        }
    }
}
