//! A shared, indexed, read-only copy of a resource that follows the API by list and watch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::{Client, Kind};
use crate::object::{Key, Object};
use crate::reflector;
use crate::resource::Resource;
use crate::selector::Selector;

/// What happened to one object: created (no old), changed, or deleted (no new).
#[derive(Clone, Debug)]
pub struct Change {
    pub old: Option<Arc<Object>>,
    pub new: Option<Arc<Object>>,
}

impl Change {
    /// The newest state there is of the object.
    pub fn object(&self) -> &Arc<Object> {
        match (&self.new, &self.old) {
            (Some(object), _) | (None, Some(object)) => object,
            (None, None) => unreachable!("a change has an old or a new object"),
        }
    }

    pub fn key(&self) -> Key {
        self.object().key()
    }
}

/// Computes the index values of an object.
pub type IndexFn = fn(&Object) -> Vec<Box<str>>;
type Handler = Box<dyn Fn(&Change) + Send + Sync>;

/// Name of the index by namespace and label.
const BY_LABEL: &str = "metadata.labels";

pub(crate) fn label_value(namespace: &str, key: &str, value: &str) -> Box<str> {
    format!("{namespace}/{key}={value}").into()
}

/// Name of the index by the uid of every owner.
const BY_OWNER: &str = "metadata.ownerReferences.uid";

/// A handle to the shared copy. Cheap to clone. Objects are shared: never modified.
#[derive(Clone)]
pub struct Informer {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) resource: Resource,
    pub(crate) scope: InformerScope,
    state: RwLock<State>,
    handlers: Mutex<Vec<Handler>>,
    /// The copy keeps heads without their JSON.
    heads_only: bool,
    synced: watch::Sender<bool>,
}

/// What part of a resource an informer follows. The default is all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct InformerScope {
    pub namespace: Option<String>,
    pub label_selector: Option<String>,
    pub field_selector: Option<String>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Arc<Object>>,
    indexes: HashMap<&'static str, Index>,
}

struct Index {
    values: IndexFn,
    keys: HashMap<Box<str>, BTreeSet<Key>>,
}

impl Informer {
    fn new(resource: Resource, scope: InformerScope) -> Self {
        Self::with(resource, scope, Vec::new(), false)
    }

    fn with(resource: Resource, scope: InformerScope, handlers: Vec<Handler>, heads_only: bool) -> Self {
        let mut state = State::default();
        state.indexes.insert(
            BY_OWNER,
            Index {
                values: |o| o.head.owners.iter().map(|w| w.uid.as_str().into()).collect(),
                keys: HashMap::new(),
            },
        );
        Self {
            shared: Arc::new(Shared {
                resource,
                scope,
                state: RwLock::new(state),
                handlers: Mutex::new(handlers),
                heads_only,
                synced: watch::Sender::new(false),
            }),
        }
    }

    pub fn resource(&self) -> &Resource {
        &self.shared.resource
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.get_key(&Key::new(namespace, name))
    }

    pub fn get_key(&self, key: &Key) -> Option<Arc<Object>> {
        self.shared.state.read().objects.get(key).cloned()
    }

    /// Everything, in order of namespace and name.
    pub fn list(&self) -> Vec<Arc<Object>> {
        self.shared.state.read().objects.values().cloned().collect()
    }

    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<Object>> {
        let state = self.shared.state.read();
        state
            .objects
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Adds the index by which [`Informer::select`] looks at no more objects than have one of the labels asked for.
    pub fn index_labels(&self) {
        self.add_index(BY_LABEL, |o| {
            o.head.labels.iter().map(|(key, value)| label_value(&o.head.namespace, key, value)).collect()
        });
    }

    /// Objects of a namespace whose labels match.
    pub fn select(&self, namespace: &str, selector: &Selector) -> Vec<Arc<Object>> {
        let state = self.shared.state.read();
        if let Some(index) = state.indexes.get(BY_LABEL)
            && let Some(values) = selector.equalities(namespace)
        {
            let Some(sets): Option<Vec<_>> = values.iter().map(|value| index.keys.get(value)).collect()
            else {
                return Vec::new();
            };
            let fewest = sets.into_iter().min_by_key(|keys| keys.len());
            let objects = fewest.into_iter().flatten().filter_map(|key| state.objects.get(key));
            return objects.filter(|o| selector.matches(&o.head)).cloned().collect();
        }
        drop(state);
        let mut objects = self.list_namespace(namespace);
        objects.retain(|o| selector.matches(&o.head));
        objects
    }

    /// Objects that name `uid` as an owner (controller or not).
    pub fn by_owner(&self, uid: &str) -> Vec<Arc<Object>> {
        self.by_index(BY_OWNER, uid)
    }

    /// Objects under `value` of an index added with [`Informer::add_index`].
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<Object>> {
        let state = self.shared.state.read();
        let Some(keys) = state.indexes.get(index).and_then(|i| i.keys.get(value)) else { return Vec::new() };
        keys.iter().filter_map(|key| state.objects.get(key).cloned()).collect()
    }

    /// Adds an index (once per name); what is there already is indexed at once.
    pub fn add_index(&self, name: &'static str, values: IndexFn) {
        let mut state = self.shared.state.write();
        if state.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values, keys: HashMap::new() };
        for (key, object) in &state.objects {
            index.insert(key, object);
        }
        state.indexes.insert(name, index);
    }

