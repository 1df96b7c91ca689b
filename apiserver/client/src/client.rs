//! Typed calls for components, over whichever transport reaches the apiserver.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::discovery::Discovered;
use crate::metrics::requests::asked;
use crate::object::Object;
use crate::request::{
    DeleteOptions, List, ListOptions, PatchType, Request, Transport, Verb, WatchOptions, WatchStream,
    WriteOptions,
};
use crate::resource::{Resource, Scope};
use crate::status::ApiError;

/// A handle to the API with one component's identity. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    field_manager: Arc<str>,
}

/// A built-in type that components read and write.
pub trait Kind:
    k8s_openapi::Resource<Scope: Scope>
    + Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Kind for K where
    K: k8s_openapi::Resource<Scope: Scope>
        + Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// What a write (or get) answered, still encoded.
pub struct Written<K> {
    pub json: Bytes,
    kind: PhantomData<fn() -> K>,
}

impl<K: DeserializeOwned> Written<K> {
    pub fn decode(&self) -> Result<K, ApiError> {
        Ok(serde_json::from_slice(&self.json)?)
    }
}

impl Client {
    /// `field_manager` names the component in managedFields and as the source of its events.
    pub fn new(transport: Arc<dyn Transport>, field_manager: &str) -> Self {
        Self { transport, field_manager: field_manager.into() }
    }

    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    pub fn field_manager(&self) -> &str {
        &self.field_manager
    }

    fn request(&self, verb: Verb, resource: Resource, namespace: Option<&str>, name: &str) -> Request {
        let mut request = Request::new(verb, resource);
        request.namespace = namespace.filter(|n| !n.is_empty()).map(str::to_owned);
        request.name = Some(name).filter(|n| !n.is_empty()).map(str::to_owned);
        request.options =
            WriteOptions { field_manager: Some(self.field_manager.to_string()), ..WriteOptions::default() };
        request
    }

    async fn send(&self, request: Request) -> Result<Bytes, ApiError> {
        let verb = request.verb;
        let result = self.transport.call(request).await;
        asked(&self.field_manager, verb, &result);
        result
    }

    async fn call<T>(&self, request: Request) -> Result<Written<T>, ApiError> {
        Ok(Written { json: self.send(request).await?, kind: PhantomData })
    }

    /// Any request, for calls that the typed ones below do not cover.
    pub async fn raw(&self, request: Request) -> Result<Bytes, ApiError> {
        self.send(request).await
    }

    pub async fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<K, ApiError> {
        self.call(self.request(Verb::Get, Resource::of::<K>(), Some(namespace), name)).await?.decode()
    }

    /// None where the object does not exist.
    pub async fn find<K: Kind>(&self, namespace: &str, name: &str) -> Result<Option<K>, ApiError> {
        match self.get(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn create<K: Kind>(&self, object: &K) -> Result<Written<K>, ApiError> {
        let mut request =
            self.request(Verb::Create, Resource::of::<K>(), object.metadata().namespace.as_deref(), "");
        request.body = encode(object)?;
        self.call(request).await
    }

    /// Optimistic: the object's resourceVersion must still be the stored one.
    pub async fn update<K: Kind>(&self, object: &K) -> Result<Written<K>, ApiError> {
        self.update_at(object, None).await
    }

    pub async fn update_status<K: Kind>(&self, object: &K) -> Result<Written<K>, ApiError> {
        self.update_at(object, Some("status")).await
    }

    /// Updates through a named subresource (`status`, `approval`, `finalize`, …) with the whole object as the body.
    pub async fn update_subresource<K: Kind>(
        &self,
        object: &K,
        subresource: &'static str,
    ) -> Result<Written<K>, ApiError> {
        self.update_at(object, Some(subresource)).await
    }

    async fn update_at<K: Kind>(
        &self,
        object: &K,
        subresource: Option<&str>,
    ) -> Result<Written<K>, ApiError> {
        let meta = object.metadata();
        let name = meta.name.as_deref().unwrap_or_default();
        let mut request = self.request(Verb::Update, Resource::of::<K>(), meta.namespace.as_deref(), name);
        request.subresource = subresource.map(str::to_owned);
        request.body = encode(object)?;
        self.call(request).await
    }

    /// A patch of the given type; `subresource` is `status` for status patches.
    pub async fn patch<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        kind: PatchType,
        patch: &(impl Serialize + Sync),
    ) -> Result<Written<K>, ApiError> {
        let mut request = self.request(Verb::Patch(kind), Resource::of::<K>(), Some(namespace), name);
        request.subresource = subresource.map(str::to_owned);
        request.body = encode(patch)?;
        self.call(request).await
    }

    pub async fn delete<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        options: DeleteOptions,
    ) -> Result<(), ApiError> {
        self.delete_object(&Resource::of::<K>(), namespace, name, options).await
    }

    /// Deletes by resource, for components that do not know the type (garbage collector, namespace controller).
    pub async fn delete_object(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: DeleteOptions,
    ) -> Result<(), ApiError> {
        let mut request = self.request(Verb::Delete, resource.clone(), Some(namespace), name);
        request.body = encode(&options)?;
        self.send(request).await.map(drop)
    }

    pub async fn delete_collection(
        &self,
        resource: &Resource,
        namespace: &str,
        selection: ListOptions,
        options: DeleteOptions,
    ) -> Result<(), ApiError> {
        let mut request = self.request(Verb::DeleteCollection, resource.clone(), Some(namespace), "");
        request.selection = selection;
        request.body = encode(&options)?;
        self.send(request).await.map(drop)
    }

    /// Creates through a subresource: `binding`, `eviction`, `token`.
    pub async fn create_subresource<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<Bytes, ApiError> {
        let mut request = self.request(Verb::Create, Resource::of::<K>(), Some(namespace), name);
        request.subresource = Some(subresource.to_owned());
        request.body = encode(body)?;
        self.send(request).await
    }

    pub async fn list<K: Kind>(&self, namespace: &str, options: ListOptions) -> Result<List, ApiError> {
        self.list_objects(&Resource::of::<K>(), namespace, options).await
    }

    /// An empty namespace means all of them.
    pub async fn list_objects(
        &self,
        resource: &Resource,
        namespace: &str,
        options: ListOptions,
    ) -> Result<List, ApiError> {
        self.transport.list(resource, Some(namespace).filter(|n| !n.is_empty()), options).await
    }

    pub async fn watch_objects(
        &self,
        resource: &Resource,
        namespace: &str,
        options: WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        self.transport.watch(resource, Some(namespace).filter(|n| !n.is_empty()), options).await
    }

    /// What the API serves at this moment.
    pub async fn discover(&self) -> Result<Discovered, ApiError> {
        self.transport.discover().await
    }

    /// A current object by resource, with its head.
    pub async fn get_object(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, ApiError> {
        let json = self.send(self.request(Verb::Get, resource.clone(), Some(namespace), name)).await?;
        Ok(Object::parse(json, resource.selectable_fields())?)
    }
}

fn encode(body: &impl Serialize) -> Result<Bytes, ApiError> {
    serde_json::to_vec(body)
        .map(Bytes::from)
        .map_err(|e| ApiError::bad_request(format!("encoding the body: {e}")))
}
