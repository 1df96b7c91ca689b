//! Takes back the DisruptionTarget condition of pods that were to be evicted and were not.

use std::time::Duration;

use coracle_client::controller::{Outcome, Reconciler};
use coracle_client::{ApiError, Client, Informer, Key, Object, PatchType};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

/// How long such a pod may stay without being deleted.
const TIMEOUT: Duration = Duration::from_secs(120);
const CONDITION: &str = "DisruptionTarget";

pub struct Stale {
    pub client: Client,
    pub pods: Informer,
}

/// Whether the pod may have the condition, without decoding it.
pub fn suspicious(pod: &Object) -> bool {
    !pod.head.deleting && std::str::from_utf8(&pod.json).is_ok_and(|json| json.contains(CONDITION))
}

/// How long until the condition counts as stale. None: it never will.
fn left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let status = pod.status.as_ref()?;
    let condition = status.conditions.iter().flatten().find(|c| c.type_ == CONDITION)?;
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    // What the node announces may take as long as it likes.
    let by_node = condition.reason.as_deref() == Some("TerminationByKubelet");
    if pod.metadata.deletion_timestamp.is_some() || condition.status != "True" || over || by_node {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Some(TIMEOUT.saturating_sub(Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO)))
}

impl Reconciler for Stale {
    type Key = Key;
    type Error = ApiError;

    fn name(&self) -> &'static str {
        "disruption-controller (stale conditions)"
    }

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ApiError> {
        let Some(object) = self.pods.get_key(key) else { return Ok(Outcome::Done) };
        let now = Timestamp::now();
        match left(&object.decode()?, now) {
            None => return Ok(Outcome::Done),
            Some(left) if !left.is_zero() => return Ok(Outcome::After(left)),
            Some(_) => {}
        }
        let patch = json!({
            "metadata": {"uid": object.head.uid, "resourceVersion": object.head.resource_version.to_string()},
            "status": {"conditions": [{"type": CONDITION, "status": "False", "reason": null, "message": null,
                "lastTransitionTime": now}]},
        });
        let (namespace, name) = (&key.namespace, &key.name);
        match self.client.patch::<Pod>(namespace, name, Some("status"), PatchType::Strategic, &patch).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Outcome::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_conditions_of_pods_that_stay_go_stale() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let pod = |phase: &str, status: &str, reason: &str, ago: i64, deleting: bool| -> Pod {
            let time = Timestamp::from_second(1_000_000 - ago).unwrap();
            let mut value = json!({"metadata": {"name": "p"}, "status": {"phase": phase, "conditions":
                [{"type": CONDITION, "status": status, "reason": reason, "lastTransitionTime": time}]}});
            if deleting {
                value["metadata"]["deletionTimestamp"] = json!(now);
            }
            serde_json::from_value(value).unwrap()
        };
        let evicted = "EvictionByEvictionAPI";
        for (pod, want) in [
            (pod("Running", "True", evicted, 20, false), Some(100)),
            (pod("Running", "True", evicted, 300, false), Some(0)),
            (pod("Running", "False", evicted, 300, false), None),
            (pod("Running", "True", "TerminationByKubelet", 300, false), None),
            (pod("Running", "True", evicted, 300, true), None),
            (pod("Failed", "True", evicted, 300, false), None),
            (Pod::default(), None),
        ] {
            assert_eq!(left(&pod, now).map(|left| left.as_secs()), want, "{pod:?}");
        }
    }
}