    pub fn len(&self) -> usize {
        self.shared.state.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `handler` for every object that is there now, then for every change, in order, after the copy shows it.
    /// Handlers must be quick: they add keys to queues.
    pub fn on_change(&self, handler: impl Fn(&Change) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        let present: Vec<_> = self.shared.state.read().objects.values().cloned().collect();
        for object in present {
            handler(&Change { old: None, new: Some(object) });
        }
        handlers.push(Box::new(handler));
    }

    /// Resolves when the first list has been taken in.
    pub async fn synced(&self) {
        let mut receiver = self.shared.synced.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = receiver.wait_for(|synced| *synced).await;
    }

    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }
}

impl Shared {
    /// Takes in one object; an older one than the copy holds is ignored.
    pub(crate) fn apply(&self, object: Arc<Object>) {
        let handlers = self.handlers.lock();
        let old = {
            let mut state = self.state.write();
            let key = object.key();
            if let Some(present) = state.objects.get(&key)
                && present.head.uid == object.head.uid
                && present.head.resource_version >= object.head.resource_version
            {
                return;
            }
            let kept = if self.heads_only { object.without_json() } else { object.clone() };
            state.insert(key, kept)
        };
        // Deleted and made again under its name while nobody watched: two objects, so two changes.
        let (gone, old) = match old {
            Some(old) if old.head.uid != object.head.uid => (Some(old), None),
            old => (None, old),
        };
        let gone = gone.map(|old| Change { old: Some(old), new: None });
        for change in gone.into_iter().chain([Change { old, new: Some(object) }]) {
            handlers.iter().for_each(|handler| handler(&change));
        }
    }

    /// Takes out one object; `last` is its last state where the watch brought it.
    pub(crate) fn remove(&self, key: &Key, last: Option<Arc<Object>>) {
        let handlers = self.handlers.lock();
        let old = self.state.write().remove(key);
        let Some(old) = last.or(old) else { return };
        let change = Change { old: Some(old), new: None };
        handlers.iter().for_each(|handler| handler(&change));
    }

    /// Makes the copy equal to a fresh list.
    pub(crate) fn replace(&self, objects: Vec<Arc<Object>>) {
        let gone: Vec<Key> = {
            let listed: BTreeSet<Key> = objects.iter().map(|o| o.key()).collect();
            self.state.read().objects.keys().filter(|key| !listed.contains(key)).cloned().collect()
        };
        for key in gone {
            self.remove(&key, None);
        }
        for object in objects {
            self.apply(object);
        }
        self.synced.send_replace(true);
    }
}

impl State {
    fn insert(&mut self, key: Key, object: Arc<Object>) -> Option<Arc<Object>> {
        let old = self.objects.insert(key.clone(), object.clone());
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Object>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }
}

