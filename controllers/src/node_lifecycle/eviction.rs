//! Taint eviction: pods leave nodes with NoExecute taints that they do not tolerate, or no longer do.

use std::collections::HashMap;
use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::events::{EventRecorder, EventType};
use coracle_client::tolerations::{NO_EXECUTE, tolerates};
use coracle_client::{ApiError, Change, Client, DeleteOptions, Informer, Key, Object, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use crate::context::Context;
use crate::pods;
use crate::steady::{Beginnings, Now};

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
    /// Pods that wait for their time, and since when: their taints. Bounded by the pods.
    scheduled: Mutex<HashMap<Key, Begun>>,
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

/// By the pod's uid and the taint's key.
type Begun = Beginnings<(String, String)>;

/// A taint counts from when it was added, for a pod that came later from then on.
fn began(taints: &[Taint], pod: &Pod, before: Option<&Begun>, now: Now) -> Begun {
    let (uid, since) = (pod.metadata.uid.clone().unwrap_or_default(), bound_since(pod));
    let dated = taints.iter().map(|taint| {
        let added = taint.time_added.as_ref().map_or(since, |added| added.0.max(since));
        ((uid.clone(), taint.key.clone()), Some(added))
    });
    Begun::of(before, dated, now)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Leaves(Instant),
}

/// When the pod has to leave: at the earliest end of what it tolerates of the taints, each with its beginning.
fn fate<'a>(taints: impl Iterator<Item = (&'a Taint, Instant)>, tolerations: &[Toleration]) -> Fate {
    let mut leaves: Option<Instant> = None;
    for (taint, begins) in taints {
        // Of several that tolerate it the first counts, as upstream.
        let ends = match tolerations.iter().find(|t| tolerates(t, taint)) {
            None => begins,
            Some(toleration) => {
                let Some(seconds) = toleration.toleration_seconds else { continue };
                let tolerated = Duration::from_secs(seconds.max(0).unsigned_abs());
                // Longer than any clock runs: for ever.
                let Some(ends) = begins.checked_add(tolerated) else { continue };
                ends
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
        let before = self.scheduled.lock().get(key).cloned();
        if taints.is_empty() && before.is_none() {
            return Ok(Outcome::Done);
        }
        let pod: Pod = object.decode()?;
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
        let now = Now::read();
        let began = began(&taints, &pod, before.as_ref(), now);
        match fate(taints.iter().zip(began.moments()), tolerations) {
            Fate::Stays => {
                if self.scheduled.lock().remove(key).is_some() {
                    let message = format!("Cancelling deletion of Pod {key}");
                    self.events.event(&pod, EventType::Normal, "TaintManagerEviction", message);
                }
                Ok(Outcome::Done)
            }
            Fate::Leaves(at) if at > now.steady => {
                self.scheduled.lock().insert(key.clone(), began);
                Ok(Outcome::After(at - now.steady))
            }
            Fate::Leaves(_) => {
                let message = format!("Marking for deletion Pod {key}");
                self.events.event(&pod, EventType::Normal, "TaintManagerEviction", message);
                self.evict(key, pod, now.wall).await?;
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
    use std::sync::LazyLock;

    use serde_json::{Value, json};

    use super::*;
    use crate::testing::from;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).unwrap()
    }

    fn taint(key: &str, added: i64) -> Value {
        json!({"key": key, "effect": NO_EXECUTE, "timeAdded": at(added)})
    }

    fn tolerate(key: &str, seconds: Option<i64>) -> Value {
        json!({"key": key, "operator": "Exists", "effect": NO_EXECUTE, "tolerationSeconds": seconds})
    }

    /// A moment on the steady clock, as the wall clock had it that nobody had set.
    fn steady(second: i64) -> Instant {
        static BEGIN: LazyLock<Instant> = LazyLock::new(|| Instant::now() + Duration::from_secs(100_000));
        match u64::try_from(second) {
            Ok(after) => *BEGIN + Duration::from_secs(after),
            Err(_) => *BEGIN - Duration::from_secs(second.unsigned_abs()),
        }
    }

    /// Made at second 0.
    fn pod(uid: &str) -> Pod {
        from(json!({"metadata": {"name": "p", "uid": uid, "creationTimestamp": at(0)}}))
    }

    #[test]
    fn pods_leave_when_their_toleration_ends() {
        let leaves = |second: i64| Fate::Leaves(steady(second));
        for (taints, tolerations, want) in [
            (json!([]), json!([]), Fate::Stays),
            (json!([taint("a", 100)]), json!([]), leaves(100)),
            (json!([taint("a", -100)]), json!([]), leaves(0)),
            (json!([taint("a", 100)]), json!([tolerate("a", None)]), Fate::Stays),
            (json!([taint("a", 100)]), json!([tolerate("a", Some(300))]), leaves(400)),
            (json!([taint("a", 100)]), json!([tolerate("a", Some(i64::MAX))]), Fate::Stays),
            (json!([taint("a", -900)]), json!([tolerate("a", Some(300))]), leaves(300)),
            (json!([taint("a", 100)]), json!([tolerate("a", Some(-5))]), leaves(100)),
            (
                json!([taint("a", 100), taint("b", 150)]),
                json!([tolerate("a", Some(300)), tolerate("b", Some(10))]),
                leaves(160),
            ),
            (
                json!([taint("a", 100)]),
                json!([tolerate("a", Some(300)), tolerate("a", Some(20)), tolerate("a", None)]),
                leaves(400),
            ),
            (json!([taint("a", 100)]), json!([tolerate("b", None)]), leaves(100)),
        ] {
            let (taints, tolerations): (Vec<Taint>, Vec<Toleration>) =
                (from::<Vec<Taint>>(Value::clone(&taints)), from(tolerations));
            let now = Now { wall: at(200), steady: steady(200) };
            let began = began(&taints, &pod("u"), None, now);
            let found = fate(taints.iter().zip(began.moments()), &tolerations);
            assert_eq!(found, want, "{taints:?} {tolerations:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_neither_evicts_nor_holds_back() {
        let taints: Vec<Taint> = from(json!([taint("a", 100)]));
        let tolerations: Vec<Toleration> = from(json!([tolerate("a", Some(300))]));
        // Looks at these seconds, with the wall clock set by so many; when the pod leaves.
        for (looks, leaves) in [
            (&[(100, 0), (399, 0)][..], 400),
            (&[(100, 0), (110, 7200), (399, 7200)], 400),
            (&[(100, 0), (110, -7200), (399, -7200)], 400),
            (&[(100, 0), (110, 90), (120, -5), (399, 7200)], 400),
            // Set back before the first look: the toleration is counted from that.
            (&[(110, -7200), (120, -7200)], 410),
            // What a process does not know that comes after the clock was set: for that the taint is old.
            (&[(110, 7200)], 100 + 300 - 7200),
        ] {
            let mut known: Option<Begun> = None;
            let mut found = Fate::Stays;
            for (second, set) in looks {
                let now = Now { wall: at(second + set), steady: steady(*second) };
                let began = began(&taints, &pod("u"), known.as_ref(), now);
                found = fate(taints.iter().zip(began.moments()), &tolerations);
                known = Some(began);
            }
            assert_eq!(found, Fate::Leaves(steady(leaves)), "{looks:?}");
            // Another pod of the name has its own time.
            let other =
                began(&taints, &pod("other"), known.as_ref(), Now { wall: at(0), steady: steady(900) });
            assert_eq!(fate(taints.iter().zip(other.moments()), &tolerations), Fate::Leaves(steady(1200)));
        }
    }
}
