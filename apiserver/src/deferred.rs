//! A transport for those that the API itself is made with: it starts to work when the API has started.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use coracle_client::discovery::Discovered;
use coracle_client::{ApiError, List, ListOptions, Request, Resource, Transport, WatchOptions, WatchStream};

#[derive(Default)]
pub struct Deferred {
    transport: OnceLock<Arc<dyn Transport>>,
}

impl Deferred {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Counts once; later calls change nothing.
    pub fn provide(&self, transport: Arc<dyn Transport>) {
        self.transport.set(transport).ok();
    }

    fn get(&self) -> Result<&Arc<dyn Transport>, ApiError> {
        self.transport.get().ok_or_else(|| ApiError::service_unavailable("the apiserver is starting"))
    }
}

#[async_trait]
impl Transport for Deferred {
    async fn call(&self, request: Request) -> Result<Bytes, ApiError> {
        self.get()?.call(request).await
    }

    async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: ListOptions,
    ) -> Result<List, ApiError> {
        self.get()?.list(resource, namespace, options).await
    }

    async fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        self.get()?.watch(resource, namespace, options).await
    }

    async fn discover(&self) -> Result<Discovered, ApiError> {
        self.get()?.discover().await
    }
}
