//! Two pods cannot have the same port of a node.

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection};
use crate::pod::PodInfo;

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _state: &CycleState) -> Result<(), Rejection> {
        if pod.load.host_ports.is_empty() {
            return Ok(());
        }
        let taken = node
            .pods
            .values()
            .flat_map(|load| &load.host_ports)
            .any(|used| pod.load.host_ports.iter().any(|wanted| wanted.conflicts_with(used)));
        if taken {
            return Err(Rejection::new("node(s) didn't have free ports for the requested pod ports"));
        }
        Ok(())
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::Node(change) if change.added) || event == ClusterEvent::PodRemoved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn a_taken_port_rejects() {
        let spec = |port: u16| {
            format!(r#"{{"containers":[{{"name":"c","ports":[{{"containerPort":80,"hostPort":{port}}}]}}]}}"#)
        };
        let node = NodeInfo { pods: [("a".into(), pod(&spec(80)).load)].into(), ..NodeInfo::default() };
        for (port, want) in [(80, false), (81, true)] {
            assert_eq!(NodePorts.filter(&pod(&spec(port)), &node, &CycleState::default()).is_ok(), want);
        }
    }
}
