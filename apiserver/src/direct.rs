//! The transport for components in this process: no HTTP, and the watch cache's own objects.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_client::discovery::{self, Discovered};
use coracle_client::{
    ApiError, Head, List, ListOptions, Object, Request, Resource, Transport, WatchEvent, WatchEventKind,
    WatchOptions, WatchStream,
};
use futures::StreamExt;

use crate::api::Api;
use crate::authn::Identity;
use crate::negotiation::Accepted;
use crate::response::bookmark;
use crate::routes::perform;
use crate::verbs::options::Query;
use crate::verbs::watch::Signal;
use crate::verbs::{Call, list, watch};

/// Calls the verbs under one component's identity. Components in the process are trusted: nothing is authorized here.
pub struct Direct {
    api: Arc<Api>,
    identity: Identity,
}

impl Direct {
    /// The transport under an identity.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(api: Arc<Api>, identity: Identity) -> Arc<dyn Transport> {
        Arc::new(Self { api, identity })
    }
}

#[async_trait]
impl Transport for Direct {
    async fn call(&self, request: Request) -> Result<Bytes, ApiError> {
        let kind = self.api.kind(&request.resource)?;
        let call = Call {
            namespace: request.namespace.filter(|_| request.resource.namespaced()),
            name: request.name,
            subresource: request.subresource,
            options: request.options,
            body: request.body,
            ..Call::new(&self.api, &kind, self.identity.clone())
        };
        perform(&call, request.verb, &Query::default(), request.selection).await.map(|answer| answer.json)
    }

    async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        mut options: ListOptions,
    ) -> Result<List, ApiError> {
        // Pages save memory where lists are encoded; here they are pointers.
        if options.continue_token.is_none() && options.resource_version.is_none() {
            options.limit = None;
        }
        let kind = self.api.kind(resource)?;
        let listed = list::list(&self.api, &kind, namespace, options).await?;
        Ok(List {
            resource_version: listed.revision,
            continue_token: listed.continue_token,
            items: listed.objects,
        })
    }

    async fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        options: WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        let kind = self.api.kind(resource)?;
        let signals = watch::watch(&self.api, &kind, namespace, options).await?;
        Ok(signals
            .map(move |signal| match signal {
                Signal::Event(delivery) => Ok(WatchEvent {
                    kind: delivery.kind,
                    object: kind.shown(&delivery.object)?,
                    initial_events_end: false,
                }),
                Signal::Failed(error) => Err(error),
                Signal::Bookmark { revision, initial_events_end } => Ok(WatchEvent {
                    kind: WatchEventKind::Bookmark,
                    object: Arc::new(Object::new(
                        Head { resource_version: revision, ..Head::default() },
                        bookmark(&kind, &Accepted::default(), revision, initial_events_end),
                    )),
                    initial_events_end,
                }),
            })
            .boxed())
    }

    async fn discover(&self) -> Result<Discovered, ApiError> {
        discovery::parse(&self.api.table().discovery().whole())
    }
}
