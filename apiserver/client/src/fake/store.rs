//! What the fake API holds: objects, their history, and who watches.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::merge::{merge, strip_nulls, upsert_condition};
use crate::object::{Head, Key, Object};
use crate::request::{DeleteOptions, PatchType, Propagation, Request, Verb, WatchEvent, WatchEventKind};
use crate::resource::Resource;
use crate::selector::{FieldSelector, Selector};
use crate::status::{ApiError, MODIFIED};

#[derive(Default)]
pub(super) struct State {
    pub(super) revision: u64,
    pub(super) objects: BTreeMap<(String, Key), Arc<Object>>,
    pub(super) log: Vec<(u64, String, WatchEvent)>,
    pub(super) watchers: Vec<Watcher>,
    pub(super) names: u64,
}

pub(super) struct Watcher {
    pub(super) resource: String,
    pub(super) filter: Filter,
    pub(super) sender: mpsc::UnboundedSender<Result<WatchEvent, ApiError>>,
}

pub(super) struct Filter {
    pub(super) namespace: Option<String>,
    pub(super) labels: Selector,
    pub(super) fields: FieldSelector,
}

impl Filter {
    pub(super) fn new(
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

    pub(super) fn admits(&self, head: &Head) -> bool {
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

impl State {
    pub(super) fn execute(&mut self, request: &Request) -> Result<Bytes, ApiError> {
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

    pub(super) fn select(&self, resource: &Resource, filter: &Filter) -> Vec<Arc<Object>> {
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

    pub(super) fn fill_in(&mut self, value: &mut Value) {
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

    pub(super) fn store(&mut self, resource: &Resource, mut value: Value) -> Result<Arc<Object>, ApiError> {
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

    pub(super) fn remove(&mut self, resource: &Resource, key: &Key) {
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

pub(super) fn key_of(value: &Value) -> Key {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default().to_owned();
    Key::new(&text("namespace"), &text("name"))
}

fn delete_options(body: &[u8]) -> Result<DeleteOptions, ApiError> {
    if body.is_empty() { Ok(DeleteOptions::default()) } else { Ok(serde_json::from_slice(body)?) }
}
