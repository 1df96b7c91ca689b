//! Follows the store: one watch over everything, spread over the caches by resource.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{PREFIX, WatchCache, split_key};
use crate::storage::{Change, Error, Store, WatchItem};

/// Changes applied before readers are told and other tasks get their turn.
const BATCH: usize = 64;
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often history that has grown old is let go.
const TRIM: Duration = Duration::from_secs(30);

/// Runs until shutdown or until the store is closed.
pub async fn run(cache: Arc<WatchCache>, store: Arc<dyn Store>, shutdown: CancellationToken) {
    let mut backoff = BACKOFF_MIN;
    loop {
        let before = cache.revision();
        let ended = tokio::select! {
            ended = AssertUnwindSafe(follow(&cache, &*store)).catch_unwind() => ended,
            () = trim(&cache) => continue,
            () = shutdown.cancelled() => return,
        };
        let ended = match ended {
            Ok(ended) => ended,
            Err(_) => {
                // Every read comes from the cache: it must not stand still because one change was odd.
                error!("taking in a change of the store panicked; loading it anew");
                cache.load(&*store).await.map(drop)
            }
        };
        match ended {
            Err(Error::Closed) => return,
            Err(error @ Error::Compacted { .. }) => {
                info!(%error, "the store's history does not reach back to the cache; loading it anew");
                if let Err(error) = cache.load(&*store).await {
                    warn!(%error, "loading the store failed");
                }
            }
            Err(error) => warn!(%error, "the watch of the store broke off; taking it up again"),
            Ok(()) => {}
        }
        backoff = if cache.revision() > before { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn follow(cache: &WatchCache, store: &dyn Store) -> Result<(), Error> {
    let mut stream = store.watch(PREFIX, cache.revision()).await?;
    while let Some(item) = stream.next().await {
        match item? {
            WatchItem::Changes(changes) => {
                for batch in changes.chunks(BATCH) {
                    take_in(cache, batch);
                    if changes.len() > BATCH {
                        tokio::task::yield_now().await;
                    }
                }
            }
            WatchItem::Progress(revision) => cache.progress.advance(revision),
        }
    }
    Ok(())
}

fn take_in(cache: &WatchCache, changes: &[Change]) {
    let resources = cache.resources();
    for change in changes {
        if let Some((resource, key)) = split_key(&change.key)
            && let Some(resource) = resources.get(resource)
        {
            resource.apply(key, change.revision, change.value.as_ref());
        }
    }
    if let Some(last) = changes.last() {
        cache.progress.advance(last.revision);
    }
}

async fn trim(cache: &WatchCache) {
    loop {
        tokio::time::sleep(TRIM).await;
        let now = Instant::now();
        for resource in cache.resources().values() {
            resource.trim(now);
        }
    }
}
