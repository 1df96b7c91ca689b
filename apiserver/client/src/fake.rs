//! An in-memory API for tests: stores objects, answers the verbs, feeds watches; no admission, no validation.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::client::{Client, Kind};
use crate::discovery::Discovered;
use crate::fake_resources;
use crate::object::{Head, Key, Object};
use crate::request::{
    DeleteOptions, List, ListOptions, PatchType, Propagation, Request, Transport, Verb, WatchEvent,
    WatchEventKind, WatchOptions, WatchStream,
};
use crate::resource::Resource;
use crate::selector::{FieldSelector, Selector};
use crate::status::{ApiError, MODIFIED};

/// Answers a request instead of the store: injected failures.
type Reactor = Box<dyn Fn(&Request) -> Option<ApiError> + Send + Sync>;
/// Sees every change right after it happened, with everything there is of that resource.
type Observer = Box<dyn Fn(&Resource, &[Arc<Object>]) + Send + Sync>;

/// The store. Give out clients with [`Fake::client`].
#[derive(Default)]
pub struct Fake {
    state: Mutex<State>,
    reactors: Mutex<Vec<Reactor>>,
    observers: Mutex<Vec<Observer>>,
    requests: Mutex<Vec<Request>>,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<(String, Key), Arc<Object>>,
    log: Vec<(u64, String, WatchEvent)>,
    watchers: Vec<Watcher>,
    names: u64,
}

struct Watcher {
    resource: String,
    filter: Filter,
    sender: mpsc::UnboundedSender<Result<WatchEvent, ApiError>>,
}

struct Filter {
    namespace: Option<String>,
    labels: Selector,
    fields: FieldSelector,
}

impl Filter {
    fn new(
        namespace: Option<&str>,
        labels: Option<&String>,
        fields: Option<&String>,
    ) -> Result<Self, ApiError> {
        let bad = |e: String| ApiError::bad_request(e);
        Ok(Self {
            namespace: namespace.filter(|n| !n.is_empty()).map(str::to_owned),
            labels: Selector::parse(labels.map_or("", String::as_str)).map_err(|e| bad(e.to_string()))?,
            fields: FieldSelector::parse(fields.map_or("", String::as_str))
                .map_err(|e| bad(e.to_string()))?,
        })
    }

    fn admits(&self, head: &Head) -> bool {
        self.namespace.as_ref().is_none_or(|n| **n == *head.namespace)
            && self.labels.matches(head)
            && self.fields.matches(head)
    }
}

