//! Taint eviction: pods leave nodes with NoExecute taints that they do not tolerate, or no longer do.

use std::collections::HashSet;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::tolerations::{NO_EXECUTE, tolerates};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, Object, WorkQueue};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::context::Context;
use crate::pods;

pub async fn run(context: Context) {
    let controller = Controller {
        client: context.client.clone(),
        nodes: context.of::<Node>(),
        pods: context.of::<Pod>(),
        events: context.recorder("taint-eviction-controller"),
        scheduled: Mutex::default(),
    };
    pods::index(&controller.pods);
    let queue = WorkQueue::new();
    let (added, on_node) = (queue.clone(), controller.pods.clone());
    controller.nodes.on_change(move |change: &Change| {
        let taints =
            |o: &Option<std::sync::Arc<Object>>| o.as_ref().map(|o| executing(o)).unwrap_or_default();
        if taints(&change.old) != taints(&change.new) {
            let name = &change.object().head.name;
            on_node.by_index(pods::BY_NODE, name).iter().for_each(|pod| added.add(pod.key()));
        }
    });
    let added = queue.clone();
    controller.pods.on_change(move |change: &Change| {
        let node = |o: &Object| o.head.field("spec.nodeName").unwrap_or_default().to_owned();
        if node(change.object()).is_empty() {
            return;
        }
        // Most changes are of the status, which evicts nobody.
        let same =
            |old: &Object, new: &Object| node(old) == node(new) && old.head.generation == new.head.generation;
        if !matches!((&change.old, &change.new), (Some(old), Some(new)) if same(old, new)) {
            added.add(change.key());
        }
    });
    context.work(controller, queue).await;
}

struct Controller {
    client: Client,
    nodes: Informer,
    pods: Informer,
    events: EventRecorder,
    /// Pods that wait for their time, to tell when that is called off. Bounded by the pods.
    scheduled: Mutex<HashSet<Key>>,
}

#[derive(Deserialize)]
struct NodeView {
    spec: Option<NodeSpec>,
}

#[derive(Deserialize)]
struct NodeSpec {
    taints: Option<Vec<Taint>>,
}

fn executing(node: &Object) -> Vec<Taint> {
    let mut taints = node.decode::<NodeView>().ok().and_then(|view| view.spec?.taints).unwrap_or_default();
    taints.retain(|taint| taint.effect == NO_EXECUTE);
    taints
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Leaves(Timestamp),
}

/// When the pod has to leave: at the earliest end of what it tolerates. `since`: when it came to the node.
fn fate(taints: &[Taint], tolerations: &[Toleration], since: Timestamp) -> Fate {
    let mut leaves: Option<Timestamp> = None;
    for taint in taints {
        let begins = taint.time_added.as_ref().map_or(since, |added| added.0.max(since));
        // Of several that tolerate it the first counts, as upstream.
        let ends = match tolerations.iter().find(|t| tolerates(t, taint)) {
            None => begins,
            Some(toleration) => {
                let Some(seconds) = toleration.toleration_seconds else { continue };
                begins.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX)
            }
        };
        leaves = Some(leaves.map_or(ends, |at| at.min(ends)));
    }
    leaves.map_or(Fate::Stays, Fate::Leaves)
}

/// When the pod was bound, as its conditions tell; else when it was made.
fn bound_since(pod: &Pod) -> Timestamp {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let scheduled = conditions
        .into_iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "True")
        .and_then(|c| c.last_transition_time.as_ref());
    scheduled.or(pod.metadata.creation_timestamp.as_ref()).map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

