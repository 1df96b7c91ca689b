//! What a controller is started with, and how its reconciler is run.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coracle_client::client::Kind;
use coracle_client::controller::{self, Reconciler};
use coracle_client::events::EventRecorder;
use coracle_client::informer::InformerScope;
use coracle_client::{Client, Informer, Informers, ListOptions, Resource, WorkQueue};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::Options;
use crate::served::{self, Served};

const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub options: Arc<Options>,
    pub shutdown: CancellationToken,
    informers: Informers,
    /// Followed once some controller wants to know.
    served: Arc<OnceLock<Served>>,
    /// Those this controller asked for.
    used: Arc<Mutex<Vec<Informer>>>,
}

impl Context {
    pub fn new(
        client: Client,
        informers: Informers,
        options: Arc<Options>,
        shutdown: CancellationToken,
    ) -> Self {
        Self { client, options, shutdown, informers, served: Arc::default(), used: Arc::default() }
    }

    /// The same for another controller: each waits for the informers of its own only.
    pub fn fresh(&self) -> Self {
        Self { used: Arc::default(), ..self.clone() }
    }

    /// The shared informer of a type.
    pub fn of<K: Kind>(&self) -> Informer {
        self.note(self.informers.of::<K>())
    }

    pub fn of_resource(&self, resource: Resource) -> Informer {
        self.note(self.informers.of_resource(resource))
    }

    pub fn scoped(&self, resource: Resource, scope: InformerScope) -> Informer {
        self.note(self.informers.scoped(resource, scope))
    }

    /// What the API serves, as it changes.
    pub fn served(&self) -> Served {
        let follow = || served::follow(self.client.clone(), self.informers.clone(), self.shutdown.clone());
        self.served.get_or_init(follow).clone()
    }

    fn note(&self, informer: Informer) -> Informer {
        self.used.lock().push(informer.clone());
        informer
    }

    pub fn recorder(&self, component: &str) -> EventRecorder {
        EventRecorder::new(self.client.clone(), component, None)
    }

    /// Whether the API has this resource; asked until it answers. False at shutdown too.
    pub async fn serves<K: Kind>(&self) -> bool {
        loop {
            let one = ListOptions { limit: Some(1), ..ListOptions::default() };
            let asked = tokio::select! {
                asked = self.client.list::<K>("", one) => asked,
                () = self.shutdown.cancelled() => return false,
            };
            match asked {
                Ok(_) => return true,
                Err(error) if error.is_not_found() => return false,
                Err(error) => debug!(kind = K::KIND, %error, "asking whether it is served"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.shutdown.cancelled() => return false,
            }
        }
    }

    /// Resolves once every informer asked for so far has its first list, and what is served is known; false at shutdown.
    pub async fn synced(&self) -> bool {
        let used = self.used.lock().clone();
        let all = async {
            for informer in &used {
                informer.synced().await;
            }
            // Whoever asks what is served is not told "nothing" before that is known.
            if let Some(mut served) = self.served.get().cloned() {
                let _ = served.wait_for(Option::is_some).await;
            }
        };
        tokio::select! {
            () = all => true,
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