/// Resources whose status is written through its subresource only.
const WITH_STATUS: &[&str] = &[
    "pods",
    "nodes",
    "namespaces",
    "services",
    "persistentvolumes",
    "persistentvolumeclaims",
    "deployments.apps",
    "replicasets.apps",
    "replicationcontrollers",
    "statefulsets.apps",
    "daemonsets.apps",
    "jobs.batch",
    "cronjobs.batch",
    "poddisruptionbudgets.policy",
    "horizontalpodautoscalers.autoscaling",
    "certificatesigningrequests.certificates.k8s.io",
];

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn client(self: &Arc<Self>, field_manager: &str) -> Client {
        Client::new(Arc::new(Handle(self.clone())), field_manager)
    }

    /// The first reactor that returns an error fails the request.
    pub fn react(&self, reactor: impl Fn(&Request) -> Option<ApiError> + Send + Sync + 'static) {
        self.reactors.lock().push(Box::new(reactor));
    }

    /// Called after every change. Must not call back into the fake.
    pub fn observe(&self, observer: impl Fn(&Resource, &[Arc<Object>]) + Send + Sync + 'static) {
        self.observers.lock().push(Box::new(observer));
    }

    /// Every write so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().clone()
    }

    pub fn forget_requests(&self) {
        self.requests.lock().clear();
    }

    pub fn get<K: Kind>(&self, namespace: &str, name: &str) -> Option<K> {
        let key = (Resource::of::<K>().qualified(), Key::new(namespace, name));
        let object = self.state.lock().objects.get(&key).cloned()?;
        object.decode().ok()
    }

    pub fn list<K: Kind>(&self, namespace: &str) -> Vec<K> {
        self.list_heads(&Resource::of::<K>(), namespace).iter().filter_map(|o| o.decode().ok()).collect()
    }

    pub fn list_heads(&self, resource: &Resource, namespace: &str) -> Vec<Arc<Object>> {
        let plural = resource.qualified();
        let state = self.state.lock();
        state
            .objects
            .iter()
            .filter(|((r, k), _)| *r == plural && (namespace.is_empty() || *k.namespace == *namespace))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Creates or replaces an object as it is, status included; a uid and creation time are filled in.
    pub fn put<K: Kind>(&self, object: &K) -> Result<K, ApiError> {
        let resource = Resource::of::<K>();
        let mut value = serde_json::to_value(object)?;
        let key = key_of(&value);
        let mut state = self.state.lock();
        let old = state.objects.get(&(resource.qualified(), key)).cloned();
        let old_value: Option<Value> = old.as_ref().map(|o| o.decode()).transpose()?;
        for field in ["uid", "creationTimestamp", "generation"] {
            if let Some(present) = old_value.as_ref().and_then(|o| o["metadata"].get(field))
                && value["metadata"].get(field).is_none()
            {
                value["metadata"][field] = present.clone();
            }
        }
        state.fill_in(&mut value);
        let stored = state.store(&resource, value)?;
        drop(state);
        self.notify(&resource);
        Ok(stored.decode()?)
    }

    /// Takes an object away at once, whatever its finalizers.
    pub fn remove<K: Kind>(&self, namespace: &str, name: &str) {
        let resource = Resource::of::<K>();
        self.state.lock().remove(&resource, &Key::new(namespace, name));
        self.notify(&resource);
    }

    fn notify(&self, resource: &Resource) {
        let observers = self.observers.lock();
        if !observers.is_empty() {
            let all = self.list_heads(resource, "");
            observers.iter().for_each(|observer| observer(resource, &all));
        }
    }

    fn execute(&self, request: &Request) -> Result<Bytes, ApiError> {
        if request.verb != Verb::Get {
            self.requests.lock().push(request.clone());
        }
        if let Some(error) = self.reactors.lock().iter().find_map(|reactor| reactor(request)) {
            return Err(error);
        }
        let result = self.state.lock().execute(request);
        if request.verb != Verb::Get && result.is_ok() {
            self.notify(&request.resource);
        }
        result
    }
}