impl Reconciler for Controller {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.pods.get_key(key).filter(|o| !o.head.deleting) else {
            self.scheduled.lock().remove(key);
            return Ok(Outcome::Done);
        };
        let node = object.head.field("spec.nodeName").unwrap_or_default();
        let taints = self.nodes.get("", node).map(|node| executing(&node)).unwrap_or_default();
        if taints.is_empty() && !self.scheduled.lock().contains(key) {
            return Ok(Outcome::Done);
        }
        let pod: Pod = object.decode()?;
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.clone()).unwrap_or_default();
        let now = Timestamp::now();
        match fate(&taints, &tolerations, bound_since(&pod)) {
            Fate::Stays => {
                if self.scheduled.lock().remove(key) {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.events.event(&pod, EventType::Normal, "TaintManagerEviction", message);
                }
                Ok(Outcome::Done)
            }
            Fate::Leaves(at) if at > now => {
                self.scheduled.lock().insert(key.clone());
                Ok(Outcome::After(Duration::try_from(at.duration_since(now)).unwrap_or_default()))
            }
            Fate::Leaves(_) => {
                let message = format!("Marking for deletion Pod {key}");
                self.events.event(&pod, EventType::Normal, "TaintManagerEviction", message);
                self.evict(key, pod, now).await?;
                self.scheduled.lock().remove(key);
                Ok(Outcome::Done)
            }
        }
    }
}

impl Controller {
    async fn evict(&self, key: &Key, mut pod: Pod, now: Timestamp) -> Result<(), ApiError> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let reason = "DeletionByTaintManager";
        if disrupt(&mut pod, reason, "Taint manager: deleting due to NoExecute taint", now) {
            match self.client.update_status(&pod).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let options = DeleteOptions::default().uid(&uid);
        match self.client.delete::<Pod>(&key.namespace, &key.name, options).await {
            Ok(()) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Sets the DisruptionTarget condition; false where the pod has it already.
pub(crate) fn disrupt(pod: &mut Pod, reason: &str, message: &str, now: Timestamp) -> bool {
    let generation = pod.metadata.generation;
    let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    if conditions.iter().any(|c| c.type_ == "DisruptionTarget" && c.status == "True") {
        return false;
    }
    conditions.retain(|c| c.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(now)),
        observed_generation: generation,
        ..PodCondition::default()
    });
    true
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    #[test]
    fn pods_leave_when_their_toleration_ends() {
        let at = |second: i64| Timestamp::from_second(1_767_225_600 + second).unwrap();
        let taint = |key: &str, added: i64| json!({"key": key, "effect": NO_EXECUTE, "timeAdded": at(added)});
        let tolerate = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": NO_EXECUTE, "tolerationSeconds": seconds});
        for (taints, tolerations, want) in [
            (json!([]), json!([]), Fate::Stays),
            (json!([taint("a", 100)]), json!([]), Fate::Leaves(at(100))),
            (json!([taint("a", -100)]), json!([]), Fate::Leaves(at(0))),
            (json!([taint("a", 100)]), json!([tolerate("a", None)]), Fate::Stays),
            (json!([taint("a", 100)]), json!([tolerate("a", Some(300))]), Fate::Leaves(at(400))),
            (json!([taint("a", -900)]), json!([tolerate("a", Some(300))]), Fate::Leaves(at(300))),
            (json!([taint("a", 100)]), json!([tolerate("a", Some(-5))]), Fate::Leaves(at(100))),
            (
                json!([taint("a", 100), taint("b", 150)]),
                json!([tolerate("a", Some(300)), tolerate("b", Some(10))]),
                Fate::Leaves(at(160)),
            ),
            (
                json!([taint("a", 100)]),
                json!([tolerate("a", Some(300)), tolerate("a", Some(20)), tolerate("a", None)]),
                Fate::Leaves(at(400)),
            ),
            (json!([taint("a", 100)]), json!([tolerate("b", None)]), Fate::Leaves(at(100))),
        ] {
            let (taints, tolerations): (Vec<Taint>, Vec<Toleration>) =
                (from::<Vec<Taint>>(Value::clone(&taints)), from(tolerations));
            assert_eq!(fate(&taints, &tolerations, at(0)), want, "{taints:?} {tolerations:?}");
        }
    }
}
