//! Prefers nodes on which cpu and memory are used in like shares.

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, CycleState, Plugin, SCORE_MAX};
use crate::pod::PodInfo;

pub struct BalancedAllocation;

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "shares between 0 and 1")]
    fn score(&self, pod: &PodInfo, node: &NodeInfo, _state: &CycleState) -> i64 {
        let share =
            |amount: i64, have: i64| if have == 0 { 1.0 } else { (amount as f64 / have as f64).min(1.0) };
        let cpu = share(pod.load.requests.milli_cpu + node.requested.milli_cpu, node.allocatable.milli_cpu);
        let memory = share(pod.load.requests.memory + node.requested.memory, node.allocatable.memory);
        // The standard deviation of two values is half their difference.
        ((1.0 - (cpu - memory).abs() / 2.0) * SCORE_MAX as f64) as i64
    }

    fn weight(&self) -> i64 {
        1
    }

    fn helps(&self, _event: ClusterEvent) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;
    use crate::testing::pod;

    #[test]
    fn like_shares_score_highest() {
        let node = |cpu, memory| NodeInfo {
            allocatable: Resources { milli_cpu: 1000, memory: 1000, ..Resources::default() },
            requested: Resources { milli_cpu: cpu, memory, ..Resources::default() },
            ..NodeInfo::default()
        };
        let pod = pod(r#"{"containers":[]}"#);
        let score = |cpu, memory| BalancedAllocation.score(&pod, &node(cpu, memory), &CycleState::default());
        for ((cpu, memory), want) in [((500, 500), 100), ((1000, 0), 50), ((600, 200), 80), ((0, 0), 100)] {
            assert_eq!(score(cpu, memory), want, "{cpu} {memory}");
        }
    }
}