impl State {
    fn execute(&mut self, request: &Request) -> Result<Bytes, ApiError> {
        let resource = &request.resource;
        let name = request.name.as_deref().unwrap_or_default();
        let key = Key::new(request.namespace.as_deref().unwrap_or_default(), name);
        let stored = |object: Arc<Object>| object.json.clone();
        match request.verb {
            Verb::Get if request.subresource.as_deref() == Some("scale") => {
                Ok(serde_json::to_vec(&scale(&self.find(resource, &key)?.decode()?))?.into())
            }
            Verb::Get => self.find(resource, &key).map(stored),
            Verb::Create if request.subresource.is_some() => self.create_subresource(request, &key),
            Verb::Create => {
                let mut value: Value = serde_json::from_slice(&request.body)?;
                if let Some(namespace) = &request.namespace {
                    value["metadata"]["namespace"] = json!(namespace);
                }
                if value["metadata"]["name"].as_str().unwrap_or_default().is_empty() {
                    self.names += 1;
                    let prefix = value["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
                    value["metadata"]["name"] = json!(format!("{prefix}{:05}", self.names));
                }
                let key = key_of(&value);
                if self.objects.contains_key(&(resource.qualified(), key.clone())) {
                    return Err(ApiError::already_exists(resource, &key.name));
                }
                if resource.qualified() == "namespaces" {
                    value["spec"]["finalizers"] = json!(["kubernetes"]);
                    value["status"]["phase"] = json!("Active");
                }
                value["metadata"].as_object_mut().map(|meta| meta.remove("uid"));
                self.fill_in(&mut value);
                self.store(resource, value).map(stored)
            }
            Verb::Update if request.subresource.as_deref() == Some("scale") => {
                let asked: Value = serde_json::from_slice(&request.body)?;
                let mut value: Value = self.find(resource, &key)?.decode()?;
                value["spec"]["replicas"] = asked["spec"]["replicas"].clone();
                value["metadata"]["resourceVersion"] = asked["metadata"]["resourceVersion"].clone();
                self.update(resource, &key, value, None).map(stored)
            }
            Verb::Update => {
                let value: Value = serde_json::from_slice(&request.body)?;
                self.update(resource, &key, value, request.subresource.as_deref()).map(stored)
            }
            // An apply without ownership: what is not there is made, what is there is merged.
            Verb::Patch(PatchType::Apply) if self.find(resource, &key).is_err() => {
                let create = Request { verb: Verb::Create, subresource: None, ..request.clone() };
                self.execute(&create)
            }
            Verb::Patch(kind) => {
                let mut value: Value = self.find(resource, &key)?.decode()?;
                let patch: Value = serde_json::from_slice(&request.body)?;
                if let Some(uid) = patch["metadata"]["uid"].as_str()
                    && value["metadata"]["uid"] != uid
                {
                    return Err(ApiError::conflict(resource, name, "uid mismatch"));
                }
                if patch["metadata"].get("resourceVersion").is_none()
                    && let Some(meta) = value["metadata"].as_object_mut()
                {
                    meta.remove("resourceVersion");
                }
                match kind {
                    PatchType::Merge => merge(&mut value, &patch, false),
                    PatchType::Strategic | PatchType::Apply => merge(&mut value, &patch, true),
                    PatchType::Json => {
                        return Err(ApiError::new(
                            415,
                            "UnsupportedMediaType",
                            "the fake takes merge patches",
                        ));
                    }
                }
                self.update(resource, &key, value, request.subresource.as_deref()).map(stored)
            }
            Verb::Delete => {
                let options = delete_options(&request.body)?;
                self.delete(resource, &key, &options)?;
                Ok(Bytes::from_static(br#"{"kind":"Status","apiVersion":"v1","status":"Success"}"#))
            }
            Verb::DeleteCollection => {
                let options = delete_options(&request.body)?;
                let selection = &request.selection;
                let filter = Filter::new(
                    request.namespace.as_deref(),
                    selection.label_selector.as_ref(),
                    selection.field_selector.as_ref(),
                )?;
                for object in self.select(resource, &filter) {
                    self.delete(resource, &object.key(), &options)?;
                }
                Ok(Bytes::from_static(br#"{"kind":"Status","apiVersion":"v1","status":"Success"}"#))
            }
        }
    }

    fn create_subresource(&mut self, request: &Request, key: &Key) -> Result<Bytes, ApiError> {
        let resource = &request.resource;
        let mut value: Value = self.find(resource, key)?.decode()?;
        let body: Value = serde_json::from_slice(&request.body)?;
        match request.subresource.as_deref() {
            Some("binding") => {
                if value["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty()) {
                    let why = format!("pod {} is already assigned to a node", key.name);
                    return Err(ApiError::conflict(resource, &key.name, &why));
                }
                value["spec"]["nodeName"] = body["target"]["name"].clone();
                upsert_condition(
                    &mut value,
                    json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}),
                );
                self.store(resource, value)?;
            }
            Some("eviction") => {
                let options = serde_json::from_value(body["deleteOptions"].clone()).unwrap_or_default();
                self.delete(resource, key, &options)?;
            }
            other => {
                return Err(ApiError::bad_request(format!("the fake has no subresource {other:?}")));
            }
        }
        Ok(Bytes::from_static(br#"{"kind":"Status","apiVersion":"v1","status":"Success"}"#))
    }

    fn find(&self, resource: &Resource, key: &Key) -> Result<Arc<Object>, ApiError> {
        self.objects
            .get(&(resource.qualified(), key.clone()))
            .cloned()
            .ok_or_else(|| ApiError::not_found(resource, &key.name))
    }

    fn select(&self, resource: &Resource, filter: &Filter) -> Vec<Arc<Object>> {
        let plural = resource.qualified();
        self.objects
            .iter()
            .filter(|((r, _), o)| *r == plural && filter.admits(&o.head))
            .map(|(_, o)| o.clone())
            .collect()
    }

    fn update(
        &mut self,
        resource: &Resource,
        key: &Key,
        mut value: Value,
        subresource: Option<&str>,
    ) -> Result<Arc<Object>, ApiError> {
        let present = self.find(resource, key)?;
        let old: Value = present.decode()?;
        if let Some(version) = value["metadata"]["resourceVersion"].as_str()
            && version != present.head.resource_version.to_string()
        {
            return Err(ApiError::conflict(resource, &key.name, MODIFIED));
        }
        let mut next = match subresource {
            Some("status" | "approval") => {
                let mut next = old.clone();
                next["status"] = value["status"].take();
                next
            }
            Some("finalize") => {
                let mut next = old.clone();
                next["spec"] = value["spec"].take();
                next
            }
            _ => {
                if WITH_STATUS.contains(&resource.qualified().as_str()) {
                    value["status"] = old["status"].clone();
                }
                for fixed in ["uid", "creationTimestamp", "generation", "deletionTimestamp"] {
                    value["metadata"][fixed] = old["metadata"][fixed].clone();
                }
                if value["spec"] != old["spec"] {
                    let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
                    value["metadata"]["generation"] = json!(generation + 1);
                }
                value
            }
        };
        strip_nulls(&mut next);
        let mut unchanged = old;
        for side in [&mut next, &mut unchanged] {
            side["metadata"].as_object_mut().map(|meta| meta.remove("resourceVersion"));
        }
        if next == unchanged {
            return Ok(present);
        }
        let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
        let graceful = next["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
        let gone = next["metadata"]["deletionTimestamp"].is_string()
            && empty(&next["metadata"]["finalizers"])
            && empty(&next["spec"]["finalizers"])
            && !graceful;
        let stored = self.store(resource, next)?;
        if gone {
            self.remove(resource, key);
        }
        Ok(stored)
    }

    fn delete(&mut self, resource: &Resource, key: &Key, options: &DeleteOptions) -> Result<(), ApiError> {
        let present = self.find(resource, key)?;
        if let Some(wanted) = &options.preconditions {
            let uid_differs = wanted.uid.as_ref().is_some_and(|uid| **uid != *present.head.uid);
            let version_differs = wanted
                .resource_version
                .as_ref()
                .is_some_and(|v| *v != present.head.resource_version.to_string());
            if uid_differs || version_differs {
                return Err(ApiError::conflict(resource, &key.name, "Precondition failed"));
            }
        }
        let mut value: Value = present.decode()?;
        let mut finalizers: Vec<Value> =
            value["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        let policy = match options.propagation_policy {
            Some(Propagation::Foreground) => Some("foregroundDeletion"),
            Some(Propagation::Orphan) => Some("orphan"),
            _ => None,
        };
        if let Some(policy) = policy
            && !finalizers.iter().any(|f| f == policy)
        {
            finalizers.push(json!(policy));
        }
        let is_pod = resource.qualified() == "pods";
        let assigned = value["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
        let over = matches!(value["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        let grace = options
            .grace_period_seconds
            .or_else(|| value["spec"]["terminationGracePeriodSeconds"].as_i64())
            .unwrap_or(30);
        let graceful = is_pod && assigned && !over && grace > 0;
        let held =
            !finalizers.is_empty() || value["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if graceful || held {
            value["metadata"]["finalizers"] = json!(finalizers);
            if value["metadata"]["deletionTimestamp"].is_null() {
                value["metadata"]["deletionTimestamp"] = now();
            }
            if is_pod {
                value["metadata"]["deletionGracePeriodSeconds"] = json!(if graceful { grace } else { 0 });
            }
            if resource.qualified() == "namespaces" {
                value["status"]["phase"] = json!("Terminating");
            }
            self.store(resource, value)?;
        } else {
            self.remove(resource, key);
        }
        Ok(())
    }

    fn fill_in(&mut self, value: &mut Value) {
        self.names += 1;
        let uid = format!("uid-{}", self.names);
        let meta = &mut value["metadata"];
        if meta["uid"].as_str().unwrap_or_default().is_empty() {
            meta["uid"] = json!(uid);
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = now();
        }
        if meta["generation"].is_null() {
            meta["generation"] = json!(1);
        }
    }

    fn store(&mut self, resource: &Resource, mut value: Value) -> Result<Arc<Object>, ApiError> {
        self.revision += 1;
        strip_nulls(&mut value);
        value["apiVersion"] = json!(resource.api_version());
        value["kind"] = json!(resource.kind());
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let object = Object::parse(serde_json::to_vec(&value)?.into(), resource.selectable_fields())?;
        let old = self.objects.insert((resource.qualified(), object.key()), object.clone());
        let kind = if old.is_some() { WatchEventKind::Modified } else { WatchEventKind::Added };
        self.publish(resource, old, kind, object.clone());
        Ok(object)
    }

    fn remove(&mut self, resource: &Resource, key: &Key) {
        let Some(old) = self.objects.remove(&(resource.qualified(), key.clone())) else { return };
        self.revision += 1;
        let Ok(mut value) = old.decode::<Value>() else { return };
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let Ok(json) = serde_json::to_vec(&value) else { return };
        if let Ok(last) = Object::parse(json.into(), resource.selectable_fields()) {
            self.publish(resource, Some(old), WatchEventKind::Deleted, last);
        }
    }

    fn publish(
        &mut self,
        resource: &Resource,
        old: Option<Arc<Object>>,
        kind: WatchEventKind,
        object: Arc<Object>,
    ) {
        let plural = resource.qualified();
        let event = WatchEvent { kind, object: object.clone(), initial_events_end: false };
        self.log.push((self.revision, plural.clone(), event.clone()));
        self.watchers.retain(|watcher| {
            if watcher.resource != plural {
                return !watcher.sender.is_closed();
            }
            let before = old.as_ref().is_some_and(|o| watcher.filter.admits(&o.head));
            let after = kind != WatchEventKind::Deleted && watcher.filter.admits(&object.head);
            let kind = match (before, after) {
                (false, true) => WatchEventKind::Added,
                (true, true) => WatchEventKind::Modified,
                (true, false) => WatchEventKind::Deleted,
                (false, false) => return true,
            };
            watcher.sender.send(Ok(WatchEvent { kind, ..event.clone() })).is_ok()
        });
    }
}

struct Handle(Arc<Fake>);

#[async_trait]
impl Transport for Handle {
    async fn call(&self, request: Request) -> Result<Bytes, ApiError> {
        // As over any transport, others run between the request and its answer.
        tokio::task::yield_now().await;
        self.0.execute(&request)
    }

    async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: ListOptions,
    ) -> Result<List, ApiError> {
        let filter =
            Filter::new(namespace, options.label_selector.as_ref(), options.field_selector.as_ref())?;
        let state = self.0.state.lock();
        Ok(List {
            resource_version: state.revision,
            continue_token: None,
            items: state.select(resource, &filter),
        })
    }

    async fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        let filter =
            Filter::new(namespace, options.label_selector.as_ref(), options.field_selector.as_ref())?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.0.state.lock();
        let from = options.resource_version.and_then(|v| v.parse().ok()).unwrap_or(state.revision);
        let plural = resource.qualified();
        for (revision, of, event) in &state.log {
            if *revision > from && *of == plural && filter.admits(&event.object.head) {
                let _ = sender.send(Ok(event.clone()));
            }
        }
        state.watchers.push(Watcher { resource: plural, filter, sender });
        Ok(futures::stream::unfold(receiver, |mut r| async move { r.recv().await.map(|e| (e, r)) }).boxed())
    }

    async fn discover(&self) -> Result<Discovered, ApiError> {
        let definitions = self.0.list_heads(
            &Resource::new(
                "apiextensions.k8s.io",
                "v1",
                "customresourcedefinitions",
                "CustomResourceDefinition",
                false,
            ),
            "",
        );
        Ok(fake_resources::served(&definitions))
    }
}

/// The `autoscaling/v1` Scale of a workload.
fn scale(object: &Value) -> Value {
    let labels = object["spec"]["selector"]["matchLabels"].as_object();
    let selector: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let meta = &object["metadata"];
    json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"],
            "resourceVersion": meta["resourceVersion"]},
        "spec": {"replicas": object["spec"]["replicas"]},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.join(",")},
    })
}

fn now() -> Value {
    json!(Timestamp::now())
}

fn key_of(value: &Value) -> Key {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
    Key::new(&text("namespace"), &text("name"))
}

fn delete_options(body: &[u8]) -> Result<DeleteOptions, ApiError> {
    if body.is_empty() { Ok(DeleteOptions::default()) } else { Ok(serde_json::from_slice(body)?) }
}

fn upsert_condition(value: &mut Value, condition: Value) {
    let mut conditions = value["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.retain(|c| c["type"] != condition["type"]);
    conditions.push(condition);
    value["status"]["conditions"] = json!(conditions);
}

/// RFC 7386; with `strategic`, lists of objects are merged by the key that the built-ins' lists use.
fn merge(target: &mut Value, patch: &Value, strategic: bool) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (field, change) in patch {
                if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/") {
                    let gone = change.as_array().cloned().unwrap_or_default();
                    if let Some(Value::Array(items)) = target.get_mut(list) {
                        items.retain(|item| !gone.contains(item));
                    }
                } else if change.is_null() {
                    target.remove(field);
                } else if field.ends_with("Statuses") {
                    // Atomic lists, whatever their items are called by.
                    target.insert(field.clone(), change.clone());
                } else {
                    merge(target.entry(field.clone()).or_insert(Value::Null), change, strategic);
                }
            }
        }
        (Value::Array(target), Value::Array(patch)) if strategic => {
            for change in patch {
                let key = ["type", "uid", "name", "ip"].into_iter().find(|k| change.get(k).is_some());
                let Some(key) = key else {
                    if !target.contains(change) {
                        target.push(change.clone());
                    }
                    continue;
                };
                if change["$patch"] == "delete" {
                    target.retain(|item| item[key] != change[key]);
                } else if let Some(item) = target.iter_mut().find(|item| item[key] == change[key]) {
                    merge(item, change, true);
                } else {
                    target.push(change.clone());
                }
            }
        }
        (target, patch) => {
            let mut fresh = patch.clone();
            strip_nulls(&mut fresh);
            *target = fresh;
        }
    }
}

fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::informer::Informers;

    #[tokio::test]
    async fn objects_live_from_create_to_delete_and_watches_see_it() {
        let fake = Fake::new();
        let client = fake.client("test");
        let informer = Informers::new(client.clone(), CancellationToken::new()).of::<ConfigMap>();
        informer.synced().await;
        let (seen, mut changes) = mpsc::unbounded_channel();
        informer.on_change(move |change| drop(seen.send(change.clone())));
        let mut map = ConfigMap::default();
        map.metadata.namespace = Some("ns".into());
        map.metadata.generate_name = Some("map-".into());
        let mut made = client.create(&map).await.unwrap().decode().unwrap();
        assert!(changes.recv().await.unwrap().old.is_none());
        let stale = made.clone();
        made.data = Some([("k".to_owned(), "v".to_owned())].into());
        client.update(&made).await.unwrap();
        assert!(client.update(&stale).await.is_err_and(|e| e.is_conflict()));
        assert!(changes.recv().await.unwrap().old.is_some());
        client
            .delete::<ConfigMap>("ns", made.metadata.name.as_deref().unwrap(), DeleteOptions::default())
            .await
            .unwrap();
        assert!(changes.recv().await.unwrap().new.is_none());
        assert!(fake.list::<ConfigMap>("").is_empty());
    }

    #[tokio::test]
    async fn finalizers_and_grace_hold_objects() {
        let fake = Fake::new();
        let client = fake.client("test");
        let mut pod = Pod::default();
        pod.metadata.namespace = Some("ns".into());
        pod.metadata.name = Some("p".into());
        pod.spec.get_or_insert_default().node_name = Some("n".into());
        client.create(&pod).await.unwrap();
        client.delete::<Pod>("ns", "p", DeleteOptions::default()).await.unwrap();
        assert!(fake.get::<Pod>("ns", "p").unwrap().metadata.deletion_timestamp.is_some());
        client.delete::<Pod>("ns", "p", DeleteOptions::grace(0)).await.unwrap();
        assert!(fake.get::<Pod>("ns", "p").is_none());

        pod.metadata.finalizers = Some(vec!["a/b".into()]);
        client.create(&pod).await.unwrap();
        client.delete::<Pod>("ns", "p", DeleteOptions::grace(0)).await.unwrap();
        let patch = json!({"metadata": {"finalizers": null}});
        client.patch::<Pod>("ns", "p", None, PatchType::Merge, &patch).await.unwrap();
        assert!(fake.get::<Pod>("ns", "p").is_none());
    }
}
