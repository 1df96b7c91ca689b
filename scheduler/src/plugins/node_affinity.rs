//! nodeSelector and node affinity: required terms filter, preferred ones score.

use coracle_client::node_affinity;

use crate::cache::NodeInfo;
use crate::framework::{ClusterEvent, CycleState, Plugin, Rejection, normalize};
use crate::pod::PodInfo;

pub struct NodeAffinity;

/// Whether the node is one that the pod's selector and required affinity allow.
pub fn allows(pod: &PodInfo, node: &NodeInfo) -> bool {
    node_affinity::allows(Some(&pod.node_selector), pod.affinity.as_ref(), &node.name, &node.labels)
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo, _state: &CycleState) -> Result<(), Rejection> {
        if allows(pod, node) {
            return Ok(());
        }
        Err(Rejection::unresolvable("node(s) didn't match Pod's node affinity/selector"))
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo, _state: &CycleState) -> i64 {
        let preferred = pod
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref())
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
        preferred
            .into_iter()
            .flatten()
            .filter(|p| node_affinity::matches_term(&p.preference, &node.name, &node.labels))
            .map(|p| i64::from(p.weight))
            .sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, false);
    }

    fn weight(&self) -> i64 {
        2
    }

    fn helps(&self, event: ClusterEvent) -> bool {
        matches!(event, ClusterEvent::Node(change) if change.added || change.labels)
            || event == ClusterEvent::PodChanged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn required(expressions: &str) -> String {
        format!(
            r#"{{"affinity":{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{expressions}]}}}}}}}}"#
        )
    }

    #[test]
    fn selectors_and_required_terms() {
        let node = NodeInfo {
            name: "n1".into(),
            labels: [("disk", "ssd"), ("cores", "8")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            ..NodeInfo::default()
        };
        let term = |key: &str, operator: &str, values: &str| {
            format!(
                r#"{{"matchExpressions":[{{"key":"{key}","operator":"{operator}","values":[{values}]}}]}}"#
            )
        };
        for (spec, want) in [
            (r#"{"nodeSelector":{"disk":"ssd"}}"#.to_owned(), true),
            (r#"{"nodeSelector":{"disk":"hdd"}}"#.to_owned(), false),
            (required(&term("disk", "In", r#""ssd","nvme""#)), true),
            (required(&term("disk", "NotIn", r#""ssd""#)), false),
            (required(&term("gpu", "DoesNotExist", "")), true),
            (required(&term("cores", "Gt", r#""4""#)), true),
            (required(&term("cores", "Lt", r#""4""#)), false),
            (required(&format!("{},{}", term("gpu", "Exists", ""), term("disk", "Exists", ""))), true),
            (required("{}"), false),
            (required(r#"{"matchFields":[{"key":"metadata.name","operator":"In","values":["n1"]}]}"#), true),
            (required(r#"{"matchFields":[{"key":"metadata.name","operator":"In","values":["n2"]}]}"#), false),
        ] {
            assert_eq!(allows(&pod(&spec), &node), want, "{spec}");
        }
    }

    #[test]
    fn preferences_add_up() {
        let spec = r#"{"affinity":{"nodeAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[
            {"weight":10,"preference":{"matchExpressions":[{"key":"disk","operator":"Exists"}]}},
            {"weight":5,"preference":{"matchExpressions":[{"key":"gpu","operator":"Exists"}]}}]}}}"#;
        let node = NodeInfo { labels: [("disk".to_owned(), "x".to_owned())].into(), ..NodeInfo::default() };
        assert_eq!(NodeAffinity.score(&pod(spec), &node, &CycleState::default()), 10);
    }
}
