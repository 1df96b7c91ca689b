//! Keeps an informer's copy equal to the API: list, then watch, again from where it stopped.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::client::Client;
use crate::informer::Shared;
use crate::request::{ListOptions, WatchEventKind, WatchOptions};
use crate::status::ApiError;

/// The page size of lists over the network; a direct transport answers in one page.
const PAGE: u64 = 500;
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

pub(crate) async fn run(client: Client, shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    let mut version: Option<u64> = None;
    loop {
        let step = async {
            let from = match version {
                Some(version) => version,
                None => list(&client, &shared).await?,
            };
            watch(&client, &shared, from, &mut version).await
        };
        let result = tokio::select! {
            result = step => result,
            () = shutdown.cancelled() => return,
        };
        match result {
            Ok(()) => backoff = BACKOFF_MIN,
            Err(error) => {
                if error.is_expired() {
                    debug!(resource = %shared.resource, "watch expired, listing again");
                    version = None;
                    backoff = BACKOFF_MIN;
                    continue;
                }
                warn!(resource = %shared.resource, %error, "list or watch failed, retrying in {backoff:?}");
                let pause = backoff.mul_f64(0.75 + rand::random::<f64>() / 2.0);
                backoff = (backoff * 2).min(BACKOFF_MAX);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }
}

async fn list(client: &Client, shared: &Shared) -> Result<u64, ApiError> {
    let mut options = ListOptions {
        label_selector: shared.scope.label_selector.clone(),
        field_selector: shared.scope.field_selector.clone(),
        limit: Some(PAGE),
        ..ListOptions::default()
    };
    let namespace = shared.scope.namespace.as_deref().unwrap_or_default();
    let mut objects = Vec::new();
    loop {
        let page = client.list_objects(&shared.resource, namespace, options.clone()).await?;
        objects.extend(page.items);
        match page.continue_token.filter(|token| !token.is_empty()) {
            Some(token) => options.continue_token = Some(token),
            None => {
                shared.replace(objects);
                return Ok(page.resource_version);
            }
        }
    }
}

/// Ok when the server ended the watch in good order; `version` follows what has been taken in.
async fn watch(
    client: &Client,
    shared: &Shared,
    from: u64,
    version: &mut Option<u64>,
) -> Result<(), ApiError> {
    *version = Some(from);
    let options = WatchOptions {
        label_selector: shared.scope.label_selector.clone(),
        field_selector: shared.scope.field_selector.clone(),
        resource_version: Some(from.to_string()),
        allow_bookmarks: true,
        ..WatchOptions::default()
    };
    let namespace = shared.scope.namespace.as_deref().unwrap_or_default();
    let mut events = client.watch_objects(&shared.resource, namespace, options).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        *version = Some(event.object.head.resource_version);
        match event.kind {
            WatchEventKind::Added | WatchEventKind::Modified => shared.apply(event.object),
            WatchEventKind::Deleted => shared.remove(&event.object.key(), Some(event.object.clone())),
            WatchEventKind::Bookmark => {}
        }
    }
    Ok(())
}
