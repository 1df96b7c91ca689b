//! Runs a reconciler over a work queue with a number of workers, backing off on failure.

use std::fmt::Display;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::queue::WorkQueue;

/// What a reconcile asks for when it succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Look at the key again after this long.
    After(Duration),
}

/// A reconcile reads current state and acts; it is told which key, never what happened.
pub trait Reconciler: Send + Sync + 'static {
    type Key: Eq + Hash + Clone + Display + Send + Sync + 'static;
    type Error: Display + Send;

    fn name(&self) -> &'static str;

    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Outcome, Self::Error>> + Send;
}

/// Works until `shutdown`, then lets the reconciles under way end.
pub async fn run<R: Reconciler>(
    reconciler: std::sync::Arc<R>,
    queue: WorkQueue<R::Key>,
    workers: usize,
    shutdown: CancellationToken,
) {
    queue.measure(reconciler.name());
    let mut running = JoinSet::new();
    for _ in 0..workers {
        let (reconciler, queue) = (reconciler.clone(), queue.clone());
        running.spawn(async move {
            while let Some(key) = queue.get().await {
                let reconciled = AssertUnwindSafe(reconciler.reconcile(&key)).catch_unwind().await;
                let Ok(result) = reconciled else {
                    // One key must not take the worker with it.
                    error!(controller = reconciler.name(), %key, "reconcile panicked");
                    queue.add_rate_limited(key.clone());
                    queue.done(&key);
                    continue;
                };
                match result {
                    Ok(Outcome::Done) => queue.forget(&key),
                    Ok(Outcome::After(delay)) => {
                        queue.forget(&key);
                        queue.add_after(key.clone(), delay);
                    }
                    Err(error) => {
                        let failures = queue.failures(&key);
                        if failures < 6 {
                            debug!(controller = reconciler.name(), %key, %error, "reconcile failed, again soon");
                        } else {
                            warn!(controller = reconciler.name(), %key, %error, failures, "reconcile keeps failing");
                        }
                        queue.add_rate_limited(key.clone());
                    }
                }
                queue.done(&key);
            }
        });
    }
    shutdown.cancelled().await;
    queue.close();
    while running.join_next().await.is_some() {}
}
