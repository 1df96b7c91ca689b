//! Keeps an informer's copy equal to the API: list, then watch, again from where it stopped.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::client::Client;
use crate::informer::Shared;
use crate::request::{ListOptions, WatchEventKind, WatchOptions};
use crate::status::ApiError;

/// The page size of lists over the network; a direct transport answers in one page.
const PAGE: u64 = 500;
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A watch that ends sooner than this is no news that all is well.
const STEADY: Duration = Duration::from_secs(1);

/// Follows until the shutdown. A handler that panics ends the round, not the informer.
pub(crate) async fn run(client: Client, shared: Arc<Shared>, shutdown: CancellationToken) {
    loop {
        let following = AssertUnwindSafe(follow(&client, &shared, &shutdown));
        if following.catch_unwind().await.is_ok() {
            return;
        }
        error!(resource = %shared.resource, "a handler of changes panicked, listing again");
        tokio::select! {
            () = tokio::time::sleep(BACKOFF_MIN) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn follow(client: &Client, shared: &Shared, shutdown: &CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    let mut version: Option<u64> = None;
    loop {
        let step = async {
            let from = match version {
                Some(version) => version,
                None => list(client, shared).await?,
            };
            watch(client, shared, from, &mut version).await
        };
        let began = Instant::now();
        let result = tokio::select! {
            result = step => result,
            () = shutdown.cancelled() => return,
        };
        if began.elapsed() >= STEADY {
            backoff = BACKOFF_MIN;
        }
        match result {
            Ok(()) if began.elapsed() >= STEADY => continue,
            Ok(()) => debug!(resource = %shared.resource, "watch ended at once, again in {backoff:?}"),
            Err(error) if error.is_expired() => {
                debug!(resource = %shared.resource, "watch expired, listing again in {backoff:?}");
                version = None;
            }
            Err(error) => {
                warn!(resource = %shared.resource, %error, "list or watch failed, retrying in {backoff:?}");
            }
        }
        let pause = backoff.mul_f64(0.75 + rand::random::<f64>() / 2.0);
        backoff = (backoff * 2).min(BACKOFF_MAX);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
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