impl Index {
    fn insert(&mut self, key: &Key, object: &Object) {
        for value in (self.values)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &Object) {
        for value in (self.values)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

/// Makes informers on demand, one per resource and scope, and ends them with the shutdown token.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    shutdown: CancellationToken,
    informers: Arc<Mutex<Vec<Informer>>>,
}

impl Informers {
    pub fn new(client: Client, shutdown: CancellationToken) -> Self {
        Self { client, shutdown, informers: Arc::default() }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The shared informer of a type; started when first asked for.
    pub fn of<K: Kind>(&self) -> Informer {
        self.scoped(Resource::of::<K>(), InformerScope::default())
    }

    pub fn of_resource(&self, resource: Resource) -> Informer {
        self.scoped(resource, InformerScope::default())
    }

    /// The shared informer of a part of a resource, e.g. the pods of one node.
    pub fn scoped(&self, resource: Resource, scope: InformerScope) -> Informer {
        let mut informers = self.informers.lock();
        if let Some(known) = informers
            .iter()
            .find(|i| !i.shared.heads_only && i.shared.resource == resource && i.shared.scope == scope)
        {
            return known.clone();
        }
        let informer = Informer::new(resource, scope);
        informers.push(informer.clone());
        tokio::spawn(reflector::run(self.client.clone(), informer.shared.clone(), self.shutdown.clone()));
        informer
    }

    /// An informer of its own whose copy keeps heads only: for who takes in each change when it comes, of tens of
    /// thousands of objects, and needs to know only what is there. The handler sees new objects whole, old ones not.
    pub fn heads(
        &self,
        resource: Resource,
        scope: InformerScope,
        handler: impl Fn(&Change) + Send + Sync + 'static,
    ) -> Informer {
        let informer = Informer::with(resource, scope, vec![Box::new(handler)], true);
        self.informers.lock().push(informer.clone());
        tokio::spawn(reflector::run(self.client.clone(), informer.shared.clone(), self.shutdown.clone()));
        informer
    }

    /// Resolves when every informer made so far has its first list.
    pub async fn synced(&self) {
        let informers = self.informers.lock().clone();
        for informer in informers {
            informer.synced().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn pod(name: &str, version: u64, owner: &str) -> Arc<Object> {
        let json = format!(
            r#"{{"metadata":{{"namespace":"ns","name":"{name}","uid":"{name}","resourceVersion":"{version}","ownerReferences":[{{"uid":"{owner}"}}]}}}}"#
        );
        Object::parse(json.into(), &[]).unwrap()
    }

    #[test]
    fn changes_keep_indexes_and_reach_handlers_in_order() {
        let informer = Informer::new(Resource::new("", "v1", "pods", "Pod", true), InformerScope::default());
        let seen = Arc::new(AtomicUsize::new(0));
        informer.shared.apply(pod("a", 1, "x"));
        let count = seen.clone();
        informer.on_change(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(seen.load(Ordering::Relaxed), 1, "what is present is replayed");
        informer.shared.apply(pod("a", 1, "x"));
        assert_eq!(seen.load(Ordering::Relaxed), 1, "the same version is no change");
        informer.shared.apply(pod("a", 2, "y"));
        assert!(informer.by_owner("x").is_empty());
        assert_eq!(informer.by_owner("y").len(), 1);
        informer.shared.replace(vec![pod("b", 3, "y")]);
        assert_eq!(informer.list().len(), 1);
        assert_eq!(informer.by_owner("y")[0].head.name.as_ref(), "b");
        assert_eq!(seen.load(Ordering::Relaxed), 4);
        assert!(informer.has_synced());
    }

    #[test]
    fn selecting_by_labels_is_the_same_with_the_index() {
        let informer = Informer::new(Resource::new("", "v1", "pods", "Pod", true), InformerScope::default());
        for (name, labels) in
            [("a", r#"{"app":"x","tier":"web"}"#), ("b", r#"{"app":"x"}"#), ("c", r#"{"app":"y"}"#)]
        {
            let json = format!(
                r#"{{"metadata":{{"namespace":"ns","name":"{name}","uid":"{name}","resourceVersion":"1","labels":{labels}}}}}"#
            );
            informer.shared.apply(Object::parse(json.into(), &[]).unwrap());
        }
        let cases = ["app=x", "app=x,tier=web", "app=z", "app=x,tier!=web", "tier", "app in (x,y)", ""];
        let found = || -> Vec<Vec<String>> {
            let names = |text: &str| {
                let selected = informer.select("ns", &Selector::parse(text).unwrap());
                selected.iter().map(|o| o.head.name.to_string()).collect()
            };
            cases.iter().map(|text| names(text)).collect()
        };
        let without = found();
        informer.index_labels();
        assert_eq!(found(), without);
        assert!(informer.select("other", &Selector::parse("app=x").unwrap()).is_empty());
    }

    #[test]
    fn an_object_made_again_under_its_name_is_gone_and_then_new() {
        let informer = Informer::new(Resource::new("", "v1", "pods", "Pod", true), InformerScope::default());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let list = seen.clone();
        informer.on_change(move |change| {
            let version = |o: &Option<Arc<Object>>| o.as_ref().map(|o| o.head.resource_version);
            list.lock().push((version(&change.old), version(&change.new)));
        });
        let json = r#"{"metadata":{"namespace":"ns","name":"a","uid":"second","resourceVersion":"3"}}"#;
        informer.shared.replace(vec![pod("a", 5, "x")]);
        informer.shared.replace(vec![Object::parse(json.into(), &[]).unwrap()]);
        assert_eq!(*seen.lock(), [(None, Some(5)), (Some(5), None), (None, Some(3))]);
        assert!(informer.by_owner("x").is_empty());
    }
}
