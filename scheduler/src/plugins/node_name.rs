//! A pod that names its node goes nowhere else.

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection};
use crate::pod::PodInfo;

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _state: &CycleState) -> Result<(), Rejection> {
        match &pod.node_name {
            Some(name) if *name != node.name => {
                Err(Rejection::unresolvable("node(s) didn't match the requested node name"))
            }
            _ => Ok(()),
        }
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::Node(change) if change.added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn only_the_named_node_passes() {
        let node = NodeInfo { name: "a".into(), ..NodeInfo::default() };
        for (spec, want) in [("{}", true), (r#"{"nodeName":"a"}"#, true), (r#"{"nodeName":"b"}"#, false)] {
            assert_eq!(NodeName.filter(&pod(spec), &node, &CycleState::default()).is_ok(), want, "{spec}");
        }
    }
}
