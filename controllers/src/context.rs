//! What a controller is started with, and how its reconciler is run.

use std::sync::Arc;

use coracle_client::controller::{self, Reconciler};
use coracle_client::events::EventRecorder;
use coracle_client::{Client, Informers, WorkQueue};
use tokio_util::sync::CancellationToken;

use crate::Options;

#[derive(Clone)]
pub struct Context {
    pub name: &'static str,
    pub client: Client,
    pub informers: Informers,
    pub options: Arc<Options>,
    pub shutdown: CancellationToken,
}

impl Context {
    pub fn recorder(&self, component: &str) -> EventRecorder {
        EventRecorder::new(self.client.clone(), component, None)
    }

    /// Works once every informer asked for so far has its first list; false at shutdown.
    pub async fn synced(&self) -> bool {
        tokio::select! {
            () = self.informers.synced() => true,
            () = self.shutdown.cancelled() => false,
        }
    }

    /// Runs the reconciler over the queue until shutdown, after the informers have synced.
    pub async fn work<R: Reconciler>(&self, reconciler: R, queue: WorkQueue<R::Key>) {
        self.work_with(reconciler, queue, self.options.concurrent_syncs.max(1)).await;
    }

    pub async fn work_with<R: Reconciler>(&self, reconciler: R, queue: WorkQueue<R::Key>, workers: usize) {
        if self.synced().await {
            controller::run(Arc::new(reconciler), queue, workers, self.shutdown.clone()).await;
        }
    }
}
