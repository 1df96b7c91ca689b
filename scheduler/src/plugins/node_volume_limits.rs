//! NodeVolumeLimits: a node has no more volumes of a CSI driver than its CSINode says.

use crate::cache::{Cache, NodeInfo};
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection};
use crate::pod::PodInfo;

const TOO_MANY: &str = "node(s) exceed max volume count";

pub struct NodeVolumeLimits;

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn pre_filter(&self, pod: &PodInfo, cache: &Cache, state: &mut CycleState) -> Result<(), Rejection> {
        if !pod.load.claims.is_empty() {
            state.nodes_full = cache.volumes.nodes_full(pod, cache.nodes());
        }
        Ok(())
    }

    fn filter(&self, _pod: &PodInfo, node: &NodeInfo, state: &CycleState) -> Result<(), Rejection> {
        if state.nodes_full.contains(&node.name) { Err(Rejection::new(TOO_MANY)) } else { Ok(()) }
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        match event {
            ClusterEvent::Node(change) => change.added,
            ClusterEvent::PodRemoved | ClusterEvent::Claim | ClusterEvent::CsiNode => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_client::persistent_volumes::{BIND_COMPLETED, ClaimInfo, VolumeInfo};
    use serde_json::json;

    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn as_many_as_the_driver_says() {
        let mut cache = Cache::default();
        for name in ["a", "b"] {
            cache.set_node(&node(name, "4", "")).unwrap();
        }
        for n in ["1", "2", "3"] {
            let claim = json!({"metadata": {"name": format!("c{n}"), "namespace": "ns", "annotations": {BIND_COMPLETED: "yes"}},
                "spec": {"volumeName": format!("v{n}")}});
            let info = ClaimInfo::of(&serde_json::from_value(claim).unwrap());
            cache.volumes.set_claim(info.key.clone(), Some(info));
            let volume = json!({"metadata": {"name": format!("v{n}")}, "spec": {"csi": {"driver": "d.x", "volumeHandle": n}}});
            let info = VolumeInfo::of(&serde_json::from_value(volume).unwrap());
            cache.volumes.set_volume(&format!("v{n}"), Some(info));
        }
        let using = |uid: &str, claim: &str| {
            let spec = format!(
                r#"{{"containers":[],"volumes":[{{"name":"v","persistentVolumeClaim":{{"claimName":"{claim}"}}}}]}}"#
            );
            let mut pod = pod(&spec);
            pod.uid = uid.into();
            pod
        };
        let full = |cache: &Cache, pod: &PodInfo| {
            let mut state = CycleState::default();
            NodeVolumeLimits.pre_filter(pod, cache, &mut state).unwrap();
            cache.nodes().map(|n| NodeVolumeLimits.filter(pod, n, &state).is_err()).collect::<Vec<_>>()
        };
        cache.confirm(&using("p1", "c1"), "a");
        cache.confirm(&using("p2", "c2"), "a");
        assert_eq!(full(&cache, &using("p3", "c3")), [false, false], "no limit is known");
        cache.volumes.set_limits("a", [("d.x".to_owned(), 2)].into());
        assert_eq!(full(&cache, &using("p3", "c3")), [true, false]);
        assert_eq!(full(&cache, &using("p3", "c2")), [false, false], "it is there already");
        cache.volumes.set_limits("a", [("other".to_owned(), 0)].into());
        assert_eq!(full(&cache, &using("p3", "c3")), [false, false]);
    }
}
