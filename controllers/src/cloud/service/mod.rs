//! The service controller: a Service of type LoadBalancer has a load balancer of the cloud, and its address in its status.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Change, Client, Informer, Key, PatchType, WorkQueue};
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, Service, ServiceSpec};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::provider::{CloudError, LoadBalancers, Provider};
use crate::context::Context;
use plan::Step;

pub use plan::is_ready;

pub async fn run(context: Context, provider: Arc<dyn Provider>) {
    let Some(balancers) = provider.load_balancers() else { return };
    let services = context.of::<Service>();
    let nodes = context.of::<Node>();
    let queue: WorkQueue<Key> = WorkQueue::new();
    let events = context.recorder("service-controller");
    let (added, recorder) = (queue.clone(), events.clone());
    services.on_change(move |change: &Change| notice(change, &added, &recorder));
    let controller = Controller {
        client: context.client.clone(),
        provider: provider.clone(),
        services: services.clone(),
        nodes: nodes.clone(),
        events,
        queue: queue.clone(),
        balanced: Mutex::default(),
        waiting: Mutex::default(),
    };
    let (added, all) = (queue.clone(), services.clone());
    nodes.on_change(move |change: &Change| {
        let essence = |object: &Option<Arc<coracle_client::Object>>| {
            object.as_ref().and_then(|o| o.decode::<Node>().ok()).map(|node| plan::essence(&node))
        };
        // Heartbeats concern nobody.
        if essence(&change.old) == essence(&change.new) {
            return;
        }
        let balanced = |object: &Arc<coracle_client::Object>| {
            object.head.field("spec.type").is_none_or(|kind| kind == "LoadBalancer")
        };
        all.list().iter().filter(|object| balanced(object)).for_each(|object| added.add(object.key()));
    });
    let again = queue.clone();
    balancers.follow(Arc::new(move |key| again.add(key)));
    context.work_with(controller, queue, context.options.cloud.concurrent_service_syncs.max(1)).await;
}

/// Queues a Service whose load balancer is concerned by the change, and says what of it changed.
fn notice(change: &Change, queue: &WorkQueue<Key>, events: &EventRecorder) {
    let Some(new) = change.new.as_ref() else {
        // Gone, without its finalizer or with it taken off by hand: what is remembered goes too.
        return queue.add(change.key());
    };
    let Ok(new) = new.decode::<Service>() else { return };
    let Some(old) = change.old.as_ref().and_then(|old| old.decode::<Service>().ok()) else {
        if plan::step(&new) != Step::Ignore {
            queue.add(change.key());
        }
        return;
    };
    let Some(said) = plan::changes(&old, &new) else { return };
    for (reason, message) in said {
        events.event(&new, EventType::Normal, reason, message);
    }
    queue.add(change.key());
}

/// What a load balancer was last made for: everything of the Service that matters, and the nodes behind it.
#[derive(Clone, PartialEq)]
struct Balanced {
    uid: Option<String>,
    spec: Option<ServiceSpec>,
    /// Without those the cloud keeps itself.
    annotations: BTreeMap<String, String>,
    nodes: Vec<String>,
}

