//! The pods of this node: a worker per pod, driven by the watch of the node's pods.

pub mod admission;
pub mod adopt;
pub mod backoff;
mod components;
pub mod context;
pub mod downward;
pub mod env;
pub mod events;
pub mod expansion;
mod hooks;
mod hostname;
pub mod image_collection;
pub mod images;
pub mod keyvalue;
mod network;
mod operations;
pub mod orphans;
pub mod plan;
pub mod service_env;
pub mod sources;
pub mod spec;
mod start;
pub mod state;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;

use coracle_client::informer::{Change, Informer};
use coracle_client::{Object, Uid};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use context::Context;
use state::Failure;
use worker::{Inbox, Worker};

/// Hands every change of the node's pods to the pod's worker.
pub struct Pods {
    context: Arc<Context>,
    workers: Mutex<HashMap<Uid, Arc<Inbox>>>,
    tasks: TaskTracker,
}

impl Pods {
    pub fn new(context: Arc<Context>) -> Arc<Self> {
        Arc::new(Pods { context, workers: Mutex::default(), tasks: TaskTracker::new() })
    }

    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Follows the informer of this node's pods, beginning with those it holds.
    pub fn follow(self: &Arc<Self>, informer: &Informer) {
        let pods = self.clone();
        informer.on_change(move |change| pods.take(change));
    }

    fn take(self: &Arc<Self>, change: &Change) {
        if self.context.shutdown.is_cancelled() {
            return;
        }
        if let Some(old) = &change.old
            && change.new.as_ref().is_none_or(|new| new.head.uid != old.head.uid)
        {
            // Gone, or another pod has its name now.
            let worker = self.workers.lock().get(&old.head.uid).cloned();
            if let Some(inbox) = worker {
                inbox.gone();
            }
        }
        if let Some(new) = &change.new {
            self.dispatch(new);
        }
    }

    fn dispatch(self: &Arc<Self>, object: &Arc<Object>) {
        let mut workers = self.workers.lock();
        if let Some(inbox) = workers.get(&object.head.uid) {
            inbox.put(object.clone());
            return;
        }
        let pod = match object.decode::<Pod>() {
            Ok(pod) => pod,
            Err(error) => {
                tracing::error!(pod = %object.key(), %error, "an undecodable pod is not run");
                return;
            }
        };
        let inbox = Arc::new(Inbox::default());
        workers.insert(object.head.uid.clone(), inbox.clone());
        let worker = Worker::new(self.context.clone(), inbox, object.clone(), &pod);
        let (pods, uid) = (self.clone(), object.head.uid.clone());
        self.tasks.spawn(async move {
            worker.run().await;
            pods.workers.lock().remove(&uid);
        });
    }

    /// Ends a pod as Failed: the node needs what it holds.
    pub fn evict(&self, uid: &str, reason: &'static str, message: String) {
        if let Some(inbox) = self.workers.lock().get(uid) {
            inbox.fail(Failure { reason: reason.into(), message });
        }
    }

    /// Resolves when every worker has ended, after the shutdown token was cancelled.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
