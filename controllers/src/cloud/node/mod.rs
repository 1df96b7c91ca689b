//! The cloud node controller: a node that waits for its cloud gets its machine's id, addresses and labels, and is let in.

pub mod lifecycle;
pub mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{ApiError, Change, Client, Informer, Key, PatchType, WorkQueue};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::provider::{CloudError, Provider};
use crate::context::Context;
use plan::UNINITIALIZED;

/// A cloud says nothing of itself: its addresses and labels are asked for again this often, as upstream's
/// `--node-status-update-frequency`.
const STATUS_EVERY: Duration = Duration::from_secs(300);

pub async fn run(context: Context, provider: Arc<dyn Provider>) {
    if provider.instances().is_none() {
        return;
    }
    let nodes = context.of::<Node>();
    let queue: WorkQueue<Key> = WorkQueue::new();
    let added = queue.clone();
    nodes.on_change(move |change: &Change| {
        let waits = change
            .new
            .as_ref()
            .and_then(|n| n.decode::<Node>().ok())
            .is_some_and(|n| plan::has_taint(&n, UNINITIALIZED));
        // Heartbeats ask nothing of a cloud.
        if change.old.is_none() || waits {
            added.add(change.key());
        }
    });
    let controller = Controller {
        client: context.client.clone(),
        provider,
        nodes,
        events: context.recorder("cloud-node-controller"),
    };
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    provider: Arc<dyn Provider>,
    nodes: Informer,
    events: EventRecorder,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to get instance metadata: {0}")]
    Instance(#[from] CloudError),
    #[error("failed to get instance metadata: instance not found")]
    NoInstance,
    #[error("{0}")]
    Addresses(String),
    #[error("{0}")]
    Api(#[from] ApiError),
    #[error("{0}")]
    Decode(#[from] serde_json::Error),
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = Error;

    fn name(&self) -> &'static str {
        "cloud-node-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let (Some(object), Some(instances)) = (self.nodes.get_key(key), self.provider.instances()) else {
            return Ok(Outcome::Done);
        };
        let node: Node = object.decode()?;
        let waits = plan::has_taint(&node, UNINITIALIZED);
        let initialized = node.spec.as_ref().is_some_and(|spec| spec.provider_id.is_some());
        if !waits && !initialized {
            // A node that never waited for a cloud is none of its.
            return Ok(Outcome::Done);
        }
        let Some(instance) = instances.instance(&node).await? else {
            // One that vanishes later is the lifecycle controller's.
            return if waits { Err(Error::NoInstance) } else { Ok(Outcome::After(STATUS_EVERY)) };
        };
        let addresses = plan::addresses(&node, &instance).map_err(Error::Addresses)?;
        let mut node = node;
        if node.status.as_ref().and_then(|s| s.addresses.as_ref()) != Some(&addresses) {
            node = self.patch(node, Some("status"), json!({"status": {"addresses": addresses}})).await?;
        }
        let labels = plan::labels(&instance);
        let present = node.metadata.labels.clone().unwrap_or_default();
        let mut patch = json!({"metadata": {}});
        if labels.iter().any(|(name, value)| present.get(name) != Some(value)) {
            patch["metadata"]["labels"] = json!(labels);
        }
        if !initialized && !instance.provider_id.is_empty() {
            patch["spec"]["providerID"] = json!(instance.provider_id);
        }
        if waits {
            // The whole list is written: nobody may have changed it since it was read.
            patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
            patch["spec"]["taints"] = json!(plan::without_taint(&node, UNINITIALIZED));
        }
        if patch != json!({"metadata": {}}) {
            node = self.patch(node, None, patch).await?;
        }
        if waits {
            self.events.event(&node, EventType::Normal, "Synced", "Node synced successfully");
        }
        Ok(Outcome::After(STATUS_EVERY))
    }
}

impl Controller {
    /// The node after the patch, or as it was where it is gone.
    async fn patch(&self, node: Node, subresource: Option<&str>, patch: Value) -> Result<Node, ApiError> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        match self.client.patch::<Node>("", name, subresource, PatchType::Merge, &patch).await {
            Err(error) if error.is_not_found() => Ok(node),
            other => other?.decode(),
        }
    }
}
