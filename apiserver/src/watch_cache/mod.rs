//! The in-memory state that serves every read and watch: one cache per resource, fed by one watch of the store.

mod event;
mod feed;
mod progress;
mod queue;
mod resource;
mod ring;
mod splice;
mod whole;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::status::Cause;
use coracle_client::{ApiError, Resource};
use parking_lot::RwLock;

pub use event::{Delivery, FRAME_END, Filter, frame_start};
pub(crate) use feed::run;
pub use resource::{From, Page, ResourceCache, Subscription, TooOld, key_of};
pub use splice::with_revision;
pub use whole::{Items, Packing};

use crate::storage::{self, Store};
use progress::Progress;

/// Every key of the API begins with this.
pub const PREFIX: &str = "/registry/";

/// How long a read waits for a revision that the cache has not reached, as upstream.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often an unanswered request for progress is made again.
const PROGRESS_RETRY: Duration = Duration::from_millis(200);

/// Caches by qualified name.
pub type Resources = HashMap<String, Arc<ResourceCache>>;

/// The caches of all resources that are stored.
pub struct WatchCache {
    /// By qualified name; a change puts another map in its place.
    resources: RwLock<Arc<Resources>>,
    progress: Progress,
}

/// The store's key of an object.
pub fn store_key(resource: &Resource, key: &str) -> String {
    let qualified = resource.qualified();
    let mut whole = String::with_capacity(PREFIX.len() + qualified.len() + 1 + key.len());
    for part in [PREFIX, &qualified, "/", key] {
        whole.push_str(part);
    }
    whole
}

impl WatchCache {
    pub fn new(resources: impl IntoIterator<Item = Resource>) -> Self {
        let cache = |r: Resource| (r.qualified(), Arc::new(ResourceCache::new(r)));
        let resources: Resources = resources.into_iter().map(cache).collect();
        Self { resources: RwLock::new(Arc::new(resources)), progress: Progress::default() }
    }

    pub fn resource(&self, resource: &Resource) -> Option<Arc<ResourceCache>> {
        self.resources.read().get(&resource.qualified()).cloned()
    }

    /// The caches there are now.
    pub fn resources(&self) -> Arc<Resources> {
        self.resources.read().clone()
    }

    /// Begins to cache a resource at run time, in the place of what is there of it, whose watches end. When this
    /// returns, the cache shows all that was written before the call.
    pub async fn add(&self, cache: Arc<ResourceCache>, store: &dyn Store) -> Result<(), storage::Error> {
        let name = cache.resource().qualified();
        // Changes are kept from now on; those that the snapshot has already are left out when it is in.
        cache.await_snapshot();
        let before = self.change(|resources| resources.insert(name.clone(), cache.clone()));
        let prefix = store_key(cache.resource(), "");
        match store.load(&prefix).await {
            Ok(snapshot) => {
                let entries = snapshot.entries.into_iter().filter_map(|entry| {
                    let key = Arc::from(entry.key.strip_prefix(&prefix)?);
                    Some(resource::Stored { key, revision: entry.revision, value: entry.value })
                });
                cache.start_from(entries.collect(), snapshot.revision);
                if let Some(before) = before {
                    before.close();
                }
                Ok(())
            }
            Err(error) => {
                self.change(|resources| match before {
                    Some(before) => resources.insert(name, before),
                    None => resources.remove(&name),
                });
                Err(error)
            }
        }
    }

    /// No longer caches a resource; its watches end.
    pub fn remove(&self, resource: &Resource) {
        if let Some(cache) = self.change(|resources| resources.remove(&resource.qualified())) {
            cache.close();
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Resources) -> T) -> T {
        let mut resources = self.resources.write();
        let mut next = (**resources).clone();
        let result = change(&mut next);
        *resources = Arc::new(next);
        result
    }

    /// The newest revision that every reader sees.
    pub fn revision(&self) -> u64 {
        self.progress.revision()
    }

    /// Reads the whole store.
    pub async fn load(&self, store: &dyn Store) -> Result<u64, storage::Error> {
        let snapshot = store.load(PREFIX).await?;
        let mut parts: HashMap<&str, Vec<resource::Stored>> = HashMap::new();
        for entry in &snapshot.entries {
            if let Some((name, key)) = split_key(&entry.key) {
                let stored = resource::Stored {
                    key: key.into(),
                    revision: entry.revision,
                    value: entry.value.clone(),
                };
                parts.entry(name).or_default().push(stored);
            }
        }
        for (name, cache) in &*self.resources() {
            cache.replace(parts.remove(name.as_str()).unwrap_or_default(), snapshot.revision);
        }
        self.progress.advance(snapshot.revision);
        Ok(snapshot.revision)
    }

    /// Waits until the cache shows `revision`.
    pub async fn wait_for(&self, revision: u64) -> Result<(), ApiError> {
        if self.progress.wait_for(revision, PATIENCE).await {
            return Ok(());
        }
        Err(too_large(revision, self.revision()))
    }

    /// Waits until the cache shows all that was written before the call, by whichever apiserver.
    pub async fn catch_up(&self, store: &dyn Store) -> Result<(), ApiError> {
        let newest = store.revision().await.map_err(store_error)?;
        let tries = PATIENCE.as_millis() / PROGRESS_RETRY.as_millis();
        for _ in 0..tries {
            if self.revision() >= newest {
                return Ok(());
            }
            store.request_progress().await.map_err(store_error)?;
            if self.progress.wait_for(newest, PROGRESS_RETRY).await {
                return Ok(());
            }
        }
        Err(too_large(newest, self.revision()))
    }
}

/// The resource and the key within it.
fn split_key(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(PREFIX)?.split_once('/')
}

fn too_large(wanted: u64, current: u64) -> ApiError {
    let mut error =
        ApiError::timeout(format!("Timeout: Too large resource version: {wanted}, current: {current}"));
    error.details_mut().causes = vec![Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        ..Cause::default()
    }];
    error.details_mut().retry_after_seconds = Some(1);
    error
}

/// What a client is told of a failure of the store.
pub fn store_error(error: storage::Error) -> ApiError {
    match error {
        storage::Error::Overloaded { .. } => {
            ApiError::too_many_requests("the store is overloaded, please try again later", 1)
        }
        storage::Error::TooLarge { limit, .. } => ApiError::too_large(limit),
        storage::Error::Unavailable { .. } | storage::Error::Closed => {
            ApiError::service_unavailable(error.to_string())
        }
        other => ApiError::internal(other),
    }
}
