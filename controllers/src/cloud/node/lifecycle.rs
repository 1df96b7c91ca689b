//! The cloud node lifecycle controller: a node whose machine went is deleted, one whose machine is off is tainted.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::{Change, Client, DeleteOptions, Informer, Key, PatchType, WorkQueue};
use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::json;

use super::super::provider::Provider;
use super::super::service::is_ready;
use super::Error;
use super::plan::{self, SHUTDOWN, UNINITIALIZED, Verdict};
use crate::context::Context;

/// A cloud does not say when a machine goes: it is asked this often about nodes that are not ready, as upstream's
/// `--node-monitor-period`.
const MONITOR_EVERY: Duration = Duration::from_secs(5);

pub async fn run(context: Context, provider: Arc<dyn Provider>) {
    if provider.instances().is_none() {
        return;
    }
    let nodes = context.of::<Node>();
    let queue: WorkQueue<Key> = WorkQueue::new();
    let added = queue.clone();
    nodes.on_change(move |change: &Change| {
        let look = |object: &Option<Arc<coracle_client::Object>>| {
            object
                .as_ref()
                .and_then(|o| o.decode::<Node>().ok())
                .map(|n| (is_ready(&n), plan::has_taint(&n, SHUTDOWN), plan::has_taint(&n, UNINITIALIZED)))
        };
        if look(&change.old) != look(&change.new) {
            added.add(change.key());
        }
    });
    let controller = Controller {
        client: context.client.clone(),
        provider,
        nodes,
        events: context.recorder("cloud-node-lifecycle-controller"),
    };
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    provider: Arc<dyn Provider>,
    nodes: Informer,
    events: EventRecorder,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = Error;

    fn name(&self) -> &'static str {
        "cloud-node-lifecycle-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, Error> {
        let (Some(object), Some(instances)) = (self.nodes.get_key(key), self.provider.instances()) else {
            return Ok(Outcome::Done);
        };
        let node: Node = object.decode()?;
        // What its cloud has not seen yet, it cannot have lost; and what never was of a cloud, neither.
        let has_machine = node.spec.as_ref().is_some_and(|spec| spec.provider_id.is_some());
        if plan::has_taint(&node, UNINITIALIZED) || !has_machine || node.metadata.deletion_timestamp.is_some()
        {
            return Ok(Outcome::Done);
        }
        let ready = is_ready(&node);
        let instance = if ready { None } else { instances.instance(&node).await? };
        match plan::verdict(&node, ready, instance.as_ref()) {
            Verdict::Fine => {}
            Verdict::Untaint => self.set_taints(&node, plan::without_taint(&node, SHUTDOWN)).await?,
            Verdict::Taint => self.set_taints(&node, plan::with_shutdown_taint(&node)).await?,
            Verdict::Delete => {
                let text =
                    format!("Deleting node {} because it does not exist in the cloud provider", key.name);
                self.events.event(&node, EventType::Normal, "DeletingNode", text);
                let options = DeleteOptions::default().uid(&object.head.uid);
                match self.client.delete::<Node>("", &key.name, options).await {
                    Err(error) if error.is_not_found() || error.is_conflict() => {}
                    other => other?,
                }
                return Ok(Outcome::Done);
            }
        }
        Ok(if ready { Outcome::Done } else { Outcome::After(MONITOR_EVERY) })
    }
}

impl Controller {
    async fn set_taints(&self, node: &Node, taints: Vec<Taint>) -> Result<(), Error> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        // The whole list is written: nobody may have changed it since it was read.
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        match self.client.patch::<Node>("", name, None, PatchType::Merge, &patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }
}
