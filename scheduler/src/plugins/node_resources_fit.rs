//! A pod fits where what it asks for is free; among those, the emptier node scores higher.

use std::borrow::Cow;

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection, SCORE_MAX};
use crate::pod::PodInfo;

pub struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _state: &CycleState) -> Result<(), Rejection> {
        let (asked, have, taken) = (&pod.load.requests, &node.allocatable, &node.requested);
        let count = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
        let mut reasons: Vec<Cow<'static, str>> = Vec::new();
        if count + 1 > node.pods_max {
            reasons.push("Too many pods".into());
        }
        for (asked, have, taken, reason) in [
            (asked.milli_cpu, have.milli_cpu, taken.milli_cpu, "Insufficient cpu"),
            (asked.memory, have.memory, taken.memory, "Insufficient memory"),
            (
                asked.ephemeral_storage,
                have.ephemeral_storage,
                taken.ephemeral_storage,
                "Insufficient ephemeral-storage",
            ),
        ] {
            if asked > 0 && asked > have - taken {
                reasons.push(reason.into());
            }
        }
        for (name, amount) in asked.scalar.iter().filter(|(_, amount)| **amount > 0) {
            let have = have.scalar.get(name).copied().unwrap_or(0);
            let taken = taken.scalar.get(name).copied().unwrap_or(0);
            if *amount > have - taken {
                reasons.push(format!("Insufficient {name}").into());
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(Rejection { reasons, unresolvable: false }) }
    }

    /// Upstream's LeastAllocated over cpu and memory.
    fn score(&self, pod: &PodInfo, node: &NodeInfo, _state: &CycleState) -> i64 {
        let free = |asked: i64, taken: i64, have: i64| {
            let after = asked + taken;
            if have == 0 || after > have { 0 } else { (have - after) * SCORE_MAX / have }
        };
        let cpu = free(pod.load.scored.0, node.scored.0, node.allocatable.milli_cpu);
        let memory = free(pod.load.scored.1, node.scored.1, node.allocatable.memory);
        i64::midpoint(cpu, memory)
    }

    fn weight(&self) -> i64 {
        1
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::Node(change) if change.added || change.allocatable)
            || matches!(event, ClusterEvent::PodRemoved | ClusterEvent::PodChanged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::Resources;
    use crate::testing::pod;

    #[test]
    fn what_is_missing_is_named() {
        let node = NodeInfo {
            allocatable: Resources { milli_cpu: 1000, memory: 1 << 30, ..Resources::default() },
            requested: Resources { milli_cpu: 600, ..Resources::default() },
            pods_max: 10,
            ..NodeInfo::default()
        };
        let asks = |resources: &str| {
            format!(r#"{{"containers":[{{"name":"c","resources":{{"requests":{{{resources}}}}}}}]}}"#)
        };
        for (resources, want) in [
            (r#""cpu":"400m""#, vec![]),
            (r#""cpu":"500m""#, vec!["Insufficient cpu"]),
            (r#""cpu":"500m","memory":"2Gi""#, vec!["Insufficient cpu", "Insufficient memory"]),
            (r#""example.com/gpu":"1""#, vec!["Insufficient example.com/gpu"]),
            ("", vec![]),
        ] {
            let got = NodeResourcesFit.filter(&pod(&asks(resources)), &node, &CycleState::default());
            let reasons = got.err().map(|r| r.reasons).unwrap_or_default();
            assert_eq!(reasons, want, "{resources}");
        }
        let full = NodeInfo { pods_max: 0, ..NodeInfo::default() };
        let rejected = NodeResourcesFit.filter(&pod("{}"), &full, &CycleState::default()).unwrap_err();
        assert_eq!(rejected.reasons, ["Too many pods"]);
    }

    #[test]
    fn emptier_is_better() {
        let node = |taken| NodeInfo {
            allocatable: Resources { milli_cpu: 1000, memory: 1 << 30, ..Resources::default() },
            scored: (taken, 0),
            ..NodeInfo::default()
        };
        let pod = pod(r#"{"containers":[{"name":"c"}]}"#);
        let score = |taken| NodeResourcesFit.score(&pod, &node(taken), &CycleState::default());
        assert!(score(0) > score(500));
        assert!(score(500) > score(2000));
    }
}
