//! VolumeZone: bound volumes that are labelled with a zone or a region are used there.

use crate::cache::{Cache, NodeInfo};
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection};
use crate::pod::PodInfo;

const ELSEWHERE: &str = "node(s) had no available volume zone";

/// The labels of today, and those from before they were stable.
const TOPOLOGY: &[(&str, &str)] = &[
    ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
];

pub struct VolumeZone;

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn pre_filter(&self, pod: &PodInfo, cache: &Cache, state: &mut CycleState) -> Result<(), Rejection> {
        for claim in &*pod.load.claims {
            let key = coracle_client::Key::new(&pod.load.namespace, &claim.name);
            let Some(claim) = cache.volumes.claim(&key).filter(|c| c.is_bound()) else { continue };
            let Some(volume) = cache.volumes.volume(&claim.volume_name) else { continue };
            for (stable, beta) in TOPOLOGY.iter().copied() {
                for label in [stable, beta] {
                    if let Some(values) = volume.labels.get(label) {
                        // One volume may be in several zones: `a__b`.
                        let values = values.split("__").map(str::to_owned).collect();
                        state.volume_zones.push((stable, beta, values));
                    }
                }
            }
        }
        Ok(())
    }

    fn filter(&self, _pod: &PodInfo, node: &NodeInfo, state: &CycleState) -> Result<(), Rejection> {
        if state.volume_zones.is_empty() {
            return Ok(());
        }
        let label = |name: &str| node.labels.get(name);
        let here = state.volume_zones.iter().all(|(stable, beta, values)| {
            label(stable).or_else(|| label(beta)).is_some_and(|value| values.contains(value))
        });
        // A node without any such label is of a cluster that has none.
        let placed = TOPOLOGY.iter().any(|(stable, beta)| label(stable).or_else(|| label(beta)).is_some());
        if here || !placed { Ok(()) } else { Err(Rejection::unresolvable(ELSEWHERE)) }
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        match event {
            ClusterEvent::Node(change) => change.added || change.labels,
            ClusterEvent::Claim | ClusterEvent::Volume | ClusterEvent::StorageClass => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::persistent_volumes::{BIND_COMPLETED, ClaimInfo, VolumeInfo};
    use serde_json::json;

    use super::*;
    use crate::testing::{labelled_node, pod};

    #[test]
    fn volumes_are_used_in_their_zone() {
        let mut cache = Cache::default();
        for (name, labels) in [
            ("a", r#","topology.kubernetes.io/zone":"z1""#),
            ("b", r#","topology.kubernetes.io/zone":"z2""#),
            ("old", r#","failure-domain.beta.kubernetes.io/zone":"z1""#),
            ("bare", ""),
        ] {
            cache.set_node(&labelled_node(name, "4", labels, "")).unwrap();
        }
        let claim = json!({"metadata": {"name": "data", "namespace": "ns", "annotations": {BIND_COMPLETED: "yes"}},
            "spec": {"volumeName": "v"}});
        let info = ClaimInfo::of(&serde_json::from_value(claim).unwrap());
        cache.volumes.set_claim(info.key.clone(), Some(info));
        let pod =
            pod(r#"{"containers":[],"volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"data"}}]}"#);
        for (zone, want) in [
            ("z1", [true, false, true, true]),
            ("z1__z2", [true, true, true, true]),
            ("z3", [false, false, false, true]),
        ] {
            let volume = json!({"metadata": {"name": "v", "labels": {"topology.kubernetes.io/zone": zone}}});
            cache.volumes.set_volume("v", Some(VolumeInfo::of(&serde_json::from_value(volume).unwrap())));
            let mut state = CycleState::default();
            VolumeZone.pre_filter(&pod, &cache, &mut state).unwrap();
            let got: Vec<bool> = cache.nodes().map(|n| VolumeZone.filter(&pod, n, &state).is_ok()).collect();
            assert_eq!(got, want, "{zone}");
        }
    }
}