struct Controller {
    client: Client,
    provider: Arc<dyn Provider>,
    services: Informer,
    nodes: Informer,
    events: EventRecorder,
    queue: WorkQueue<Key>,
    balanced: Mutex<HashMap<Key, Balanced>>,
    /// Those the cloud had nothing for: they are tried again when another gives something up.
    waiting: Mutex<HashSet<Key>>,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to check if load balancer exists before cleanup: {0}")]
    Get(#[source] CloudError),
    #[error("failed to delete load balancer: {0}")]
    Delete(#[source] CloudError),
    #[error("failed to ensure load balancer: {0}")]
    Ensure(#[source] CloudError),
    #[error("failed to update load balancer hosts: {0}")]
    Update(#[source] CloudError),
    #[error("failed to add load balancer cleanup finalizer: {0}")]
    AddFinalizer(#[source] ApiError),
    #[error("failed to remove load balancer cleanup finalizer: {0}")]
    RemoveFinalizer(#[source] ApiError),
    #[error("failed to update load balancer status: {0}")]
    Status(#[source] ApiError),
    #[error("{0}")]
    Decode(#[from] serde_json::Error),
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = Error;

    fn name(&self) -> &'static str {
        "service-lb-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let (Some(object), Some(balancers)) = (self.services.get_key(key), self.provider.load_balancers())
        else {
            self.forget(key);
            return Ok(Outcome::Done);
        };
        let service: Service = object.decode()?;
        let result = match plan::step(&service) {
            Step::Ignore => {
                self.forget(key);
                Ok(())
            }
            Step::Delete => self.delete(key, service.clone(), balancers).await,
            Step::Ensure => self.ensure(key, service.clone(), balancers).await,
        };
        match result {
            Ok(()) => Ok(Outcome::Done),
            // Somebody else wrote it meanwhile: it is looked at again as it is now.
            Err(error) if error.is_conflict() => Err(error),
            Err(error) => {
                self.complain(key, &service, &error);
                Err(error)
            }
        }
    }
}

impl Error {
    fn is_conflict(&self) -> bool {
        match self {
            Self::AddFinalizer(error) | Self::RemoveFinalizer(error) | Self::Status(error) => {
                error.is_conflict()
            }
            _ => false,
        }
    }
}

impl Controller {
    fn complain(&self, key: &Key, service: &Service, error: &Error) {
        let (reason, text) = match error {
            Error::Update(cause) => {
                ("UpdateLoadBalancerFailed", format!("Error updating load balancer with new hosts: {cause}"))
            }
            error => ("SyncLoadBalancerFailed", format!("Error syncing load balancer: {error}")),
        };
        if matches!(error, Error::Ensure(_)) {
            self.waiting.lock().insert(key.clone());
        }
        self.events.event(service, EventType::Warning, reason, text);
    }

    async fn delete(&self, key: &Key, service: Service, balancers: &dyn LoadBalancers) -> Result<(), Error> {
        if balancers.get(&service).await.map_err(Error::Get)?.is_some() {
            self.events.event(&service, EventType::Normal, "DeletingLoadBalancer", "Deleting load balancer");
            balancers.delete(&service).await.map_err(Error::Delete)?;
        }
        let mut service = self.annotate(service, &[], balancers, false).await.map_err(Error::Status)?;
        if service.metadata.deletion_timestamp.is_none() {
            service = self.write_status(service, LoadBalancerStatus::default()).await?;
        }
        // Last, so that the Service stays as long as something of the cloud is its.
        let finalizers = plan::without_finalizer(&service);
        let service = self.set_finalizers(service, finalizers).await.map_err(Error::RemoveFinalizer)?;
        self.events.event(&service, EventType::Normal, "DeletedLoadBalancer", "Deleted load balancer");
        self.forget(key);
        Ok(())
    }

    async fn ensure(
        &self,
        key: &Key,
        mut service: Service,
        balancers: &dyn LoadBalancers,
    ) -> Result<(), Error> {
        let nodes: Vec<Node> = self.nodes.list().iter().filter_map(|node| node.decode().ok()).collect();
        let nodes = plan::backends(nodes);
        let kept = balancers.annotations(&service, &nodes);
        let mut annotations = service.metadata.annotations.clone().unwrap_or_default();
        annotations.retain(|name, _| !kept.contains_key(name.as_str()));
        let wanted = Balanced {
            uid: service.metadata.uid.clone(),
            spec: service.spec.clone(),
            annotations,
            nodes: nodes.iter().filter_map(|node| node.metadata.name.clone()).collect(),
        };
        let known = self.balanced.lock().get(key).cloned();
        if nodes.is_empty() {
            let text = "There are no available nodes for LoadBalancer";
            self.events.event(&service, EventType::Warning, "UnAvailableLoadBalancer", text);
        }
        let status = match known {
            Some(known) if (Balanced { nodes: wanted.nodes.clone(), ..known.clone() }) == wanted => {
                let status = balancers.update(&service, &nodes).await.map_err(Error::Update)?;
                if known.nodes != wanted.nodes {
                    let text = "Updated load balancer with new hosts";
                    self.events.event(&service, EventType::Normal, "UpdatedLoadBalancer", text);
                }
                status
            }
            _ => {
                self.events.event(
                    &service,
                    EventType::Normal,
                    "EnsuringLoadBalancer",
                    "Ensuring load balancer",
                );
                if !plan::has_finalizer(&service) {
                    // First, so that whatever the cloud makes is found again.
                    let finalizers = plan::with_finalizer(&service);
                    service = self.set_finalizers(service, finalizers).await.map_err(Error::AddFinalizer)?;
                }
                let status = balancers.ensure(&service, &nodes).await.map_err(Error::Ensure)?;
                self.events.event(
                    &service,
                    EventType::Normal,
                    "EnsuredLoadBalancer",
                    "Ensured load balancer",
                );
                Some(status)
            }
        };
        let service = self.annotate(service, &nodes, balancers, true).await.map_err(Error::Status)?;
        if let Some(status) = status {
            self.write_status(service, status).await?;
        }
        self.waiting.lock().remove(key);
        self.balanced.lock().insert(key.clone(), wanted);
        Ok(())
    }

    fn forget(&self, key: &Key) {
        self.waiting.lock().remove(key);
        if self.balanced.lock().remove(key).is_some() {
            self.waiting.lock().iter().for_each(|other| self.queue.add(other.clone()));
        }
    }

    async fn set_finalizers(&self, service: Service, finalizers: Vec<String>) -> Result<Service, ApiError> {
        // The whole list is written: nobody may have changed it since it was read.
        let version = service.metadata.resource_version.clone();
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": version}});
        self.patch(service, None, patch).await
    }

    /// Annotations that the cloud keeps on the Service, where they are not so.
    async fn annotate(
        &self,
        service: Service,
        nodes: &[Node],
        balancers: &dyn LoadBalancers,
        wanted: bool,
    ) -> Result<Service, ApiError> {
        let present = service.metadata.annotations.clone().unwrap_or_default();
        let mut changed = serde_json::Map::new();
        for (name, value) in balancers.annotations(&service, nodes) {
            let value = value.filter(|_| wanted);
            if present.get(name) != value.as_ref() {
                changed.insert(name.to_owned(), json!(value));
            }
        }
        if changed.is_empty() {
            return Ok(service);
        }
        self.patch(service, None, json!({"metadata": {"annotations": changed}})).await
    }

    async fn write_status(&self, service: Service, status: LoadBalancerStatus) -> Result<Service, Error> {
        if plan::status(&service) == status {
            return Ok(service);
        }
        let patch = json!({"status": {"loadBalancer": {"ingress": status.ingress}}});
        self.patch(service, Some("status"), patch).await.map_err(Error::Status)
    }

    /// The Service after the patch, or as it was where it is gone.
    async fn patch(
        &self,
        service: Service,
        subresource: Option<&str>,
        mut patch: Value,
    ) -> Result<Service, ApiError> {
        let namespace = service.metadata.namespace.clone().unwrap_or_default();
        let name = service.metadata.name.clone().unwrap_or_default();
        patch["metadata"]["uid"] = json!(service.metadata.uid);
        match self.client.patch::<Service>(&namespace, &name, subresource, PatchType::Merge, &patch).await {
            Err(error) if error.is_not_found() => Ok(service),
            other => other?.decode(),
        }
    }
}
