//! Node lifecycle: notices nodes that fall silent, taints nodes by their conditions, marks their pods not ready.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::informer::InformerScope;
use coracle_client::{ApiError, Change, Client, Informer, Key, PatchType, Resource, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::context::Context;
use crate::pods;
use crate::steady::Now;

pub mod eviction;
pub mod pod_gc;

mod health;
mod taints;
mod tally;
mod zones;

use health::{Heard, READY, Verdict};
use tally::{Tally, zone_of};
use zones::{News, Ration};

const LEASES: &str = "kube-node-lease";

pub async fn run(context: Context) {
    let queue = WorkQueue::new();
    let leases = InformerScope { namespace: Some(LEASES.into()), ..InformerScope::default() };
    let controller = Controller {
        client: context.client.clone(),
        nodes: context.of::<Node>(),
        pods: context.of::<Pod>(),
        leases: context.scoped(Resource::of::<Lease>(), leases),
        events: context.recorder("node-controller"),
        grace: context.options.node_monitor_grace_period,
        rate: context.options.node_eviction_rate,
        heard: Arc::default(),
        ration: Arc::default(),
        tally: Tally::default(),
    };
    pods::index(&controller.pods);
    let (added, tally) = (queue.clone(), controller.tally.clone());
    let (heard, ration) = (controller.heard.clone(), controller.ration.clone());
    controller.nodes.on_change(move |change: &Change| {
        let news = tally.change(change);
        added.add(change.key());
        if news == News::None {
            return;
        }
        // What happened to one zone may decide over the nodes of all.
        ration.lock().keep(&tally.zones());
        if news == News::Back {
            // As long as all were silent, it was rather this process that could not hear.
            let now = Instant::now();
            heard.lock().values_mut().for_each(|heard| heard.at = now);
        }
        tally.lost().into_iter().for_each(|node| added.add(node));
    });
    let added = queue.clone();
    controller.leases.on_change(move |change: &Change| {
        if change.new.is_some() {
            added.add(Key::new("", &change.object().head.name));
        }
    });
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    nodes: Informer,
    pods: Informer,
    leases: Informer,
    events: EventRecorder,
    grace: Duration,
    rate: f64,
    heard: Arc<Mutex<HashMap<Key, Heard>>>,
    ration: Arc<Mutex<Ration>>,
    tally: Tally,
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.nodes.get_key(key) else {
            self.heard.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let node: Node = object.decode()?;
        let now = Now::read();
        let lease = match self.leases.get(LEASES, &key.name) {
            Some(lease) => lease.decode::<Lease>()?.spec.and_then(|s| s.renew_time).map(|t| t.0),
            None => None,
        };
        let heard = Heard::update(self.heard.lock().get(key).cloned(), &node, lease, now);
        self.heard.lock().insert(key.clone(), heard.clone());
        let mut again = None;
        let node = match health::judge(&node, &heard, self.grace, now) {
            Verdict::Heard(left) => {
                again = Some(left);
                node
            }
            Verdict::Lost(None) => node,
            Verdict::Lost(Some(conditions)) => self.lose(node, conditions).await?,
        };
        let conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let zone = zone_of(&node);
        if conditions.iter().any(|c| c.type_ == READY && c.status == "Unknown") {
            self.mark_pods(&key.name, now.wall).await?;
        }
        if let Some(wait) = self.taint(&node, &zone, &conditions, now).await? {
            again = Some(again.map_or(wait, |left| left.min(wait)));
        }
        Ok(again.map_or(Outcome::Done, Outcome::After))
    }
}

impl Controller {
    async fn lose(&self, mut node: Node, conditions: Vec<NodeCondition>) -> Result<Node, ApiError> {
        let was_ready = health::condition(&node, READY).is_some_and(|c| c.status == "True");
        node.status.get_or_insert_default().conditions = Some(conditions);
        let written = self.client.update_status(&node).await?.decode()?;
        if was_ready {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            let message = format!("Node {name} status is now: NodeNotReady");
            self.events.event(&node, EventType::Normal, "NodeNotReady", message);
        }
        Ok(written)
    }

    /// Nobody is there to say that the pods of a lost node are not ready, so that traffic stops.
    async fn mark_pods(&self, node: &str, now: Timestamp) -> Result<(), ApiError> {
        for object in self.pods.by_index(pods::BY_NODE, node) {
            let mut pod: Pod = object.decode()?;
            let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
            let Some(ready) = conditions.iter_mut().find(|c| c.type_ == READY && c.status == "True") else {
                continue;
            };
            ready.status = "False".into();
            ready.last_transition_time = Some(Time(now));
            match self.client.update_status(&pod).await {
                Ok(_) => self.events.event(&pod, EventType::Warning, "NodeNotReady", "Node is not ready"),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Some: a NoExecute taint has to wait this long.
    async fn taint(
        &self,
        node: &Node,
        zone: &str,
        conditions: &[NodeCondition],
        now: Now,
    ) -> Result<Option<Duration>, ApiError> {
        let zones = self.tally.zones();
        let (rate, all_lost) = (zones::rate(zone, &zones, self.rate), zones::all_lost(&zones));
        let plan = taints::plan(node, conditions, all_lost, now.wall);
        let mut wait = None;
        let mut wanted = plan.taints;
        if let Some(evict) = plan.evict {
            match self.ration.lock().take(zone, rate, now.steady) {
                Ok(()) => {
                    let present = || node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
                    wanted.get_or_insert_with(present).push(evict);
                    tally::evicted(zone);
                }
                // Without a rate, the change of the zones brings the node back.
                Err(left) => wait = left,
            }
        }
        if let Some(taints) = wanted {
            self.write_taints(node, &taints).await?;
        }
        Ok(wait)
    }

    async fn write_taints(&self, node: &Node, taints: &[Taint]) -> Result<(), ApiError> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": Some(taints).filter(|t| !t.is_empty())},
        });
        self.client.patch::<Node>("", name, None, PatchType::Merge, &patch).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
