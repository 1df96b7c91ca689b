//! The in-memory state that serves every read and watch: one cache per resource, fed by one watch of the store.

mod event;
mod feed;
mod progress;
mod resource;
mod ring;
mod splice;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::status::Cause;
use coracle_client::{ApiError, Resource};

pub use event::{Delivery, FRAME_END, Filter, frame_start};
pub(crate) use feed::run;
pub use resource::{From, Page, ResourceCache, Subscription, TooOld, key_of};
pub use splice::with_revision;

use crate::storage::{self, Store};
use progress::Progress;

/// Every key of the API begins with this.
pub const PREFIX: &str = "/registry/";

/// How long a read waits for a revision that the cache has not reached, as upstream.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often an unanswered request for progress is made again.
const PROGRESS_RETRY: Duration = Duration::from_millis(200);

/// The caches of all resources that are stored.
pub struct WatchCache {
    resources: HashMap<String, Arc<ResourceCache>>,
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
        let resources =
            resources.into_iter().map(|r| (r.qualified(), Arc::new(ResourceCache::new(r)))).collect();
        Self { resources, progress: Progress::default() }
    }

    pub fn resource(&self, resource: &Resource) -> Option<&Arc<ResourceCache>> {
        self.resources.get(&resource.qualified())
    }

    pub fn resources(&self) -> impl Iterator<Item = &Arc<ResourceCache>> {
        self.resources.values()
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
        for (name, cache) in &self.resources {
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
