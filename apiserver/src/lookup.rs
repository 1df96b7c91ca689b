//! Reads straight from the watch cache, for those who decide about a request before the API sees it.

use std::sync::{Arc, OnceLock};

use coracle_client::resource::Scope;
use coracle_client::{ApiError, Object, Resource};

use crate::storage::Store;
use crate::watch_cache::{ResourceCache, WatchCache, key_of};

/// Empty until the API has started.
#[derive(Default)]
pub struct Lookup(OnceLock<(Arc<WatchCache>, Arc<dyn Store>)>);

impl Lookup {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn provide(&self, cache: Arc<WatchCache>, store: Arc<dyn Store>) {
        // Given once, by the one API of this process.
        let _ = self.0.set((cache, store));
    }

    pub fn cache(&self, resource: &Resource) -> Option<Arc<ResourceCache>> {
        self.0.get().and_then(|(cache, _)| cache.resource(resource))
    }

    /// An object as it is now. Only when the cache has none is the store asked how far it is.
    pub async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, ApiError>
    where
        K: k8s_openapi::Resource,
        K::Scope: Scope,
    {
        let Some((cache, store)) = self.0.get() else {
            return Err(ApiError::service_unavailable("the server is starting"));
        };
        let resource = Resource::of::<K>();
        let Some(objects) = cache.resource(&resource) else { return Ok(None) };
        let key = key_of(Some(namespace).filter(|_| resource.namespaced()), name);
        if let Some(object) = objects.get(&key) {
            return Ok(Some(object));
        }
        cache.catch_up(&**store).await?;
        Ok(objects.get(&key))
    }
}
