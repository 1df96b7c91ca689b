//! VolumeRestrictions: a ReadWriteOncePod claim has one pod in the whole cluster.

use coracle_client::Key;

use crate::cache::{Cache, NodeInfo};
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection};
use crate::pod::PodInfo;

const IN_USE: &str =
    "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";

pub struct VolumeRestrictions;

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn pre_filter(&self, pod: &PodInfo, cache: &Cache, state: &mut CycleState) -> Result<(), Rejection> {
        state.claim_in_use = pod.load.claims.iter().any(|claim| {
            let key = Key::new(&pod.load.namespace, &claim.name);
            let exclusive = cache.volumes.claim(&key).is_some_and(|c| c.is_exclusive());
            exclusive && cache.volumes.used_by_another(&key, &pod.uid)
        });
        Ok(())
    }

    fn filter(&self, _pod: &PodInfo, _node: &NodeInfo, state: &CycleState) -> Result<(), Rejection> {
        if state.claim_in_use { Err(Rejection::new(IN_USE)) } else { Ok(()) }
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::PodRemoved | ClusterEvent::Claim)
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::persistent_volumes::ClaimInfo;
    use serde_json::json;

    use super::*;
    use crate::testing::pod;

    #[test]
    fn one_pod_at_a_time() {
        let spec =
            r#"{"containers":[],"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"data"}}]}"#;
        for (mode, want) in [("ReadWriteOncePod", true), ("ReadWriteOnce", false)] {
            let mut cache = Cache::default();
            let claim =
                json!({"metadata": {"name": "data", "namespace": "ns"}, "spec": {"accessModes": [mode]}});
            let info = ClaimInfo::of(&serde_json::from_value(claim).unwrap());
            cache.volumes.set_claim(info.key.clone(), Some(info));
            let mut first = pod(spec);
            first.uid = "first".into();
            cache.confirm(&first, "n");
            let in_use = |cache: &Cache, pod: &PodInfo| {
                let mut state = CycleState::default();
                VolumeRestrictions.pre_filter(pod, cache, &mut state).unwrap();
                VolumeRestrictions.filter(pod, &NodeInfo::default(), &state).is_err()
            };
            assert_eq!(in_use(&cache, &pod(spec)), want, "{mode}");
            assert!(!in_use(&cache, &first), "it is itself");
            cache.remove("first");
            assert!(!in_use(&cache, &pod(spec)));
        }
    }
}
