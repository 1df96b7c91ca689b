//! An in-memory API for tests: stores objects, answers the verbs, feeds watches; no admission, no validation.

mod merge;
mod resources;
mod store;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::client::{Client, Kind};
use crate::discovery::Discovered;
use crate::object::{Key, Object};
use crate::request::{List, ListOptions, Request, Transport, Verb, WatchOptions, WatchStream};
use crate::resource::Resource;
use crate::status::ApiError;
use store::{Filter, State, Watcher, key_of};

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
        Ok(resources::served(&definitions))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod};
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::informer::Informers;
    use crate::request::{DeleteOptions, PatchType};

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
