//! Keeps pods off cordoned nodes, unless they tolerate that.

use coracle_client::tolerations::tolerates;
use k8s_openapi::api::core::v1::Taint;

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection};
use crate::pod::PodInfo;

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _state: &CycleState) -> Result<(), Rejection> {
        if !node.unschedulable {
            return Ok(());
        }
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        if pod.tolerations.iter().any(|t| tolerates(t, &taint)) {
            return Ok(());
        }
        Err(Rejection::unresolvable("node(s) were unschedulable"))
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::Node(change) if change.added || change.taints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn cordoned_nodes_take_only_what_tolerates_it() {
        let node = NodeInfo { unschedulable: true, ..NodeInfo::default() };
        let tolerant = r#"{"tolerations":[{"key":"node.kubernetes.io/unschedulable","operator":"Exists"}]}"#;
        for (spec, unschedulable, want) in [("{}", true, false), ("{}", false, true), (tolerant, true, true)]
        {
            let node = NodeInfo { unschedulable, ..NodeInfo::default() };
            assert_eq!(
                NodeUnschedulable.filter(&pod(spec), &node, &CycleState::default()).is_ok(),
                want,
                "{spec}"
            );
        }
        assert!(
            NodeUnschedulable.filter(&pod("{}"), &node, &CycleState::default()).unwrap_err().unresolvable
        );
    }
}
